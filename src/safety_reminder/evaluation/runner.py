"""Running a data set through a guarded model, sample by sample, into a run folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from safety_reminder.errors import ConfigError, shortened
from safety_reminder.evaluation.answerable import identities, require_answerable
from safety_reminder.evaluation.metrics import by_category, summarise
from safety_reminder.evaluation.records import RecordFile, make_record
from safety_reminder.evaluation.refusal import judge_refusal
from safety_reminder.evaluation.statistics import Metric
from safety_reminder.guard import GuardedVLM
from safety_reminder.outside import read_object
from safety_reminder.run_files import claim_folder, differing, provenance, write_json
from safety_reminder.types import Check, Done, Event, Example, Record, Request, Sampling, Token

# These may differ between the first run into a folder and the one that finishes it.
_FREE_TO_CHANGE = {"output", "batch_size", "device", "samples", "defenses", "answered", "reads"}
_TICK = 1.0  # seconds between two signs of life


def open_run(output: Path, config: dict[str, Any], *, restart: bool = False) -> RecordFile:
    """The records of a run folder; made if new. Saves the resolved configuration.

    With ``restart``, records of another configuration are dropped instead of being an error. Where there are no
    records yet, the configuration may be another. :func:`~safety_reminder.run_files.run_folder` makes sure that nobody
    else writes there meanwhile.

    Raises:
        ConfigError: the folder holds a run with another configuration, or something that is not a run.
        DataError: a line of its records cannot be read.
    """
    output = claim_folder(output)
    rows = output / "records.jsonl"
    if rows.is_file() and rows.stat().st_size > 0:
        changed = differing_options(output, config)
        if changed and restart:
            rows.unlink()
        elif changed:
            raise another_configuration(output, changed)
    write_json(output / "config.json", config)
    return RecordFile(rows)


def differing_options(output: Path, config: dict[str, Any]) -> list[str]:
    """Names of the options that may not change within a run and have other values in ``output/config.json``."""
    # Through JSON, as it will be read back: a tuple becomes a list there.
    fixed = json.loads(json.dumps({k: v for k, v in config.items() if k not in _FREE_TO_CHANGE}))
    saved = output / "config.json"
    what = "the configuration of a run"
    before = read_object(saved, ConfigError, what, "give another output=DIR") if saved.is_file() else {}
    return differing(fixed, {k: v for k, v in before.items() if k not in _FREE_TO_CHANGE})


def claim_configuration(output: Path, config: dict[str, Any]) -> None:
    """Write ``output/config.json``; what a run that is there already has in it may not differ.

    Raises:
        ConfigError: it does.
    """
    if (output / "config.json").is_file() and (changed := differing_options(output, config)):
        raise another_configuration(output, changed)
    write_json(output / "config.json", config)


def another_configuration(output: Path, changed: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"{output} holds a run with another configuration ({shortened(', '.join(changed), 300)}); "
        "give another output=DIR, or remove it to start over"
    )


def run(
    guarded: GuardedVLM,
    examples: Sequence[Example],
    records: RecordFile,
    *,
    guard: bool,
    batch_size: int = 1,
    seed: int | None = None,
    show: Callable[[Record], None] | None = None,
    sampling: Sampling | None = None,
) -> list[Record]:
    """Answer every example that has no record yet, and return the records of all of them, in order.

    Example number i samples with ``seed + i``, however the run is batched or resumed.

    Raises:
        ConfigError: ids that repeat, or that were recorded for other examples.
        MessageError: a text or an image that the model cannot be asked; names the row. Nothing was answered then.
    """
    how: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "show": show, "sampling": sampling}
    return run_each(guarded, examples, records, guards=[guard], **how)[guard]


def run_each(
    guarded: GuardedVLM,
    examples: Sequence[Example],
    records: RecordFile,
    *,
    guards: Sequence[bool],
    batch_size: int = 1,
    seed: int | None = None,
    show: Callable[[Record], None] | None = None,
    sampling: Sampling | None = None,
) -> dict[bool, list[Record]]:
    """As :func:`run`, for each of ``guards``: batch by batch, so that a run that breaks off has pairs."""
    _require_whole("batch_size", batch_size, 1)
    if seed is not None:
        _require_whole("seed", seed, 0)
    known = identities(examples)
    _require_same_examples(examples, records.records, known)
    done = {guard: records.done(guard=guard) for guard in guards}
    waiting = [example for example in examples if any(example.id not in ids for ids in done.values())]
    if waiting:
        require_answerable(guarded.vlm, examples)
    seeds = {e.id: None if seed is None else seed + number for number, e in enumerate(examples)}
    left = sum(example.id not in ids for ids in done.values() for example in waiting)
    total = len(examples) * len(guards)
    label = " and ".join("guarded" if guard else "unguarded" for guard in guards)
    with tqdm(total=total, initial=total - left, desc=label, unit="answer") as progress:
        for start in range(0, len(waiting), batch_size):
            for guard in guards:
                batch = [e for e in waiting[start : start + batch_size] if e.id not in done[guard]]
                requests = [Request(e.messages(), sampling or Sampling(), guard, seeds[e.id]) for e in batch]
                for record in _answer(guarded, batch, requests, known, Ticker(progress, len(batch))):
                    records.append(record)
                    if show is not None:
                        show(record)
                progress.set_postfix_str("", refresh=False)
                progress.update(len(batch))
    by_id = {(record.guard, record.id): record for record in records.records}
    return {guard: [by_id[guard, example.id] for example in examples] for guard in guards}


class Ticker:
    """Says in a progress bar how far the batch is that is under way: a batch may take minutes."""

    def __init__(self, bar: tqdm, rows: int) -> None:
        self._bar, self._rows = bar, rows
        self._shown, self._checked = [0] * rows, [0] * rows  # tokens; those that are held back show in checks alone
        self._done, self._said = 0, time.monotonic()

    def __call__(self, event: Event) -> None:
        match event:
            case Token(row=row):
                self._shown[row] += 1
            case Check(row=row, token_index=index):
                self._checked[row] = max(self._checked[row], index)
            case Done():
                self._done += 1
        if time.monotonic() - self._said >= _TICK:
            self._said = time.monotonic()
            tokens = sum(map(max, self._shown, self._checked))
            self._bar.set_postfix_str(f"{tokens} tokens, {self._done} of {self._rows} answers of this batch")


def _answer(
    guarded: GuardedVLM,
    batch: Sequence[Example],
    requests: Sequence[Request],
    known: Mapping[str, Mapping[str, Any]],
    watch: Callable[[Event], object],
) -> Iterator[Record]:
    """The records of examples that are answered together."""
    together = [example.id for example in batch]
    for example, request, response in zip(batch, requests, guarded.respond(requests, watch), strict=True):
        verdict = judge_refusal(response.seen_text)
        verdicts = {"refusal": verdict.where, "refusal_position": verdict.position}
        yield make_record(
            example,
            response,
            guard=request.guard is not False,
            batch=together,
            verdicts=verdicts,
            known=known[example.id],
        )


def write_summary(
    output: Path, guarded: Sequence[Record], unguarded: Sequence[Record], config: dict[str, Any]
) -> dict[str, Metric]:
    """``summary.json``: metrics, those by category, configuration and provenance."""
    metrics = summarise(guarded, unguarded)
    categories = by_category(guarded)
    write_json(
        output / "summary.json",
        {
            "metrics": {name: metric.as_json() for name, metric in metrics.items()},
            "categories": {
                category: {name: metric.as_json() for name, metric in own.items()}
                for category, own in categories.items()
            },
            "config": config,
            "provenance": provenance(),
        },
    )
    return metrics


def _require_whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number from {least}, got {value!r}")


def _require_same_examples(
    examples: Sequence[Example], records: Sequence[Record], known: Mapping[str, Mapping[str, Any]]
) -> None:
    """An id may stay while what it stands for changes: a row was put in, an image replaced, a category renamed."""
    recorded = {record.id: record for record in records}
    for example in examples:
        record = recorded.get(example.id)
        if record is None:
            continue
        now = {**known[example.id], "category": example.category, "advice": example.advice}
        if record.instruction:  # earlier versions did not write it
            now["instruction"] = example.instruction or example.prompt
        if changed := [name for name, value in now.items() if getattr(record, name) != value]:
            raise ConfigError(
                f"example {example.id!r} is not the one that was recorded under this id ({', '.join(changed)}); give "
                "another output=DIR"
            )
