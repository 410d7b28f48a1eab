"""The guard's trace in Inspect's outputs, and from there to :class:`~safety_reminder.types.Record`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.model import ModelOutput

from safety_reminder.engines import Answered
from safety_reminder.errors import DataError
from safety_reminder.evaluation.records import from_json, record_of, response_from_json, to_json
from safety_reminder.types import Record, Response

TRACE = "safety_reminder"  # the trace's key in an output's metadata
_OF_THE_EXAMPLE = ("prompt", "harmful", "category", "image_sha256")  # in a sample's metadata
_OF_THE_RESPONSE = tuple(field.name for field in fields(Response))


def as_trace(answered: Answered[Response], defense: str, *, monitored: bool) -> dict[str, Any]:
    """What an output's metadata holds: the whole response, its batch's id and number of rows, the defence's name, and
    whether it has a guard's checks."""
    return to_json(answered.response) | {
        "rows": answered.rows, "batch": answered.batch, "defense": defense, "monitored": monitored,
    }  # fmt: skip


def seen_text(output: ModelOutput) -> str:
    """What the user was shown, retracted text included; for a model that is not ours, its answer."""
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
    """Read a finished log of our provider.

    ``batch`` of a record is empty where the log does not hold the whole batch: some of its samples were of another
    task, or an earlier attempt was killed before it logged them; or the log was written before batches had ids.

    Raises:
        DataError: it is not finished, not ours, or has an answer that cannot be read.
    """
    if log.status != "success" or not log.samples:
        reason = log.error.message if log.error else f"its status is {log.status}"
        raise DataError(f"{log.eval.task}, {log.location}: not finished, {reason}")
    traces = [(sample.output.metadata or {}).get(TRACE) for sample in log.samples]
    if not all(traces):
        raise DataError(f"{log.location} has answers of a model that did not run through safety-reminder/")
    if not all(sample.metadata.keys() >= {*_OF_THE_EXAMPLE} for sample in log.samples):
        raise DataError(f"{log.location} is of another task than safety_reminder/benchmark, which says what was asked")
    traced = [(sample, trace) for sample, trace in zip(log.samples, traces, strict=True) if trace]
    batches = _batches(traced)
    try:
        records = tuple(_record(sample, trace, batches.get(trace.get("batch"), ())) for sample, trace in traced)
    except DataError as error:
        raise DataError(f"{log.location}: {error}; answer the task again") from error
    return Answers(log.eval.task.rpartition("/")[2], traced[0][1]["defense"], records, log.location)


def _batches(traced: Sequence[tuple[EvalSample, Mapping[str, Any]]]) -> dict[Any, tuple[str, ...]]:
    """The ids of the samples of each batch, by its id, where the whole batch is in the log."""
    together: dict[Any, list[str]] = {}
    rows: dict[Any, Any] = {}
    for sample, trace in traced:
        if (batch := trace.get("batch")) is not None:
            together.setdefault(batch, []).append(str(sample.id))
            rows[batch] = trace.get("rows")
    return {batch: tuple(ids) for batch, ids in together.items() if len(ids) == rows[batch]}


def _record(sample: EvalSample, trace: Mapping[str, Any], batch: tuple[str, ...]) -> Record:
    verdicts: dict[str, Any] = {}
    for score in (sample.scores or {}).values():
        known = score.metadata or {}
        if "where" in known:
            verdicts |= {"refusal": known["where"], "refusal_position": known["position"]}
        elif "judge" in known:
            verdicts.setdefault("judges", {})[known["judge"]] = {
                name: known.get(name) for name in ("kind", "label", "value", "version", "votes")
            } | ({"reason": known["reason"]} if known.get("reason") else {})
    try:
        response = response_from_json({name: trace[name] for name in _OF_THE_RESPONSE if name in trace})
        record = record_of(
            response,
            id=str(sample.id),
            **{name: sample.metadata[name] for name in _OF_THE_EXAMPLE},
            instruction=_instruction(sample.metadata),
            context_sha256=sample.metadata.get("context_sha256"),
            prefill=sample.metadata.get("prefill", ""),
            advice=sample.metadata.get("advice", False),
            seconds=response.seconds / trace["rows"],  # its share of its batch's
            guard=trace["monitored"],
            batch=batch,
            verdicts=verdicts,
        )
        return from_json(to_json(record))  # what the log says of the example is of the types of a record
    except (DataError, KeyError, TypeError, ZeroDivisionError) as error:
        raise DataError(f"sample {sample.id!r}: {error}") from error


def _instruction(metadata: Mapping[str, Any]) -> str:
    """What was asked; empty of a log that does not say whether the prompt does."""
    return metadata["instruction"] or metadata["prompt"] if "instruction" in metadata else ""
