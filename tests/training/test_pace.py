"""How long the rest takes, told from what was done so far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safety_reminder.training import TrainingConfig
from safety_reminder.training.pace import Pace, shown
from safety_reminder.training.prefixes import Prefixes

STEP, VALIDATION, PREFIX = 2.0, 3.0, 10.0  # seconds


class Run:
    """Made of time alone: 6 steps of 2 rows in each of 3 epochs, then 4 rows to validate on."""

    steps, per_epoch = 18, 6

    def __init__(self, *, keeps: bool) -> None:
        nothing: Any = None
        self.now, self.keeps = 0.0, keeps
        self.prefixes = Prefixes(nothing, TrainingConfig(), Path())
        self.pace = Pace(self.prefixes, visited=16, per_epoch=6, validation=1.5, clock=lambda: self.now)
        self.told: list[tuple[float, float | None]] = []

    def visit(self, row: Any) -> None:
        if row in self.prefixes.kept:
            return
        self.now += PREFIX
        self.prefixes.seconds += PREFIX
        self.prefixes.runs += 1
        if self.keeps:
            self.prefixes.kept[row] = Path()
        else:
            self.prefixes.full = True

    def part(self, name: str, seconds: float, rows: list[int]) -> None:
        began = self.pace.start()
        for row in rows:
            self.visit(row)
        self.now += seconds
        self.pace.stop(name, began)

    def whole(self) -> None:
        for step in range(self.steps):
            place = step % self.per_epoch
            self.part("step", STEP, [2 * place, 2 * place + 1])
            if place == self.per_epoch - 1:
                self.part("validation", VALIDATION, [12, 13, 14, 15])
            self.told.append((self.now, self.pace.left(self.steps - step - 1)))


@pytest.mark.parametrize("keeps", [True, False])
def test_what_is_left_is_what_comes_prefixes_and_validations_included(keeps):
    run = Run(keeps=keeps)
    assert run.pace.left(18) is None
    run.whole()
    for now, left in run.told:
        # Where nothing is kept, an epoch's rows count evenly over its steps, and the last of them are validated on.
        assert left == pytest.approx(run.now - now, abs=1e-6 if keeps else 4 * PREFIX)
    assert run.told[-1][1] == 0
    assert run.now == 18 * STEP + 3 * VALIDATION + (16 if keeps else 48) * PREFIX


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (0, "0 s"), (40.4, "40 s"), (89, "89 s"), (100, "2 min"), (3000, "50 min"), (5820, "1 h 37 min")],
)
def test_time_is_told_in_round_numbers(seconds, text):
    assert shown(seconds) == text
