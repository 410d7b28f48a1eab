"""The table and the summary of what was measured along answers."""

from __future__ import annotations

import csv

import pytest

from safety_reminder.analysis.curves import Outcome, Point, Track
from safety_reminder.analysis.summary import summarise_tracks, table
from safety_reminder.errors import ConfigError

POINTS = (Point(0, 0.25, -9.0, -1.0, -8.5, None), Point(8, 0.75, -9.0, -1.0, None, 2.0))


def test_cells_that_could_not_be_measured_are_empty():
    text = table([Track(Outcome("a,b", True, 9, True, None), POINTS)])
    header, first, second = csv.reader(text.splitlines())
    assert header[:5] == ["id", "harmful", "tokens", "engaged", "correction"]
    assert first == ["a,b", "True", "9", "True", "", "False", "0", "0.25", "-9", "-1", "-8.5", ""]
    assert second[-2:] == ["", "2"]


def track(name: str, *, harmful: bool, correction: int | None = None) -> Track:
    return Track(Outcome(name, harmful, 9, True, correction), POINTS)


def test_rates_and_delays_are_told_apart_by_guard_and_kind_of_request():
    tracks = [track("a", harmful=True), track("b", harmful=True, correction=6), track("c", harmful=False)]
    guarded = [Outcome("a", True, 9, True, 2), Outcome("b", True, 9, True, 4), Outcome("c", False, 9, True, None)]
    found = summarise_tracks(tracks, guarded)
    assert {name: (rate.value, rate.n) for name, rate in found.correction_rates.items()} == {
        "self_correction_rate": (1, 2),
        "self_correction_rate_harmless": (0, 1),
        "self_correction_rate_unguarded": (0.5, 2),
        "self_correction_rate_harmless_unguarded": (0, 1),
    }
    assert {guard: {kind: delay.median for kind, delay in kinds.items()} for guard, kinds in found.delays.items()} == {
        "guarded": {"harmful": 3},
        "unguarded": {"harmful": 6},
    }
    written = found.as_json()
    assert [point["depth"] for point in written["curves"]["p_unsafe"]["harmful"]] == [0, 8]
    assert written["self_correction_tokens"]["guarded"]["harmful"]["n"] == 2


def test_without_answers_there_is_nothing_to_summarise():
    with pytest.raises(ConfigError, match="no answers"):
        summarise_tracks([], [])
