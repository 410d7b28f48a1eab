"""From a suite's answers to everything its table and page show. Pure functions of records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safety_reminder.evaluation.inspect.logs import Answers
from safety_reminder.evaluation.judges.panel import Agreement
from safety_reminder.evaluation.suite.results import (
    ALL,
    Metrics,
    SweepPoint,
    agreements,
    awareness,
    by_defense,
    categories,
    headline,
    judge_versions,
    sweep,
    tabulate,
)
from safety_reminder.evaluation.suite.suites import MONITOR, PLAIN
from safety_reminder.types import Record


@dataclass(frozen=True)
class SuiteResults:
    """``metrics``: of the reminder beside no defence. ``table``: metrics by defence and data set, as of
    :func:`tabulate`, and ``records`` the answers. ``curve`` and ``awareness`` are of the watched answers, which stand
    in neither. ``threshold``: of the verdicts on them. ``judges``: versions, by name."""

    metrics: Metrics
    table: Mapping[str, Mapping[str, Metrics]]
    records: Mapping[str, Mapping[str, Sequence[Record]]]
    curve: Sequence[SweepPoint]
    awareness: Mapping[str, Any]
    threshold: float | None
    agreed: Mapping[str, Agreement]
    judges: Mapping[str, str | None]

    def as_json(self) -> dict[str, Any]:
        return {
            "metrics": {name: metric.as_json() for name, metric in self.metrics.items()},
            "defenses": {
                label: {
                    name: {key: metric.as_json() for key, metric in metrics.items()} for name, metrics in sets.items()
                }
                for label, sets in self.table.items()
            },
            "categories": {
                label: {name: metric.as_json() for name, metric in categories(sets[ALL]).items()}
                for label, sets in self.records.items()
            },
            "sweep": [point.as_json() for point in self.curve],
            "awareness": self.awareness,
            "threshold": self.threshold,
            "agreement": {name: agreement.as_json() for name, agreement in self.agreed.items()},
        }


def assemble(answers: Sequence[Answers], threshold: float | None) -> SuiteResults:
    """``threshold``: the reminder's own, which the recorded verdicts were made with."""
    records = by_defense(answers)
    table = tabulate(records, PLAIN)
    main = next((label for label in records if label == "reminder"), PLAIN)
    watched = records.pop(MONITOR, {}).get(ALL, [])
    table.pop(MONITOR, None)
    threshold = threshold if watched else None
    everything = [record for answered in answers for record in answered.records]
    return SuiteResults(
        metrics=headline(table, main, PLAIN) if main != PLAIN else dict(table[PLAIN][ALL]),
        table=table,
        records=records,
        curve=sweep(watched, threshold),
        awareness=awareness(watched),
        threshold=threshold,
        agreed=agreements(everything),
        judges=judge_versions(everything),
    )
