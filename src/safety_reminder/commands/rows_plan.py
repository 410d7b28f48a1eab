"""What making rows of a model's own answers costs, and training on them; printed before anything is loaded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safety_reminder.data.own_answers.asking import Asked
from safety_reminder.data.own_answers.wrappers import WRAPPERS
from safety_reminder.training.config import TrainingConfig

if TYPE_CHECKING:
    from safety_reminder.models.size import ModelSize

_GIB = 2**30
_CHARACTERS = 4.0  # to a token of English, about
_TEMPLATE = 30  # tokens of a chat template, about
# An accelerator like an A100 in bfloat16, of whose peaks a third is reached.
_BANDWIDTH, _FLOPS, _REACHED = 2e12, 3e14, 1 / 3


@dataclass(frozen=True)
class Cost:
    """What it takes, in tokens, bytes, and seconds on one accelerator (``_BANDWIDTH``, ``_FLOPS``)."""

    prompt_tokens: int
    written_tokens: int
    batch_bytes: int
    prefix_bytes: int
    answer_seconds: float
    training_seconds: float


def cost_of(size: ModelSize, asked: Sequence[Asked], *, new_tokens: int, batch: int, training: TrainingConfig) -> Cost:
    """An estimate: every answer as long as it may be, every question that is not apart a training row."""
    lengths = [_prompt_tokens(one, size.image_tokens) for one in asked]
    prompt, written = sum(lengths), len(asked) * new_tokens
    whole = max(lengths, default=0) + new_tokens
    batch_bytes = min(batch, len(asked)) * whole * size.cache_bytes
    rows = [length + new_tokens for one, length in zip(asked, lengths, strict=True) if one.part == "train"]
    token_flops = 2 * size.parameters
    steps = math.ceil(len(asked) / batch) * new_tokens
    answers = _seconds(token_flops * (prompt + written), steps * (size.weight_bytes + batch_bytes))
    cuts = training.epochs * len(rows) * training.cuts
    # Forward, and backward to the vectors through frozen weights: twice the work and two passes over them.
    work = token_flops * (sum(rows) + 2 * cuts * (training.k + training.target_tokens))
    passes = len(rows) + 2 * math.ceil(cuts / training.micro_batch_size)
    return Cost(
        prompt, written, batch_bytes, sum(rows) * size.cache_bytes, answers, _seconds(work, passes * size.weight_bytes)
    )


def print_plan(model: str, size: ModelSize, asked: Sequence[Asked], *, new_tokens: int, batch: int) -> None:
    """The cost in some lines."""
    training = TrainingConfig()
    cost = cost_of(size, asked, new_tokens=new_tokens, batch=batch, training=training)
    parts = Counter(one.part for one in asked)
    print(f"{model}: {size.parameters / 1e6:,.0f} million parameters, {size.weight_bytes / _GIB:.1f} GiB")
    print(
        f"  {len(asked)} answers ({parts['train']} to train on, {parts['calibration']} for the threshold, "
        f"{parts['test']} to test on): up to {cost.written_tokens:,} tokens to write, "
        f"about {cost.prompt_tokens:,} to read"
    )
    print(f"  batches of {batch}: {cost.batch_bytes / _GIB:.1f} GiB of keys and values beside the weights")
    kept = min(cost.prefix_bytes / _GIB, training.prefix_cache_gb)
    print(
        f"  training on them, {training.epochs} epochs: up to {cost.prefix_bytes / _GIB:.1f} GiB of prefixes, "
        f"{kept:.1f} of them kept (training.prefix_cache_gb)"
    )
    print(
        f"  on one GPU such as an A100, roughly: {_minutes(cost.answer_seconds)} for the answers, "
        f"{_minutes(cost.training_seconds)} for the training"
    )


def _prompt_tokens(one: Asked, image_tokens: int) -> int:
    wrapper = WRAPPERS[one.wrapper]
    letters = max(map(len, wrapper.texts)) + max(map(len, wrapper.begins)) + len(one.request.text)
    return _TEMPLATE + round(letters / _CHARACTERS) + (image_tokens if wrapper.page else 0)


def _seconds(flops: float, moved: float) -> float:
    return max(flops / _FLOPS, moved / _BANDWIDTH) / _REACHED


def _minutes(seconds: float) -> str:
    return "less than a minute" if seconds < 60 else f"{math.ceil(seconds / 60)} minutes"
