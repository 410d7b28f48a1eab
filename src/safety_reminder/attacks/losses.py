"""How far the model is from what an attack wants it to write."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from safety_reminder.attacks.prompts import Prompts
from safety_reminder.errors import ConfigError
from safety_reminder.models import VLM


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


def require_room(vlm: VLM, prompts: Prompts, targets: Sequence[Sequence[int]]) -> None:
    """Raises: ConfigError: nothing to aim at, or too long."""
    if not targets:
        raise ConfigError("there are no requests to attack; the data set, or its training split, is empty")
    longest = getattr(vlm.model.config.get_text_config(), "max_position_embeddings", None)
    for number, (ids, target) in enumerate(zip(prompts.ids, targets, strict=True), 1):
        if not target:
            raise ConfigError(f"the target of request {number} has no tokens")
        if longest is not None and len(ids) + len(target) > longest:
            raise ConfigError(
                f"request {number} and its target have {len(ids) + len(target)} tokens, but {vlm.name} reads "
                f"{longest}; shorten the target"
            )
