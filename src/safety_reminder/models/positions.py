"""Where the reminder goes. Training and inference both ask here, so they cannot drift apart.

The rule: the reminder follows the last answer token that is not an end-of-sequence token, and its vectors take the
next positions of the model's own counting. What comes after it (a refusal, or the rest) counts on from there.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def next_positions(last: Int[Tensor, "*axes rows 1"], count: int) -> Int[Tensor, "*axes rows {count}"]:
    """Positions of the ``count`` entries that follow, given those of the last one.

    Args:
        last: (..., batch, 1) positions of the newest entry; the leading axes are M-RoPE's, where the model has them.
        count: how many entries follow (reminder vectors or text tokens: both advance every axis by one).

    Returns:
        (..., batch, count).
    """
    return last + torch.arange(1, count + 1, device=last.device, dtype=last.dtype)
