"""Results in the terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from safety_reminder.evaluation.outcome import outcome
from safety_reminder.types import Example, Record

if TYPE_CHECKING:
    from safety_reminder.evaluation.statistics import Metric
    from safety_reminder.guard import SafetyReminder

_HEADS = {
    "attack_success_rate": "attack success",
    "success_never_fired": "never fired",
    "success_fired_late": "fired late",
    "success_not_turned": "not turned",
    "advice_given_rate": "advice given",
    "advice_alarm_rate": "alarms on advice",
    "over_refusal_rate": "over-refusal",
    "false_alarm_rate": "false alarms",
}


def print_metrics(metrics: Mapping[str, Metric]) -> None:
    """One metric a line, in columns: name, value, interval and row count."""
    from safety_reminder.evaluation.statistics import shown

    rows = [(name, *shown(metric)) for name, metric in metrics.items()]
    names, values, intervals = (max((len(row[i]) for row in rows), default=0) for i in range(3))
    for name, value, interval, n in rows:
        print(f"  {name:<{names}}  {value:>{values}}  {interval:<{intervals}}  {n}")


def print_categories(table: Mapping[str, Mapping[str, Metric]]) -> None:
    """A line for each category, with what there is of the metrics in columns; nothing where there are no categories."""
    heads = [head for head in _HEADS if any(head in metrics for metrics in table.values())]
    if not heads:
        return
    lines = [["by category", *(_HEADS[head] for head in heads)]]
    for name, metrics in table.items():
        cells = (metrics.get(head) for head in heads)
        lines.append([name, *(f"{m.value * m.n:.0f} of {m.n}" if m is not None else "" for m in cells)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads) + 1)]
    for line in lines:
        print("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def print_side_by_side(examples: Sequence[Example], guarded: Sequence[Record], unguarded: Sequence[Record]) -> None:
    """Each request with its two answers in two columns."""
    total = min(shutil.get_terminal_size((120, 24)).columns, 140)
    column = (total - 3) // 2
    for example, with_guard, without in zip(examples, guarded, unguarded, strict=True):
        kind = {"attack": "harmful"}.get(example.kind, example.kind)
        print("\n" + _bold(f"{example.instruction or example.prompt}  ({kind})"))
        left = _wrap("UNGUARDED  " + outcome(without), column, without.seen_text)
        right = _wrap("GUARDED  " + outcome(with_guard), column, with_guard.seen_text)
        for a, b in zip_longest(left, right, fillvalue=""):
            print(f"{a:<{column}} | {b}")
    print()


def _wrap(head: str, width: int, text: str) -> list[str]:
    lines = textwrap.wrap(head, width)
    for paragraph in text.strip().splitlines():
        lines += textwrap.wrap(paragraph, width) or [""]
    return lines


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def print_counts(parts: Mapping[str, tuple[int, int]]) -> None:
    """Of each part of the rows, how many are harmful to answer, and how many are not."""
    told = (f"{part} {sum(pair)} ({pair[0]} harmful, {pair[1]} harmless)" for part, pair in parts.items())
    print("rows: " + ", ".join(told), flush=True)


def print_turns(reminder: SafetyReminder) -> None:
    """How often the reminder turns answers into refusals, by kind and by the tokens that were kept."""
    from safety_reminder.evaluation.statistics import Metric

    turned = reminder.training.get("turned")
    if not turned:
        return
    print(
        f"after beginnings of answers of {turned['rows']} rows, whatever the probe says, the reminder turns into a "
        "refusal, by tokens kept (0: the bare prompt):"
    )
    print_metrics(
        {
            f"{kind}, {'all' if name == 'all' else f'after {name}'}": Metric(**rate, unit="share")
            for kind, table in turned["rates"].items()
            for name, rate in table.items()
        }
    )


def print_threshold(reminder: SafetyReminder) -> None:
    """The threshold, where it comes from, and what it guarantees."""
    calibration = reminder.calibration
    for name, value in reminder.other_thresholds.items():
        print(f"{name} {value:.4f}")
    print(f"the bare prompt is {'also' if reminder.prompt_check else 'not'} checked (prompt_check)")
    if calibration["method"] == "given":
        alarms, n = calibration["alarms"], calibration["n"]
        print(
            f"threshold {reminder.threshold:.4f} as given: {alarms} of {n} safe {calibration['rows']} responses alarm"
        )
        return
    if calibration["guaranteed"] is None:
        print(f"threshold {reminder.threshold:.4f} from the validation rows: without a guarantee")
        return
    print(
        f"threshold {reminder.threshold:.4f} from {calibration['n']} safe responses: a new one like them, of up to "
        f"{calibration['tokens']} tokens, alarms with probability at most {calibration['guaranteed']:.4f}"
    )
    if tested := calibration.get("left_out"):
        print(f"of {tested['n']} safe responses that were left out, {tested['alarms']} alarm")
    if calibration["n"] < calibration["needed"]:
        print(
            f"for the budget of {calibration['budget']} it takes {calibration['needed']} safe responses; "
            f"there were {calibration['n']}"
        )
