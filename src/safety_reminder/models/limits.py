"""How many tokens a model reads."""

from __future__ import annotations

from typing import Any


def most_positions(model: Any) -> int | None:
    """``max_position_embeddings``, times the factor of a position scaling that counts it from the model's first length;
    None where the configuration names none."""
    config = model.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    factor = rope.get("factor")
    if rope.get("rope_type") in ("linear", "dynamic", "yarn") and isinstance(factor, int | float):
        first = rope.get("original_max_position_embeddings") or most
        most = max(most, int(first * factor))
    return most
