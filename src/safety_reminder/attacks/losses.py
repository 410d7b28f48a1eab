"""How far the model is from what an attack wants it to write."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def target_loss(
    logits: Float[Tensor, "tokens vocabulary"], target: Sequence[int], *, first_weight: float = 0.0
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of the target's tokens, in nats, and ``first_weight`` times that of the first one:
    an answer that begins otherwise never comes to the rest.

    Args:
        logits: what the model predicts in the place of each token.
    """
    losses = F.cross_entropy(logits.float(), torch.tensor(list(target), device=logits.device), reduction="none")
    return losses.mean() + first_weight * losses[0]
