"""What ``generate``, ``demo`` and ``analyze awareness`` share: answering a data set into a run folder."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import model_validator

from safety_reminder.commands.groups import (
    BatchSize,
    CheckBase,
    DatasetOptions,
    Device,
    DType,
    Generation,
    GenerationOptions,
    GuardChanges,
    GuardOptions,
    Model,
    Output,
)
from safety_reminder.config.options import Field, Options
from safety_reminder.config.reading import ReadingOptions
from safety_reminder.errors import ConfigError
from safety_reminder.types import Example, Record

if TYPE_CHECKING:
    from safety_reminder.guard import GuardedVLM
    from safety_reminder.models import VLM

CHOICES = {"dataset": "demo"}


class AnsweringJob(Options):
    """A data set that a model answers, guarded or not."""

    model: Model = "pocket"
    reminder: Annotated[str | None, Field(description="pocket, a hub id, a folder, or none")] = "pocket"
    check_base: CheckBase = True
    compare: Annotated[
        bool, Field(description="also answer unguarded, for the *_unguarded metrics and the overhead")
    ] = False
    batch_size: BatchSize = 1
    seed: Annotated[int | None, Field(ge=0, description="of sampling")] = None
    device: Device = None
    dtype: DType = "auto"
    output: Output
    dataset: DatasetOptions
    guard: GuardChanges = GuardOptions()
    reading: ReadingOptions = ReadingOptions()
    generation: Generation = GenerationOptions.parse({"max_new_tokens": 128, "do_sample": False})

    @model_validator(mode="after")
    def _something_to_guard(self) -> Self:
        changes = self.guard.given()
        if changes and not self.with_guard:
            raise ConfigError(f"guard options ({', '.join(changes)}) need a reminder; reminder={self.reminder}")
        return self

    @property
    def with_guard(self) -> bool:
        return self.reminder not in (None, "none")

    @property
    def sources(self) -> tuple[str | None, ...]:
        """What the run reads, and must not write over."""
        return self.model, self.reminder


@dataclass(frozen=True)
class Answers:
    """Records in the order of the examples; of a run without a guard, or without a comparison, one list is empty."""

    guarded: list[Record]
    unguarded: list[Record]
    model: GuardedVLM


def answer(
    job: AnsweringJob,
    output: Path,
    examples: list[Example],
    *,
    restart: bool = False,
    leave_out: Collection[str] = (),
) -> Answers:
    """Answer into ``output``, or go on where an earlier run broke off.

    Args:
        restart: drop existing answers of another configuration.
        leave_out: options that the answers do not depend on.

    Raises:
        ConfigError: a folder that holds a run with another configuration.
    """
    from safety_reminder.evaluation.runner import open_run, run_each
    from safety_reminder.guard import load

    print(f"loading {job.model} ...", file=sys.stderr)
    model = load(
        job.model,
        job.reminder if job.with_guard else None,
        device=job.device,  # type: ignore[arg-type]
        dtype=job.dtype,
        check_base=job.check_base,
        **job.reading.model_dump(),
        **job.guard.given(),
    )
    records = open_run(output, job.model_dump(exclude=set(leave_out)) | identity_of(model), restart=restart)
    options: dict[str, Any] = {"sampling": job.generation.sampling, "batch_size": job.batch_size, "seed": job.seed}
    guards = [guard for guard in (False, True) if (job.with_guard if guard else job.compare or not job.with_guard)]
    answered = run_each(model, examples, records, guards=guards, **options)
    return Answers(answered.get(True, []), answered.get(False, []), model)


def with_pages_read(answers: Answers, examples: list[Example], output: Path, batch_size: int) -> Answers:
    """With what the model can read of the pages in the records' verdicts. See ``evaluation/reading.py``."""
    from safety_reminder.evaluation.reading import read_pages, with_readings

    said = read_pages(answers.model, examples, output, batch_size=batch_size)
    return replace(
        answers, guarded=with_readings(answers.guarded, said), unguarded=with_readings(answers.unguarded, said)
    )


def identity_of(model: GuardedVLM) -> dict[str, Any]:
    """A pack that was retrained in place is another configuration, though its name is the same; so are other weights
    in the model's folder."""
    return {
        "weights": name_and_digest(model.vlm),
        "reminder_digest": model.reminder.digest if model.reminder else None,
    }


def name_and_digest(vlm: VLM) -> str:
    """The last part of a model's folder or hub id, and a digest of what is in it."""
    from safety_reminder.models import weights_digest

    return f"{Path(vlm.model.name_or_path or '').name} {weights_digest(vlm.model)}"
