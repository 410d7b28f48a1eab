"""Telling a pack's base model from another: a few random projections of its weights.

Exact hashes would differ between bfloat16 and float32 copies of the same weights. A projection of a weight matrix on
random signs is about as large as its norm, changes by the same share of it as the weights, and hardly with rounding.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import FiniteFloat
from transformers import PreTrainedModel

from safety_reminder.config.options import Field, Options
from safety_reminder.errors import ConfigError
from safety_reminder.models.embedding import embedding_weight

_ELEMENTS = 1 << 16
_SIGNS = 8
_SAMPLE = 1 << 10
# Of the norm. A projection moves, in the root mean square, by as much of it as the weights do. By rounding to bfloat16
# that is about 0.0018, and over as few as eight signs 0.004 is seen once in a million matrices.
ROUNDING = 0.004
_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


def fingerprint(model: PreTrainedModel) -> dict[str, Any]:
    """``{"architecture", "parameters", "projections": {name: [norm, p1, ..., p8]}}`` of the decoder's weights."""
    return {
        "architecture": type(model).__name__,
        "parameters": _count(model),
        "projections": {name: _project(weight) for name, weight in _chosen(model).items()},
    }


def weights_digest(model: PreTrainedModel) -> str:
    """12 hex digits of the :func:`fingerprint`, coarse enough that another machine, which sums in another order, finds
    the same (in all but about one in a hundred)."""
    full = fingerprint(model)
    coarse = {name: [f"{value:.3e}" for value in values] for name, values in full["projections"].items()}
    return hashlib.sha256(json.dumps({**full, "projections": coarse}, sort_keys=True).encode()).hexdigest()[:12]


class Fingerprint(Options):
    """A :func:`fingerprint` that was kept, and can be compared."""

    architecture: Annotated[str, Field(min_length=1)]
    parameters: Annotated[int, Field(ge=1)]
    projections: Annotated[
        dict[str, Annotated[list[FiniteFloat], Field(min_length=1 + _SIGNS, max_length=1 + _SIGNS)]],
        Field(min_length=1),
    ]


def fingerprint_mismatch(stored: dict[str, Any], model: PreTrainedModel, *, tolerance: float = ROUNDING) -> str | None:
    """Why ``model`` is not the one with the fingerprint ``stored``; None if it is, or if nothing was stored.

    Weights are the same if none of the matrices looked at has moved by more than ``tolerance`` of its norm, as far as
    its projections show. What moves them less than rounding to bfloat16 does, as light fine-tuning can, goes unnoticed.
    What was stored and cannot be compared is a mismatch.
    """
    if stored == {}:
        return None
    try:
        kept = Fingerprint.parse(stored if isinstance(stored, Mapping) else {}, "fingerprint")
    except ConfigError as error:
        return f"what it was trained for cannot be told ({error})"
    for key, actual in (("architecture", type(model).__name__), ("parameters", _count(model))):
        if getattr(kept, key) != actual:
            return f"its {key} should be {getattr(kept, key)}, found {actual}"
    weights = _chosen(model)
    for name in kept.projections:
        if name not in weights:
            return f"it has no weight {name}"
    for name, weight in weights.items():
        if name not in kept.projections:
            return f"nothing is known of its weight {name}"
        expected, actual = kept.projections[name], _project(weight)
        norm, *moved = [a - b for a, b in zip(expected, actual, strict=True)]
        furthest = max(abs(norm), math.sqrt(sum(m * m for m in moved) / len(moved)))
        if not furthest <= tolerance * actual[0]:  # nor NaN
            return f"its weights differ ({name})"
    return None


def sampled_digest(model: PreTrainedModel) -> str:
    """SHA-256 of the beginning of every weight, vision tower and projector included, in float32: tells apart models
    whose :func:`fingerprint`, which is of the decoder, is the same."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        values = parameter.detach().flatten()[:_SAMPLE].float().cpu().contiguous()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + values.numpy().tobytes())
    return digest.hexdigest()


def _chosen(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The embedding, and the matrices of a middle layer and the last layer of the decoder."""
    matrices = {n: p for n, p in model.named_parameters() if p.ndim >= 2 and "vision" not in n and "visual" not in n}
    layers = {n: int(match[1]) for n in matrices if (match := _LAYER.search(n))}
    last = max(layers.values(), default=0)
    embedding = embedding_weight(model)
    return {n: p for n, p in matrices.items() if p is embedding or layers.get(n) in (last // 2, last)}


def _count(model: PreTrainedModel) -> int:
    return sum(p.numel() for p in model.parameters())


def _project(weight: torch.Tensor) -> list[float]:
    values = weight.detach().flatten()[:_ELEMENTS].float().cpu()
    signs = torch.randint(0, 2, (_SIGNS, values.numel()), generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    return [round(float(v), 6) for v in [values.norm(), *(signs @ values)]]
