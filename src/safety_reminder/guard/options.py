"""Keyword options of a call → :class:`~safety_reminder.types.Request`: one pure function."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from safety_reminder.config.guard import GuardConfig
from safety_reminder.errors import ConfigError
from safety_reminder.types import Request, Sampling, is_seed, row_seeds

GUARD_OPTIONS = frozenset(f.name for f in dataclasses.fields(GuardConfig))
OURS = frozenset({"seed", "stop"})


def parse(
    batch: Sequence[Any],
    options: Mapping[str, Any],
    *,
    guard: bool,
    base: GuardConfig | None,
) -> list[Request]:
    """A request for each conversation of ``batch``.

    Args:
        options: ``seed`` (one for all, so that row i draws from ``seed + i``, or one for each row), ``stop``, fields of
            :class:`GuardConfig`, fields of :class:`Sampling`; ``generate`` judges all others.
        guard: False: answer unguarded.
        base: how the model is guarded, which fields change; None: it is not.

    Raises:
        ConfigError: an option of the wrong type, or of a guard that is not there.
    """
    if not isinstance(guard, bool):
        raise ConfigError(f"guard must be true or false, got {guard!r}")
    changes = {name: value for name, value in options.items() if name in GUARD_OPTIONS}
    if changes and not (guard and base is not None):
        raise ConfigError(f"guard options {sorted(changes)} were given, but this generation is not guarded")
    guard_of_each: GuardConfig | bool = base.replace(**changes) if changes and base is not None else guard
    sampling = Sampling.of({name: v for name, v in options.items() if name not in GUARD_OPTIONS | OURS})
    stop = stop_texts("stop", options.get("stop"))
    seeds = _seeds(options.get("seed"), len(batch))
    return [Request(messages, sampling, guard_of_each, seed, stop) for messages, seed in zip(batch, seeds, strict=True)]


def stop_texts(name: str, given: Any) -> tuple[str, ...]:
    """The option ``name``, one text or several, as a tuple.

    Raises:
        ConfigError: something else, or an empty text.
    """
    texts = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise ConfigError(f"{name} must be a text that is not empty, or a list of such, got {given!r}")
    return tuple(texts)


def shared_settings(requests: Sequence[Request]) -> Request:
    """The first of the requests of one batch, whose settings all of them have.

    Raises:
        ConfigError: they have different settings.
    """
    first = requests[0]
    if any(request.settings != first.settings for request in requests[1:]):
        raise ConfigError("requests of one batch must agree in sampling, guard, stop, and in whether they have a seed")
    return first


def _seeds(value: Any, rows: int) -> list[int | None]:
    seeds = value if isinstance(value, list | tuple) else [value]
    for seed in seeds:
        if not is_seed(seed):
            raise ConfigError(f"seed must be a whole number from 0 to 2**63 - 1, or one for each row, got {value!r}")
    if isinstance(value, list | tuple):
        if len(value) != rows:
            raise ConfigError(f"{len(value)} seeds were given for {rows} rows")
        return list(value)
    return [None] * rows if value is None else [*row_seeds(value, rows)]
