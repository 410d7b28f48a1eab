"""Rows of one topic, source or attack that nothing is learned from, so that it can be tested on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from safety_reminder.errors import ConfigError, unknown_name
from safety_reminder.types import TrainingExample

if TYPE_CHECKING:
    from safety_reminder.training.samples import Sample

LABELS: dict[str, Callable[[TrainingExample], str]] = {
    "topic": lambda example: example.topic,
    "source": lambda example: example.source,
    "attack": lambda example: example.attack,
}


AT_RANDOM = "(a random part)"  # in the place of a value: what is left out is like what is not


def parse(entry: str) -> tuple[str, str]:
    """``topic:Fraud`` → (``topic``, ``Fraud``).

    Raises:
        ConfigError: it is of another form.
    """
    label, _, value = entry.partition(":")
    if label not in LABELS or not value.strip():
        kinds = ", ".join(f"{name}:VALUE" for name in LABELS)
        raise ConfigError(f"leave_out must be of {kinds}, as in topic:Fraud; got {entry[:100]!r}")
    return label, value.strip()


def values_of(examples: Sequence[TrainingExample], label: str) -> list[str]:
    """The different values of a label, sorted; rows that have none do not count."""
    return sorted({LABELS[label](example) for example in examples} - {""})


def require_known(examples: Sequence[TrainingExample], entries: Sequence[str]) -> None:
    """Raises: ConfigError: an entry of another form, or with a value that no row has; gives the known ones."""
    for label, value in map(parse, entries):
        if value not in (known := values_of(examples, label)):
            if not known:
                raise ConfigError(f"leave_out={label}:{value}: no row says its {label}; rows need a field {label!r}")
            raise ConfigError(f"leave_out={label}:{value}: {unknown_name(label, value, known)}")


def folds_of(examples: Sequence[TrainingExample], by: str | Sequence[str] | None) -> list[tuple[str, str]]:
    """What is left out in turn: (label, value), and for each label first :data:`AT_RANDOM`.

    Args:
        by: labels; None: topic and attack, as far as the rows say them.

    Raises:
        ConfigError: an unknown label, or one of which the rows have fewer than two values.
    """
    labels = [by] if isinstance(by, str) else list(by or ("topic", "attack"))
    for label in labels:
        if label not in LABELS:
            raise ConfigError(f"by must be of {', '.join(LABELS)}; got {label!r}")
    values = {label: values_of(examples, label) for label in labels}
    usable = {label: found for label, found in values.items() if len(found) > 1}
    if (by is not None and len(usable) < len(labels)) or not usable:
        lacking = next(label for label in labels if label not in usable)
        raise ConfigError(
            f"by={lacking}: the rows have {len(values[lacking])} values of {lacking!r}; it takes two, in that field of "
            "the rows"
        )
    return [(label, value) for label, found in usable.items() for value in (AT_RANDOM, *found)]


def set_apart(samples: Sequence[Sample], entries: Sequence[str]) -> tuple[list[Sample], list[Sample]]:
    """(those that can be learned from, those that are left out, which have one of the ``entries``).

    What asks the same as one that is left out, with the same image, is in neither.
    """
    wanted = [parse(entry) for entry in entries]
    left = [s for s in samples if any(LABELS[label](s.example) == value for label, value in wanted)]
    asked = {sample.key for sample in left}
    others = [sample for sample in samples if sample.key not in asked]
    return others, left
