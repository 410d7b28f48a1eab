"""The objective of one sample: after a random cut and the reminder, what must follow, and what the probe must say."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from safety_reminder.guard.context import Prefix, follow
from safety_reminder.guard.placement import checkable
from safety_reminder.types import TrainingExample


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
    correction: Sequence[int],
    rng: random.Random,
    *,
    empty_prob: float,
    target_tokens: int,
) -> Cut:
    """A random cut: with ``empty_prob`` nothing is kept, else any number of tokens that leaves one to predict.

    Args:
        answer: the tokens of ``example.answer``, with its end-of-sequence token where it ends; none, if the row has no
            unsafe answer.
        refusal: likewise of the refusal, as the whole answer. correction: of the refusal behind other text.
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
    return Cut(tokens, tuple(correction if tokens else refusal), unsafe=True)


def checkpoints(example: TrainingExample, answer: Sequence[int], interval: int, eos_ids: Collection[int]) -> list[Cut]:
    """The cuts at which decoding would check this answer: after 0, ``interval``, ... tokens, and at its end."""
    declines = example.safe and example.harmful_prompt
    end = len(checkable(answer, eos_ids))
    # A refusal is shorter than an interval; it is looked at where it has become one, and at its end.
    places = {min(8, end)} if declines else {0, *range(0, len(answer), interval)}
    if end < len(answer):
        places.add(end)
    # Nothing is predicted from them: any one token will do as the target.
    return [Cut(tokens, (0,), unsafe=not example.safe) for tokens in sorted(places)]


def losses(
    model: Any,
    places: Sequence[tuple[Prefix, Cut]],
    vectors: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every place, in one forward pass: language-model loss and probe loss, (places,) each, float32."""
    logits, hidden = follow(model, [(p, c.tokens) for p, c in places], vectors, [c.target for _, c in places])
    device = hidden.device
    language = torch.stack(
        [
            F.cross_entropy(each.float(), torch.tensor(cut.target, device=device))
            for each, (_, cut) in zip(logits, places, strict=True)
        ]
    )
    unsafe = torch.tensor([float(cut.unsafe) for _, cut in places], device=device)
    verdict = F.binary_cross_entropy_with_logits(hidden.float() @ weight + bias, unsafe, reduction="none")
    return language, verdict
