"""Requests that an attack learns from, is stopped by, and is measured on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from safety_reminder.attacks.options import SplitConfig
from safety_reminder.errors import ConfigError
from safety_reminder.types import Example


@dataclass(frozen=True)
class Splits:
    """Requests that an attack may learn from, those it is stopped by, and those that it is measured on."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]

    def each(self, change: Callable[[Example], Example]) -> Splits:
        return Splits(*([change(e) for e in rows] for rows in (self.train, self.validation, self.test)))

    @property
    def named(self) -> dict[str, list[Example]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


def divide(examples: Sequence[Example], config: SplitConfig) -> Splits:
    """By two shuffles of one seed, as scikit-learn's ``train_test_split`` makes them: first the test requests are set
    apart, then those for validation. What is left over is for training, up to ``config.train``.

    Raises:
        ConfigError: more is asked for than there is.
    """
    sizes = {name: getattr(config, name) for name in ("train", "validation", "test")}
    wanted = {name: round(size * len(examples)) if isinstance(size, float) else size for name, size in sizes.items()}
    if isinstance(config.train, float):  # rounded up thrice, shares may be more than all
        wanted["train"] = min(wanted["train"], len(examples) - wanted["validation"] - wanted["test"])
    if sum(wanted.values()) > len(examples):
        asked = ", ".join(f"{name} {count}" for name, count in wanted.items())
        raise ConfigError(f"the split asks for more than the {len(examples)} requests there are: {asked}")
    rest, test = _apart(list(examples), wanted["test"], config.seed)
    train, validation = _apart(rest, wanted["validation"], config.seed)
    return Splits(train[: wanted["train"]], validation, test)


def _apart(examples: list[Example], count: int, seed: int) -> tuple[list[Example], list[Example]]:
    order = np.random.RandomState(seed).permutation(len(examples))
    return [examples[i] for i in order[count:]], [examples[i] for i in order[:count]]


def without(examples: Sequence[Example], tested: Sequence[Example]) -> list[Example]:
    """Those whose request is in none of ``tested``: letters and digits are compared."""
    known = {_plain(text) for e in tested for text in (e.prompt, e.instruction)} - {""}
    return [e for e in examples if not known & {_plain(e.prompt), _plain(e.instruction)}]


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()
