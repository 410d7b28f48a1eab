"""``safety-reminder demo``: the same requests unguarded and guarded, in the terminal and as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import model_validator

from safety_reminder.commands import console
from safety_reminder.commands.answering import CHOICES, AnsweringJob, answer
from safety_reminder.commands.command import Command
from safety_reminder.commands.groups import BatchSize, Generation, GenerationOptions, Output
from safety_reminder.config.names import require_found
from safety_reminder.config.options import Field
from safety_reminder.data import DEMO_REQUESTS, load_dataset
from safety_reminder.errors import ConfigError
from safety_reminder.run_files import run_folder
from safety_reminder.types import Example


class DemoJob(AnsweringJob):
    """The options of ``demo``."""

    compare: Annotated[Literal[True], Field(description="always: both answers are what is shown")] = True  # type: ignore[assignment]
    batch_size: BatchSize = 7
    output: Output = "runs/demo"
    generation: Generation = GenerationOptions.parse({"max_new_tokens": 96, "do_sample": False})

    @model_validator(mode="after")
    def _something_to_guard(self) -> Self:
        if not self.with_guard:
            raise ConfigError(
                "the demo compares with and without the reminder; reminder=none leaves nothing to compare"
            )
        return self


def demo(job: DemoJob, output: Path) -> None:
    """Answer a data set unguarded and guarded, show both, and write ``demo.html`` beside the records."""
    require_found(job.model, job.reminder)
    examples = _examples(job)
    with run_folder(output, reads=job.sources):
        answers = answer(job, output, examples, restart=True)
        from safety_reminder.evaluation.pages.demo import write_page
        from safety_reminder.evaluation.runner import write_summary

        config = job.model_dump()
        metrics = write_summary(output, answers.guarded, answers.unguarded, config)
        assert answers.model.guard is not None
        threshold = answers.model.guard.config.threshold
        answer_lists = (answers.guarded, answers.unguarded)
        page = write_page(output / "demo.html", examples, *answer_lists, metrics, config, threshold)
    console.print_side_by_side(examples, *answer_lists)
    console.print_metrics(metrics)
    print(f"open {page}")


def _examples(job: DemoJob) -> list[Example]:
    examples = job.dataset.load()
    if job.dataset.name == "figstep":
        # FigStep has no harmless images; the shipped twins are added, so that false alarms can be seen too.
        examples += [example for example in load_dataset("typographic", DEMO_REQUESTS) if not example.harmful]
    return examples


COMMAND = Command(
    name="demo",
    about="unguarded and guarded answers side by side, and one HTML page.",
    examples=("demo", "demo dataset=figstep dataset.root=data/FigStep output=runs/demo"),
    job=DemoJob,
    run=demo,
    choices=CHOICES,
)
