"""What a run of ``analyze awareness`` shows: its table, and its curves, rates and delays. Pure functions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from safety_reminder.analysis.curves import (
    KINDS,
    Curve,
    Delay,
    Measure,
    Outcome,
    Point,
    Track,
    correction_delay,
    correction_rate,
    curves,
)
from safety_reminder.evaluation.statistics import Metric


@dataclass(frozen=True)
class Summary:
    """Curves along the unguarded answers, by measure and kind of request; and of unguarded and guarded answers, how
    many turn back (``self_correction_rate`` of harmful requests and ``self_correction_rate_harmless``, and the same
    with ``_unguarded``) and after how many tokens, by kind of request."""

    curves: dict[Measure, dict[str, Curve]]
    correction_rates: dict[str, Metric]
    delays: dict[str, dict[str, Delay]]

    def as_json(self) -> dict[str, Any]:
        return {
            "self_correction_tokens": {
                guard: {kind: delay.as_json() for kind, delay in kinds.items()} for guard, kinds in self.delays.items()
            },
            "curves": {
                measure: {kind: _rows(curve) for kind, curve in kinds.items()} for measure, kinds in self.curves.items()
            },
        }


def summarise_tracks(tracks: Sequence[Track], guarded: Sequence[Outcome]) -> Summary:
    """Summarise the measures along the unguarded answers, and where the guarded ones turn back.

    Raises:
        ConfigError: there are no answers.
    """
    outcomes = {"unguarded": [track.outcome for track in tracks], "guarded": list(guarded)}
    delays = {
        guard: {kind: correction_delay(_of_kind(rows, kind)) for kind in KINDS} for guard, rows in outcomes.items()
    }
    return Summary(
        curves(tracks),
        _correction_rates(outcomes),
        {guard: {kind: delay for kind, delay in kinds.items() if delay} for guard, kinds in delays.items()},
    )


def table(tracks: Iterable[Track]) -> str:
    """CSV, one row per answer and depth; what could not be measured is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([field.name for kind in (Outcome, Point) for field in fields(kind)])
    for track in tracks:
        for point in track.points:
            cells = (asdict(track.outcome) | asdict(point)).values()
            writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in cells])
    return file.getvalue()


def _of_kind(outcomes: Iterable[Outcome], kind: str) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.of_kind(kind)]


def _correction_rates(outcomes: dict[str, list[Outcome]]) -> dict[str, Metric]:
    rates = {}
    for guard, suffix in (("guarded", ""), ("unguarded", "_unguarded")):
        for kind, name in (("harmful", "self_correction_rate"), ("harmless", "self_correction_rate_harmless")):
            rate = correction_rate(_of_kind(outcomes[guard], kind))
            if rate is not None:
                rates[name + suffix] = rate
    return rates


def _rows(curve: Curve) -> list[dict[str, float]]:
    return [{"depth": depth, **metric.as_json()} for depth, metric in curve.items()]
