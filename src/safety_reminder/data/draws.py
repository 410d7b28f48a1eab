"""Rows drawn as the Safety Reminder's authors draw them (arXiv:2506.15734 and its code), so that they are the same rows
where upstream's files are whole. Their tools are numpy's generators, and ``datasets``, which takes the first rows of a
permutation by one of these."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from safety_reminder.types import Example


def fifty_of_each_category(examples: Sequence[Example]) -> list[Example]:
    """At most 50, those that ``datasets``' ``shuffle`` with seed 0 puts first."""
    places: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        places.setdefault(example.category, []).append(place)
    drawn = [own[i] for own in places.values() for i in np.random.default_rng(0).permutation(len(own))[:50]]
    return [examples[place] for place in sorted(drawn)]


def three_hundred(examples: Sequence[Example]) -> list[Example]:
    """300 of all rows, those that numpy's older generator chooses with seed 0."""
    if len(examples) <= 300:
        return list(examples)
    drawn = np.random.RandomState(0).choice(len(examples), 300, replace=False)
    return [examples[place] for place in sorted(drawn.tolist())]


def train_validation_test(count: int, apart: int) -> dict[str, list[int]]:
    """Which of ``count`` rows are in which split, in their order. Two calls of ``datasets``' ``train_test_split`` with
    seed 42: the first sets ``apart`` rows apart, the second halves these."""
    shuffled = np.random.default_rng(42).permutation(count).tolist()
    held, halves = shuffled[:apart], np.random.default_rng(42).permutation(apart).tolist()
    half = (apart + 1) // 2
    return {
        "train": sorted(shuffled[apart:]),
        "validation": sorted(held[i] for i in halves[half:]),
        "test": sorted(held[i] for i in halves[:half]),
    }
