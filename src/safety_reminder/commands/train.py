"""``safety-reminder train``: learn a reminder for a model."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from safety_reminder.commands import console
from safety_reminder.commands.command import Command
from safety_reminder.commands.groups import BatchSize, Device, DType, Model, Output
from safety_reminder.commands.rows import AllowContamination, CheckAgainst, RowsOptions, named_datasets, refuse_shared
from safety_reminder.config.names import require_found
from safety_reminder.config.options import Field, Options
from safety_reminder.config.presets import PUBLISHED_TRAINING
from safety_reminder.config.reading import ReadingOptions
from safety_reminder.run_files import run_folder, write_json
from safety_reminder.training.config import TrainingConfig
from safety_reminder.types import Example, Sampling, TrainingExample

if TYPE_CHECKING:
    from safety_reminder.guard import SafetyReminder
    from safety_reminder.models import VLM


class TestOptions(Options):
    """How the data sets of ``test_on`` are answered."""

    max_new_tokens: Annotated[int, Field(ge=1, description="of an answer, at most")] = 64
    batch_size: BatchSize = 20


class TrainJob(Options):
    """The options of ``train``."""

    model: Model = "pocket"
    check_against: CheckAgainst = Field(default_factory=list)
    allow_contamination: AllowContamination = False
    test_on: Annotated[
        list[str],
        Field(
            description="evaluation sets to answer with the new reminder, NAME:FOLDER; their metrics go into "
            "summary.json"
        ),
    ] = Field(default_factory=list)
    device: Device = None
    dtype: DType = "auto"
    output: Output = "runs/train"
    data: RowsOptions
    test: Annotated[TestOptions, Field(description="how the sets of test_on are answered")] = TestOptions()
    training: TrainingConfig = TrainingConfig()
    reading: ReadingOptions = ReadingOptions()


def train(job: TrainJob, output: Path) -> None:
    """Learn a reminder into ``output``; with ``test_on``, also answer those data sets, and put the results into its
    summary."""
    print(f"loading rows: {job.data.sets}", flush=True)
    examples = job.data.load(on_error=job.training.on_error)
    tests = named_datasets("test_on", job.test_on)
    evaluation = named_datasets("check_against", job.check_against) | tests
    refuse_shared(examples, evaluation, allow=job.allow_contamination)
    require_found(job.model)
    with _claimed(job, output):
        vlm, reminder = _train(job, output, examples)
        if not is_main_process():
            return
        from safety_reminder.training.turns import advice

        auc = reminder.training["test"].get("auc", {}).get("all", {}).get("all")
        print(f"wrote {output / 'pack'}" + (f": AUC of the probe on test rows {auc:.3f}" if auc is not None else ""))
        console.print_threshold(reminder)
        console.print_turns(reminder)
        for sentence in advice(reminder.training["turned"].get("rates", {}), job.training):
            print(f"warning: {sentence}")
        tested = [replace(example, id=f"{name}/{example.id}") for name, rows in tests.items() for example in rows]
        if tested:
            _test(job, output, vlm, reminder, tested)


def _claimed(job: TrainJob, output: Path) -> AbstractContextManager[Any]:
    """The run's folder, which the first of several processes holds. The others write nothing before they have met it
    in the trainer."""
    return run_folder(output, reads=(job.model,)) if os.environ.get("RANK", "0") == "0" else nullcontext()


def _train(job: TrainJob, output: Path, examples: list[TrainingExample]) -> tuple[VLM, SafetyReminder]:
    from safety_reminder.evaluation.refusal import refuses
    from safety_reminder.models import load_vlm
    from safety_reminder.training.samples import counts
    from safety_reminder.training.trainer import Trainer

    device: Any = job.device
    if device is None and "LOCAL_RANK" in os.environ:
        from accelerate import PartialState

        device = PartialState().device  # of this process, where `accelerate launch` started several
    print(f"loading model: {job.model}", flush=True)
    vlm = load_vlm(job.model, device=device, dtype=job.dtype, reading=job.reading)
    print(
        f"loaded {vlm.name}: {str(vlm.model.dtype).removeprefix('torch.')} on {vlm.model.device}; reading rows",
        flush=True,
    )
    drawn = job.data.model_dump(exclude={"sets", "root"})
    origin = drawn | job.model_dump(include={"check_against", "test_on", "allow_contamination", "reading"})
    run = Trainer(vlm, examples, job.training, output, job.data.sets, origin, refuses=refuses)
    if is_main_process():
        console.print_counts(counts(run.parts))
    return vlm, run.run()


def is_main_process() -> bool:
    """False in all but one of the processes that ``accelerate launch`` started."""
    from accelerate import PartialState

    return PartialState().is_main_process


def _test(job: TrainJob, output: Path, vlm: VLM, reminder: SafetyReminder, examples: list[Example]) -> None:
    """Answer the examples in ``output/answers``, and add their metrics to the summary that training wrote."""
    from safety_reminder.commands.answering import identity_of
    from safety_reminder.evaluation.metrics import summarise
    from safety_reminder.evaluation.runner import open_run, run
    from safety_reminder.guard import GuardedVLM

    guarded = GuardedVLM(vlm, reminder)
    records = open_run(output / "answers", identity_of(guarded) | job.test.model_dump(), restart=True)
    sampling = Sampling(max_new_tokens=job.test.max_new_tokens, do_sample=False)
    answers = run(guarded, examples, records, guard=True, batch_size=job.test.batch_size, sampling=sampling)
    metrics = summarise(answers)
    path = output / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    summary["metrics"] |= {name: metric.as_json() for name, metric in metrics.items()}
    summary["config"]["test_on"] = job.test_on
    write_json(path, summary)
    console.print_metrics(metrics)


COMMAND = Command(
    name="train",
    about="learn a reminder for a model; writes output/pack.",
    examples=(
        "train model=pocket data=examples.jsonl output=runs/my-reminder",
        "train model=pocket data=spa_vl+vlsafe data.root=DATA data.harmful=256 data.benign=256",
    ),
    job=TrainJob,
    run=train,
    choices={"variant": "base"},
    sapt=PUBLISHED_TRAINING,
)
