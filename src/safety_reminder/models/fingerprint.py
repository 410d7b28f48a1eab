"""Telling a pack's base model from another: a few random projections of its weights.

Exact hashes would differ between bfloat16 and float32 copies of the same weights. A projection of a weight matrix on
random signs has the size of its norm, changes by that share of it that the weights change, and hardly with rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

_ELEMENTS = 1 << 16
_SIGNS = 8
_TOLERANCE = 0.02  # of the norm; bfloat16 rounding moves a projection by about 0.002


def fingerprint(model: PreTrainedModel) -> dict[str, Any]:
    """``{"architecture", "parameters", "projections": {name: [norm, p1, ..., p8]}}`` of the decoder's weights."""
    return {
        "architecture": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "projections": {name: _project(weight) for name, weight in _chosen(model).items()},
    }


def fingerprint_mismatch(stored: dict[str, Any], model: PreTrainedModel) -> str | None:
    """Why ``model`` is not the one with the fingerprint ``stored``; None if it is, or if nothing was stored."""
    if not stored:
        return None
    found = fingerprint(model)
    for key in ("architecture", "parameters"):
        if stored.get(key) != found[key]:
            return f"its {key} should be {stored.get(key)}, found {found[key]}"
    for name, expected in stored["projections"].items():
        actual = found["projections"].get(name)
        if actual is None:
            return f"it has no weight {name}"
        if max(abs(a - b) for a, b in zip(expected, actual, strict=True)) > _TOLERANCE * expected[0]:
            return f"its weights differ ({name})"
    return None


def _chosen(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The embedding and, of the decoder, the matrices of a middle and of the last layer."""
    names = [n for n, p in model.named_parameters() if p.ndim == 2 and "vision" not in n and "visual" not in n]
    chosen = {names[0], names[len(names) // 2], names[-1]}
    return {n: p for n, p in model.named_parameters() if n in chosen}


def _project(weight: torch.Tensor) -> list[float]:
    values = weight.detach().flatten()[:_ELEMENTS].float().cpu()
    signs = torch.randint(0, 2, (_SIGNS, values.numel()), generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    return [round(float(v), 6) for v in [values.norm(), *(signs @ values)]]
