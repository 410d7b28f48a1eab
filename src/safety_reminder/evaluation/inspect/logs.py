"""The guard's trace in Inspect's outputs, and from there to :class:`~safety_reminder.types.Record`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.model import ModelOutput

from safety_reminder.engines import Answered
from safety_reminder.errors import DataError
from safety_reminder.evaluation.records import answer_fields
from safety_reminder.types import Record, Response

TRACE = "safety_reminder"  # the trace's key in an output's metadata


def as_trace(answered: Answered[Response], defense: str, *, monitored: bool) -> dict[str, Any]:
    """What an output's metadata holds: the whole response, the rows of its batch, the defence's name, and whether it
    has a guard's checks."""
    return dataclasses.asdict(answered.response) | {
        "rows": answered.rows, "defense": defense, "monitored": monitored,
    }  # fmt: skip


def seen_text(output: ModelOutput) -> str:
    """What the user was shown, retracted text included; of a model that is not ours, its answer."""
    trace = (output.metadata or {}).get(TRACE)
    return trace["seen_text"] if trace else output.completion


@dataclass(frozen=True)
class Answers:
    """The records of one data set (an Inspect task) under one defence, and the log that they come from."""

    dataset: str
    defense: str
    records: tuple[Record, ...]
    log: str


def read_answers(log: EvalLog) -> Answers:
    """Of a finished log of our provider.

    Raises:
        DataError: it is not finished, or not ours.
    """
    if log.status != "success" or not log.samples:
        reason = log.error.message if log.error else f"its status is {log.status}"
        raise DataError(f"{log.eval.task}, {log.location}: not finished, {reason}")
    traces = [(sample.output.metadata or {}).get(TRACE) for sample in log.samples]
    if not all(traces):
        raise DataError(f"{log.location} has answers of a model that did not run through safety-reminder/")
    defenses = {trace["defense"] for trace in traces if trace}
    records = tuple(_record(sample, trace) for sample, trace in zip(log.samples, traces, strict=True) if trace)
    return Answers(log.eval.task.rpartition("/")[2], defenses.pop(), records, log.location)


def _record(sample: EvalSample, trace: Mapping[str, Any]) -> Record:
    verdicts: dict[str, Any] = {}
    for score in (sample.scores or {}).values():
        known = score.metadata or {}
        if "where" in known:
            verdicts |= {"refusal": known["where"], "refusal_position": known["position"]}
        elif "judge" in known:
            verdicts.setdefault("judges", {})[known["judge"]] = {
                name: known.get(name) for name in ("kind", "label", "value", "version", "votes")
            }
    return Record(
        id=str(sample.id),
        prompt=sample.metadata["prompt"],
        harmful=sample.metadata["harmful"],
        category=sample.metadata["category"],
        image_sha256=sample.metadata["image_sha256"],
        **answer_fields(trace),
        seconds=trace["seconds"] / trace["rows"],  # its share of its batch's
        guard=trace["monitored"],
        batch=[],
        verdicts=verdicts,
    )
