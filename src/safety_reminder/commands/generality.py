"""``safety-reminder generality``: each topic, attack or source left out in turn, and tested on."""

from __future__ import annotations

import hashlib
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from safety_reminder.commands import console
from safety_reminder.commands.command import Command
from safety_reminder.commands.groups import CheckBase, Device, DType, Model, Output, Reminder
from safety_reminder.commands.probe import load_pack
from safety_reminder.commands.rows import RowsOptions
from safety_reminder.config.names import require_found
from safety_reminder.config.options import Field, Options
from safety_reminder.config.reading import ReadingOptions
from safety_reminder.errors import ConfigError
from safety_reminder.outside import strict_json
from safety_reminder.run_files import append_lines, provenance, run_folder, whole_lines, write_json, write_text
from safety_reminder.training.config import TrainingConfig
from safety_reminder.training.leave_out import AT_RANDOM, folds_of
from safety_reminder.types import TrainingExample

if TYPE_CHECKING:
    from safety_reminder.analysis.generality import Fold
    from safety_reminder.guard import SafetyReminder
    from safety_reminder.models import VLM
    from safety_reminder.training.samples import Sample


log = logging.getLogger(__name__)


class GeneralityJob(Options):
    """The options of ``generality``."""

    model: Model = "pocket"
    reminder: Annotated[Reminder, Field(description="pocket, a hub id or a folder")] = "pocket"
    check_base: CheckBase = True
    by: Annotated[
        list[str] | str | None,
        Field(
            description="what is left out in turn: topic, attack or source, or a list; null: topic and attack, as far "
            "as the rows say them"
        ),
    ] = None
    retrain: Annotated[
        bool,
        Field(
            description="also learn the vectors anew without each, which takes as long as so many runs of train. "
            "false: they stay the reminder's, and probe and threshold alone are new"
        ),
    ] = False
    device: Device = None
    dtype: DType = "auto"
    output: Output = "runs/generality"
    data: RowsOptions
    reading: ReadingOptions = ReadingOptions()
    training: TrainingConfig = TrainingConfig()


def generality(job: GeneralityJob, output: Path) -> None:
    """Write ``generality.csv`` and ``summary.json``, and print the table. A run that broke off goes on: hidden states
    are kept in ``readings``, lines of the table in ``folds.jsonl``.

    Raises:
        ConfigError: rows without two values of what is left out, too few rows, or a folder of another run.
    """
    if job.training.leave_out is not None:
        raise ConfigError("by= says what is left out here, one after the other; training.leave_out is for one run")
    if job.training.thresholds != "one" or job.training.threshold is not None:
        raise ConfigError(
            "every line of the table has one threshold, calibrated for it; leave training.thresholds and "
            "training.threshold out"
        )
    for part in ("calibration", "test"):
        if not getattr(job.training, part):
            raise ConfigError(
                f"training.{part}=0 leaves no rows for the {part} part; every line of the table needs some"
            )
    examples = job.data.load(on_error=job.training.on_error)
    folds_of(examples, job.by)  # a mistake is said before the model is loaded
    require_found(job.model, job.reminder)
    with run_folder(output, reads=(job.model, job.reminder)):
        folds = _measure(job, output, examples)
    print(f"wrote {output / 'generality.csv'} and {output / 'summary.json'} ({len(folds)} lines)")


def _measure(job: GeneralityJob, output: Path, examples: Sequence[TrainingExample]) -> list[Fold]:
    from safety_reminder.analysis.generality import as_csv, as_table, labels_digest, summarise
    from safety_reminder.commands.answering import name_and_digest
    from safety_reminder.evaluation.runner import claim_configuration
    from safety_reminder.training.refit import as_trained
    from safety_reminder.training.samples import make_samples, manifest

    print(f"loading {job.model} ...", file=sys.stderr)
    vlm, reminder = load_pack(
        job.model, job.reminder, job.device, job.dtype, check_base=job.check_base, reading=job.reading
    )
    training = as_trained(job.training, reminder).with_changes(interval=reminder.interval)
    samples = make_samples(vlm, examples, training)
    chosen = folds_of([sample.example for sample in samples], job.by)  # of the rows that can be used
    config = {
        **job.model_dump(exclude={"by", "retrain", "training"}),
        "training": training.model_dump(),
        "rows": manifest(job.data.sets, samples),
        "labels_sha256": labels_digest(samples),
        "weights": name_and_digest(vlm),
        "reminder_digest": reminder.digest,
    }
    claim_configuration(output, config)
    folds = list(_folds(job, output, vlm, reminder, training, samples, examples, chosen))
    if all(fold.left_out == AT_RANDOM for fold in folds):
        raise ConfigError("none of the values can be left out: too few rows are left without it, as said above")
    metrics = summarise(folds)
    write_text(output / "generality.csv", as_csv(folds))
    write_json(
        output / "summary.json",
        {
            "metrics": {name: metric.as_json() for name, metric in metrics.items()},
            "folds": [fold.as_json() for fold in folds],
            "config": {**config, "by": job.by, "retrain": job.retrain},
            "provenance": provenance(),
        },
    )
    print(as_table(folds))
    print(_about_the_vectors(job, folds))
    console.print_metrics(metrics)
    return folds


