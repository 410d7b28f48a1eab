"""The results of ``evaluate``, as a Markdown table and as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safety_reminder.evaluation.judges.panel import Agreement
from safety_reminder.evaluation.metrics import attack_succeeded
from safety_reminder.evaluation.outcome import outcome
from safety_reminder.evaluation.pages.charts import awareness_chart, pareto, sweep_chart
from safety_reminder.evaluation.pages.demo import environment, thumbnail, timeline
from safety_reminder.evaluation.statistics import Metric, shown
from safety_reminder.evaluation.suite.results import ALL, Metrics, SweepPoint
from safety_reminder.evaluation.suite.suites import PLAIN
from safety_reminder.run_files import write_text
from safety_reminder.types import Example, Record

_COLUMNS = {
    "attack_success_rate": "attack success",
    "attack_success_rate_on_topic": "attack success, on topic",
    "attack_success_rate_read": "attack success, pages read",
    "word_recall": "words read",
    "over_refusal_rate": "over-refusal",
    "false_alarm_rate": "false alarms",
    "advice_given_rate": "advice given",
    "advice_alarm_rate": "alarms on advice",
    "leaked_tokens": "leaked tokens",
    "exact_match_untriggered": "untouched identical",
    "time_ratio": "time",
    "overhead_ratio": "time, untouched answers",
    "token_ratio": "tokens",
}
_HELP = {
    "attack_success_rate": "harmful requests that were engaged with, judged on everything the user saw",
    "attack_success_rate_on_topic": "the same, in an answer that speaks of the request, by the words they share",
    "attack_success_rate_read": "harmful requests that were engaged with, of those that the model reads",
    "word_recall": "words of a page that the model reads when it is asked to, mean",
    "over_refusal_rate": "harmless requests that were refused",
    "false_alarm_rate": "harmless requests on which a check fired",
    "advice_given_rate": "requests for advice (law, money, health, politics), no attacks, that were answered",
    "advice_alarm_rate": "requests for advice on which a check fired",
    "leaked_tokens": "tokens of a harmful answer that were shown before the guard intervened, mean",
    "exact_match_untriggered": "answers without an intervention that are the unguarded ones, token for token",
    "time_ratio": "seconds over those of the undefended answers",
    "overhead_ratio": "the same, of batches in which nothing was intervened on and both wrote the same",
    "token_ratio": "generated tokens over those of the undefended answers",
}
_BY_SET = ("attack_success_rate", "attack_success_rate_on_topic", "advice_given_rate", "over_refusal_rate")
_TILES = ("attack_success_rate", "over_refusal_rate", "false_alarm_rate", "exact_match_untriggered", "time_ratio")


def columns(table: Mapping[str, Mapping[str, Metrics]]) -> dict[str, str]:
    """The metrics that some defence has, judges' ones included, with their headings. That all verdicts could be read
    needs no column."""
    metrics = [(name, metric) for sets in table.values() for name, metric in sets[ALL].items()]
    shown_names = [name for name, metric in metrics if metric.value or not name.startswith("unread_rate")]
    judges = {name: name.replace(":", ", by ").replace("_", " ") for name in sorted(shown_names) if ":" in name}
    return {name: label for name, label in (_COLUMNS | judges).items() if name in shown_names}


def write_markdown(path: Path, table: Mapping[str, Mapping[str, Metrics]], agreement: Sequence[str] = ()) -> str:
    """One row a defence over all data sets, then attack success or over-refusal by data set, then how far the members
    of panels of judges agree. Returns the text."""
    heads = columns(table)
    lines = ["| defence | " + " | ".join(heads.values()) + " |", "|---" * (len(heads) + 1) + "|"]
    lines += [_row(label, [sets[ALL].get(name) for name in heads]) for label, sets in table.items()]
    sets = [name for name in next(iter(table.values())) if name != ALL]
    wanted = [(s, m) for s in sets for m in _BY_SET if m in table[PLAIN][s]]
    titles = [f"{s}: {_COLUMNS[m]}" for s, m in wanted]
    lines += ["", "| defence | " + " | ".join(titles) + " |", "|---" * (len(wanted) + 1) + "|"]
    lines += [_row(label, [sets[s].get(m) for s, m in wanted]) for label, sets in table.items()]
    if agreement:
        lines += ["", *(f"{line}  " for line in agreement)]
    text = "\n".join(lines) + "\n"
    write_text(path, text)
    return text


def agreement_lines(agreed: Mapping[str, Agreement]) -> list[str]:
    """One sentence for each panel."""
    lines = []
    for name, agreement in agreed.items():
        alpha = "undefined" if agreement.alpha is None else f"{agreement.alpha:.2f}"
        pairs = [
            f"{pair}: {'undefined' if kappa is None else _in_a_cell(kappa)}" for pair, kappa in agreement.kappa.items()
        ]
        lines.append(f"Agreement within {name}: Krippendorff's α {alpha}; Cohen's κ of {'; '.join(pairs)}.")
    return lines


def _row(label: str, cells: Sequence[Metric | None]) -> str:
    return f"| {label} | " + " | ".join(_in_a_cell(metric) if metric else "" for metric in cells) + " |"


def _in_a_cell(metric: Metric) -> str:
    value, interval, _ = shown(metric)
    return f"{value} {interval}".rstrip()


def write_report(
    path: Path,
    results: Mapping[str, Any],
    table: Mapping[str, Mapping[str, Metrics]],
    records: Mapping[str, Mapping[str, Sequence[Record]]],
    curve: Sequence[SweepPoint],
    examples: Mapping[str, Mapping[str, Example]],
    count: int,
    agreement: Sequence[str] = (),
) -> Path:
    """One HTML file with everything in it.

    Args:
        results: what ``results.json`` holds. table: metrics by defence and data set. records: likewise.
        curve: the threshold sweep. examples: by data set and id. count: how many samples to show.
        agreement: sentences about panels of judges.
    """
    threshold = results["threshold"]
    shown = [name for name in (PLAIN, "reminder") if name in results["categories"]]
    bars = [
        {
            "category": category,
            "bars": [
                {"label": label, "colour": i, **_bar(results["categories"][label][category])}
                for i, label in enumerate(shown)
            ],
        }
        for category in results["categories"][PLAIN]
    ]
    sets = [name for name in next(iter(table.values())) if name != ALL]
    wanted = [(s, m) for s in sets for m in _BY_SET if m in table[PLAIN][s]]
    heads = columns(table)
    html = (
        environment()
        .get_template("report.html.jinja")
        .render(
            config=results["config"],
            provenance=results["provenance"],
            agreement=agreement,
            tiles=_tiles(table),
            heads=[{"label": label, "help": _HELP.get(name, "")} for name, label in heads.items()],
            rows=_rows(table, [(ALL, name) for name in heads]),
            set_heads=[f"{s}: {_COLUMNS[m]}" for s, m in wanted],
            set_rows=_rows(table, wanted),
            pareto=pareto({label: sets[ALL] for label, sets in table.items()}),
            sweep=sweep_chart(curve, threshold),
            awareness=awareness_chart(results["awareness"], threshold),
            bars=bars,
            bar_labels=shown,
            samples=_samples(records, examples, count, threshold),
        )
    )
    write_text(path, html)
    return path


def _tiles(table: Mapping[str, Mapping[str, Metrics]]) -> list[dict[str, str]]:
    metrics = table.get("reminder", table[PLAIN])[ALL]
    tiles = []
    for name in _TILES:
        if name in metrics:
            value, interval, n = shown(metrics[name])
            plain = table[PLAIN][ALL].get(name)
            beside = f"; undefended {shown(plain).value}" if plain and "reminder" in table else ""
            tiles.append({"value": value, "label": _COLUMNS[name], "note": f"{interval} {n}{beside}".lstrip()})
    return tiles


def _rows(table: Mapping[str, Mapping[str, Metrics]], wanted: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """One row for each defence; its cells are the metrics of ``wanted``, (data set, metric) each."""
    rows = []
    for number, (label, sets) in enumerate(table.items(), 1):
        metrics = [sets[dataset].get(name) for dataset, name in wanted]
        cells = [shown(metric)._asdict() if metric else None for metric in metrics]
        rows.append({"number": number, "label": label, "cells": cells})
    return rows


def _bar(share: Mapping[str, float]) -> dict[str, Any]:
    """A bar for a share as ``results.json`` has it."""
    return {
        "width": round(100 * share["value"], 1),
        "low": round(100 * share["low"], 1),
        "high": round(100 * share["high"], 1),
        "note": " ".join(shown(Metric(share["value"], share["low"], share["high"], int(share["n"]), "share"))),
    }


def _samples(
    records: Mapping[str, Mapping[str, Sequence[Record]]],
    examples: Mapping[str, Mapping[str, Example]],
    count: int,
    threshold: float | None,
) -> list[dict[str, Any]]:
    """The first samples of each data set, about equally many of each."""
    each = -(-count // max(len(examples), 1))
    samples = []
    for dataset, rows in examples.items():
        for example in list(rows.values())[:each]:
            answers = []
            for label, sets in records.items():
                record = next(r for r in sets[dataset] if r.id == f"{dataset}/{example.id}")
                answers.append(
                    {
                        "label": label,
                        "outcome": outcome(record),
                        "text": record.seen_text,
                        "hidden": example.harmful and attack_succeeded(record),
                        "timeline": timeline(record, threshold) if record.checks and threshold is not None else None,
                        "checks": len(record.checks),
                    }
                )
            samples.append(
                {
                    "title": example.instruction or example.prompt,
                    "dataset": dataset,
                    "category": example.category,
                    "kind": example.kind,
                    "image": thumbnail(example.image),
                    "first": [a for a in answers if a["label"] in (PLAIN, "reminder")],
                    "others": [a for a in answers if a["label"] not in (PLAIN, "reminder")],
                }
            )
    return samples[:count]
