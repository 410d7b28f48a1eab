"""What the command ``analyze awareness`` does with its configuration."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from safety_reminder.analysis.awareness import measure, self_correction
from safety_reminder.analysis.curves import (
    KINDS,
    Curve,
    Outcome,
    Point,
    Track,
    correction_delay,
    correction_rate,
    curves,
)
from safety_reminder.analysis.figures import draw, require_matplotlib
from safety_reminder.commands import console
from safety_reminder.commands.generate import answer, load_examples
from safety_reminder.errors import ConfigError
from safety_reminder.evaluation.metrics import summarise
from safety_reminder.evaluation.statistics import Metric
from safety_reminder.guard import GuardedVLM
from safety_reminder.run_files import provenance, write_json, write_text
from safety_reminder.types import Example, Record

# Not known to the answers: these may change while the records stay.
_OF_MEASURING = ("step", "rows")


def awareness(values: dict[str, Any], output: Path) -> None:
    """Answer a data set unguarded and guarded, measure along the unguarded answers, and write ``awareness.csv``,
    ``summary.json``, ``awareness.png`` and ``awareness.svg`` beside the records.

    Raises:
        ConfigError: no reminder, or a number that is none. MissingExtraError: without matplotlib.
    """
    require_matplotlib()
    if values["reminder"] in (None, "none"):
        raise ConfigError("awareness is read with the reminder and its probe; give reminder=NAME or a folder")
    for name in _OF_MEASURING:
        value = values[name]
        if not (name == "step" and value is None) and (
            not isinstance(value, int) or isinstance(value, bool) or value < 1
        ):
            raise ConfigError(f"{name} must be a whole number from 1, got {value!r}")
    examples = load_examples(values)
    answering = {name: value for name, value in values.items() if name not in _OF_MEASURING}
    guarded, unguarded, model = answer({**answering, "compare": True}, output, examples)
    assert model.reminder is not None
    assert model.guard is not None
    step = values["step"] or model.guard.config.interval
    tracks = follow_answers(model, examples, unguarded, step=step, rows=values["rows"])
    outcomes = {
        "unguarded": [track.outcome for track in tracks],
        "guarded": [self_correction(model.vlm, record) for record in guarded],
    }
    found = curves(tracks)
    threshold = model.guard.config.threshold
    write_text(output / "awareness.csv", table(tracks))
    draw(output, found, threshold=threshold)
    metrics = summarise(guarded, unguarded) | _correction_rates(outcomes)
    write_json(
        output / "summary.json",
        {
            "metrics": {name: metric.as_json() for name, metric in metrics.items()},
            "self_correction_tokens": _delays(outcomes),
            "curves": {name: {kind: _rows(one) for kind, one in kinds.items()} for name, kinds in found.items()},
            "config": {**values, "step": step, "threshold": threshold},
            "provenance": provenance(),
        },
    )
    _print(metrics, outcomes)
    print(f"wrote {output / 'awareness.csv'}, awareness.png, awareness.svg and summary.json")


def follow_answers(
    model: GuardedVLM, examples: Sequence[Example], unguarded: Sequence[Record], *, step: int, rows: int
) -> list[Track]:
    """Measure along each answer. ``examples`` and ``unguarded`` go together, one by one."""
    assert model.reminder is not None
    tracks = []
    pairs = zip(examples, unguarded, strict=True)
    for example, record in tqdm(pairs, total=len(examples), desc="measuring", unit="answer", dynamic_ncols=True):
        points = measure(model.vlm, model.reminder, example, record.token_ids, step=step, rows=rows)
        tracks.append(Track(self_correction(model.vlm, record), tuple(points)))
    return tracks


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
    return [outcome for outcome in outcomes if outcome.harmful == KINDS[kind]]


def _correction_rates(outcomes: dict[str, list[Outcome]]) -> dict[str, Metric]:
    """``self_correction_rate`` of harmful requests and ``self_correction_rate_harmless``, each with its twin."""
    rates = {}
    for guard, suffix in (("guarded", ""), ("unguarded", "_unguarded")):
        for kind, name in (("harmful", "self_correction_rate"), ("harmless", "self_correction_rate_harmless")):
            rate = correction_rate(_of_kind(outcomes[guard], kind))
            if rate is not None:
                rates[name + suffix] = rate
    return rates


def _delays(outcomes: dict[str, list[Outcome]]) -> dict[str, dict[str, dict[str, float]]]:
    delays = {g: {kind: correction_delay(_of_kind(rows, kind)) for kind in KINDS} for g, rows in outcomes.items()}
    return {g: {kind: delay.as_json() for kind, delay in kinds.items() if delay} for g, kinds in delays.items()}


def _rows(curve: Curve) -> list[dict[str, float]]:
    return [{"depth": depth, **metric.as_json()} for depth, metric in curve.items()]


def _print(metrics: dict[str, Metric], outcomes: dict[str, list[Outcome]]) -> None:
    console.print_metrics(metrics)
    for guard, rows in outcomes.items():
        delay = correction_delay(_of_kind(rows, "harmful"))
        if delay is not None:
            print(
                f"  {guard} answers to harmful requests that engage and back off do so after {delay.median:g} tokens "
                f"(quartiles {delay.lower_quartile:g} and {delay.upper_quartile:g}, n={delay.n})"
            )