def _folds(
    job: GeneralityJob,
    output: Path,
    vlm: VLM,
    reminder: SafetyReminder,
    training: TrainingConfig,
    samples: Sequence[Sample],
    examples: Sequence[TrainingExample],
    chosen: Sequence[tuple[str, str]],
) -> Iterator[Fold]:
    """The folds, those that were measured before from ``folds.jsonl``."""
    from tqdm import tqdm

    from safety_reminder.analysis import generality as measure
    from safety_reminder.training.prefixes import Prefixes
    from safety_reminder.training.probing.kept import read_and_keep

    path = output / "folds.jsonl"
    done = {(fold.by, fold.left_out, fold.vectors): fold for fold in _saved(path)}
    prefixes = Prefixes(vlm, training.with_changes(prefix_cache_gb=0.0), output / "prefixes")
    how: dict[str, Any] = {
        "prompt_check": bool(training.prompt_check),
        "seen": frozenset(reminder.training.get("seen", ())),
    }
    kind = "retrained" if job.retrain else "kept"
    waiting = any((*fold, kind) not in done for fold in chosen)
    rows = None
    if waiting and not job.retrain:
        readings = read_and_keep(
            output / "readings", prefixes, samples, reminder.vectors, reminder.interval, trained_with=training
        )
        rows = measure.Read(samples, readings)
    for by, value in tqdm(chosen, "left out", unit="value", disable=not waiting):
        fold = done.get((by, value, kind))
        if fold is None:
            try:
                if rows is not None:
                    fold = measure.without(rows, by, value, training, **how)
                else:
                    folder = output / "vectors" / _folder_name(f"{by}-{value}")
                    fold = measure.without_at_all(vlm, examples, samples, by, value, training, folder, job.data.sets)
            except measure.TooFew as error:  # the others may do
                log.warning("not in the table: %s", error)
                continue
            append_lines(path, [fold.as_json()])
        yield fold


def _folder_name(text: str) -> str:
    """What can be read of it, and a digest, since values may differ in other characters alone."""
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', text)[:60]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _saved(path: Path) -> Iterator[Fold]:
    from safety_reminder.analysis.generality import Fold

    for number, line in enumerate(whole_lines(path), 1):
        try:
            yield Fold.from_json(strict_json(line))
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: {error}; remove it, or give another output=DIR") from error


def _about_the_vectors(job: GeneralityJob, folds: Sequence[Fold]) -> str:
    if job.retrain:
        return "vectors, probe and threshold of every line were learned without what it leaves out"
    any_seen = any(fold.seen for fold in folds)
    seen = "as many of the rows tested on as `seen` says" if any_seen else "none of the rows tested on"
    return (
        f"the vectors of every line are those of {job.reminder}, which saw {seen}; only probe and threshold were "
        "learned without what it leaves out (retrain=true learns the vectors too)"
    )


COMMAND = Command(
    name="generality",
    about="leave each topic (attack, source) of the rows out in turn: probe and threshold from all others, tested on "
    "its own rows. Prints AUC, what is missed and false alarms, with intervals; writes generality.csv and "
    "summary.json. Hidden states are read once. The same command goes on where it was.",
    examples=(
        "generality model=pocket reminder=pocket data=rows.jsonl output=runs/generality",
        "generality model=pocket reminder=runs/mine/pack data=rows.jsonl by=attack output=runs/attacks-left-out",
    ),
    job=GeneralityJob,
    run=generality,
)
