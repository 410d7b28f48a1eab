"""What was measured along answers, and its summaries: pure functions, each with an interval and its number of answers.

Intervals are pointwise: at each depth, the answers that reach it are resampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from safety_reminder.errors import ConfigError
from safety_reminder.evaluation.statistics import Metric, mean, proportion

Measure = Literal["p_unsafe", "refusal_log_odds", "refusal_log_odds_reminded"]
MEASURES: tuple[Measure, ...] = ("p_unsafe", "refusal_log_odds", "refusal_log_odds_reminded")
KINDS = {"harmful": True, "harmless": False}


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured after the first ``depth`` tokens of an answer.

    ``p_unsafe``: the probe's, after the reminder. ``log_p_refusal``: of the event that a refusal opens here.
    ``refusal_log_odds``: of a refusal against what the answer goes on with; None where it was cut off too soon to tell.
    ``..._reminded``: the same with the reminder after these tokens. The formulas:
    :mod:`safety_reminder.analysis.awareness`.
    """

    depth: int
    p_unsafe: float
    log_p_refusal: float
    log_p_refusal_reminded: float
    refusal_log_odds: float | None
    refusal_log_odds_reminded: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where one answer of ``tokens`` tokens turns back: ``engaged``, it does not open with a refusal; ``correction``,
    tokens before its first self-correction (None: there is none). Answers to requests for ``advice`` are of neither
    kind."""

    id: str
    harmful: bool
    tokens: int
    engaged: bool
    correction: int | None
    advice: bool = False

    def of_kind(self, kind: str) -> bool:
        """Of ``harmful`` or ``harmless`` requests."""
        return not self.advice and self.harmful == KINDS[kind]


@dataclass(frozen=True, slots=True)
class Track:
    """One unguarded answer and what was measured along it."""

    outcome: Outcome
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Delay:
    """Tokens before the first self-correction: median and quartiles over ``n`` answers that have one."""

    median: float
    lower_quartile: float
    upper_quartile: float
    n: int

    def as_json(self) -> dict[str, float]:
        return asdict(self)


Curve = dict[int, Metric]  # by depth


def curve(tracks: Sequence[Track], measure: Measure) -> Curve:
    """The mean of ``measure`` by depth, with a 95 % bootstrap interval over the answers that reach it.

    Raises:
        ConfigError: there are no answers.
    """
    if not tracks:
        raise ConfigError("a curve over zero answers is undefined; the data set or the filter left nothing")
    values: dict[int, list[float]] = {}
    for track in tracks:
        for point in track.points:
            value = getattr(point, measure)
            if value is not None:
                values.setdefault(point.depth, []).append(value)
    return {depth: mean(values[depth], "score") for depth in sorted(values)}


def curves(tracks: Sequence[Track]) -> dict[Measure, dict[str, Curve]]:
    """Every measure, by kind of request (``harmful``, ``harmless``); a kind without answers is left out.

    Raises:
        ConfigError: there are no answers.
    """
    if not tracks:
        raise ConfigError("there are no answers to draw curves of; the data set or the filter left nothing")
    of_kind = {name: [t for t in tracks if t.outcome.of_kind(name)] for name in KINDS}
    return {m: {name: curve(rows, m) for name, rows in of_kind.items() if rows} for m in MEASURES}


def correction_rate(outcomes: Iterable[Outcome]) -> Metric | None:
    """The share of engaged answers that back off later (Wilson's interval); None where no answer engaged."""
    engaged = [outcome for outcome in outcomes if outcome.engaged]
    if not engaged:
        return None
    return proportion(sum(outcome.correction is not None for outcome in engaged), len(engaged))


def correction_delay(outcomes: Iterable[Outcome]) -> Delay | None:
    """Tokens before the first self-correction, over engaged answers that have one; None where none has.

    Quartiles interpolate linearly between neighbours, as numpy's do.
    """
    corrections = [outcome.correction for outcome in outcomes if outcome.engaged and outcome.correction is not None]
    if not corrections:
        return None
    lower, median, upper = np.percentile(corrections, (25, 50, 75)).tolist()
    return Delay(median, lower, upper, len(corrections))
