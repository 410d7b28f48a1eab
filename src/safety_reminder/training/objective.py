"""The objective of one sample: after a random cut and the reminder, what must follow, and what the probe must say."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from safety_reminder.guard.context import Context
from safety_reminder.training.examples import TrainingExample


@dataclass(frozen=True)
class Cut:
    """Keep ``tokens`` of the answer; then ``target`` must follow, and the probe must say ``unsafe``."""

    tokens: int
    target: tuple[int, ...]
    unsafe: bool


def draw_cut(
    example: TrainingExample,
    answer: Sequence[int],
    refusal: Sequence[int],
    rng: random.Random,
    *,
    empty_prob: float,
    target_tokens: int,
) -> Cut:
    """A random cut: with ``empty_prob`` nothing is kept, else any number of tokens that leaves one to predict.

    Args:
        answer: the answer's tokens, with its end-of-sequence token where it ends.
        refusal: likewise of the refusal.
        target_tokens: of a safe answer, predict at most this many.
    """
    declines = example.safe and example.harmful_prompt
    if not declines and (rng.random() < empty_prob or len(answer) < 2):
        tokens = 0
    else:
        first = min(4, len(answer) - 1) if declines else 1
        tokens = rng.randrange(first, len(answer)) if len(answer) > first else max(0, len(answer) - 1)
    if example.safe:
        return Cut(tokens, tuple(answer[tokens : tokens + target_tokens]), unsafe=False)
    return Cut(tokens, tuple(refusal), unsafe=True)


def checkpoints(example: TrainingExample, answer: Sequence[int], interval: int) -> list[Cut]:
    """The cuts at which decoding would check this answer: after 0, ``interval``, ... tokens. Nothing follows them."""
    declines = example.safe and example.harmful_prompt
    # A refusal is shorter than an interval; it is looked at once, where it has become one.
    places = [min(8, len(answer) - 1)] if declines else range(0, len(answer), interval)
    return [Cut(tokens, tuple(answer[tokens : tokens + 1]), unsafe=not example.safe) for tokens in places]


def losses(
    context: Context, cut: Cut, vectors: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Language-model loss, probe loss (both scalars, float32) and the hidden state (hidden_size,) the probe read."""
    context.keep(cut.tokens)
    logits, hidden = context.follow(vectors, cut.target)
    target = torch.tensor(cut.target, device=logits.device)
    language = F.cross_entropy(logits.float(), target)
    logit = hidden.float() @ weight + bias
    verdict = F.binary_cross_entropy_with_logits(logit, torch.tensor(float(cut.unsafe), device=logit.device))
    return language, verdict, hidden
