"""How long the rest of the training takes, by what its parts took so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter

from safety_reminder.training.prefixes import Prefixes


class Pace:
    """Steps, validations and the running of prefixes, each timed apart: the first epoch runs all prefixes, and where
    there is no room to keep them every later one does too.

    Args:
        visited: the rows that an epoch visits, validation included, in this process.
        per_epoch: steps.
        validation: how many steps a validation is worth, as long as none was timed.
        clock: seconds.
    """

    def __init__(
        self,
        prefixes: Prefixes,
        *,
        visited: int,
        per_epoch: int,
        validation: float,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.prefixes, self.visited, self.per_epoch, self.clock = prefixes, visited, per_epoch, clock
        self.validation = validation
        self.seconds = {"step": 0.0, "validation": 0.0}
        self.times = dict.fromkeys(self.seconds, 0)

    def start(self) -> tuple[float, float]:
        """What :meth:`stop` is to be given when the part is over."""
        return self.clock(), self.prefixes.seconds

    def stop(self, part: str, began: tuple[float, float]) -> None:
        """``step`` or ``validation`` is over. What prefixes took meanwhile is not counted to it."""
        self.seconds[part] += self.clock() - began[0] - (self.prefixes.seconds - began[1])
        self.times[part] += 1

    def left(self, steps: int) -> float | None:
        """Seconds for so many more ``steps``, with their validations and prefixes; None before a step was timed."""
        if not self.times["step"]:
            return None
        step, validation = (self.seconds[part] / (self.times[part] or 1) for part in ("step", "validation"))
        if not self.times["validation"]:
            validation = self.validation * step
        prefixes = self.prefixes
        runs = max(0, self.visited - len(prefixes.kept))
        if prefixes.full:  # run again on every visit
            runs *= steps / self.per_epoch
        prefix = prefixes.seconds / (prefixes.runs or 1)
        return steps * step + math.ceil(steps / self.per_epoch) * validation + runs * prefix


def shown(seconds: float | None) -> str:
    """``40 s``, ``12 min``, ``1 h 05 min``; ``?`` where it is not known yet."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
