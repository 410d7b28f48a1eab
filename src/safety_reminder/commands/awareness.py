"""``safety-reminder analyze awareness``: when a model becomes aware of what it is writing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import model_validator

from safety_reminder.commands import console
from safety_reminder.commands.answering import CHOICES, AnsweringJob, Answers, answer
from safety_reminder.commands.command import Command
from safety_reminder.commands.groups import BatchSize, Generation, GenerationOptions, GuardChanges, GuardOptions, Output
from safety_reminder.config.names import require_found
from safety_reminder.config.options import Field
from safety_reminder.errors import ConfigError
from safety_reminder.run_files import provenance, run_folder, write_json, write_text
from safety_reminder.types import Example

if TYPE_CHECKING:
    from safety_reminder.analysis.summary import Summary
    from safety_reminder.evaluation.statistics import Metric


class AwarenessJob(AnsweringJob):
    """The options of ``analyze awareness``."""

    compare: Annotated[Literal[True], Field(description="always: the unguarded answers are what is measured")] = True  # type: ignore[assignment]
    batch_size: BatchSize = 8
    output: Output = "runs/awareness"
    step: Annotated[
        int | None, Field(ge=1, description="tokens between two depths; null: those between two checks, guard.interval")
    ] = None
    rows: Annotated[int, Field(ge=1, description="contexts in one forward pass of the measuring")] = 16
    # The text stays, so that one can see how soon the reminder turns an answer.
    guard: GuardChanges = GuardOptions.parse({"policy": "continue"})
    generation: Generation = GenerationOptions.parse({"max_new_tokens": 96, "do_sample": False})

    @model_validator(mode="after")
    def _something_to_guard(self) -> Self:
        if not self.with_guard:
            raise ConfigError("awareness is read with the reminder and its probe; give reminder=NAME or a folder")
        return self


def awareness(job: AwarenessJob, output: Path) -> None:
    """Answer a data set unguarded and guarded, measure along the unguarded answers, and write ``awareness.csv``,
    ``summary.json``, ``awareness.png`` and ``awareness.svg`` beside the records.

    Raises:
        MissingExtraError: without matplotlib.
    """
    from safety_reminder.analysis.figures import require_matplotlib

    require_matplotlib()
    examples = job.dataset.load()
    require_found(job.model, job.reminder)
    with run_folder(output, reads=job.sources):
        answers = answer(job, output, examples, leave_out=("step", "rows"))  # they may change while the records stay
        metrics, summary = _measure(job, output, examples, answers)
    console.print_metrics(metrics)
    _print_delays(summary)
    print(f"wrote {output / 'awareness.csv'}, awareness.png, awareness.svg and summary.json")


def _measure(
    job: AwarenessJob, output: Path, examples: list[Example], answers: Answers
) -> tuple[dict[str, Metric], Summary]:
    """Measure along the unguarded answers, and write the results."""
    from safety_reminder.analysis.awareness import follow_answers, self_correction
    from safety_reminder.analysis.figures import draw
    from safety_reminder.analysis.summary import summarise_tracks, table
    from safety_reminder.evaluation.metrics import summarise

    model = answers.model
    assert model.reminder is not None
    assert model.guard is not None
    step = job.step or model.guard.config.interval
    threshold = model.guard.config.threshold
    tracks = follow_answers(model.vlm, model.reminder, examples, answers.unguarded, step=step, rows=job.rows)
    summary = summarise_tracks(tracks, [self_correction(model.vlm, record) for record in answers.guarded])
    write_text(output / "awareness.csv", table(tracks))
    draw(output, summary.curves, threshold=threshold)
    metrics = summarise(answers.guarded, answers.unguarded) | summary.correction_rates
    write_json(
        output / "summary.json",
        {
            "metrics": {name: metric.as_json() for name, metric in metrics.items()},
            **summary.as_json(),
            "config": {**job.model_dump(), "step": step, "threshold": threshold},
            "provenance": provenance(),
        },
    )
    return metrics, summary


def _print_delays(summary: Summary) -> None:
    for guard, kinds in summary.delays.items():
        if "harmful" in kinds:
            delay = kinds["harmful"]
            print(
                f"  {guard} answers to harmful requests that engage and back off do so after {delay.median:g} tokens "
                f"(quartiles {delay.lower_quartile:g} and {delay.upper_quartile:g}, n={delay.n})"
            )


COMMAND = Command(
    name="analyze awareness",
    about="p_unsafe and the log-odds of a refusal along unguarded answers, harmful and harmless, and how soon answers "
    "back off; writes awareness.csv, awareness.png, awareness.svg and summary.json.",
    examples=(
        "analyze awareness dataset=figstep dataset.root=data/FigStep output=runs/awareness",
        "analyze awareness model=llava-hf/llava-1.5-7b-hf reminder=./my-pack step=8",
    ),
    job=AwarenessJob,
    run=awareness,
    choices=CHOICES,
)
