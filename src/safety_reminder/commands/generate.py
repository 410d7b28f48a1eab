"""``safety-reminder generate``: answer a data set, guarded or not, into a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safety_reminder.commands import console
from safety_reminder.commands.answering import CHOICES, AnsweringJob, answer, with_pages_read
from safety_reminder.commands.command import Command
from safety_reminder.commands.groups import Output, Reads
from safety_reminder.config.names import require_found
from safety_reminder.run_files import run_folder
from safety_reminder.types import Record


class GenerateJob(AnsweringJob):
    """The options of ``generate``."""

    output: Output = "runs/generate"
    reads: Reads = False


def generate(job: GenerateJob, output: Path) -> None:
    """Answer a data set into ``output``; with ``compare``, also unguarded. Writes ``records.jsonl`` and
    ``summary.json``, and for MM-Vet ``mmvet.json``, which its official grader reads."""
    require_found(job.model, job.reminder if job.with_guard else None)
    examples = job.dataset.load()
    with run_folder(output, reads=job.sources):
        answers = answer(job, output, examples)
        from safety_reminder.evaluation.metrics import by_category
        from safety_reminder.evaluation.runner import write_summary

        if job.reads:
            answers = with_pages_read(answers, examples, output, job.batch_size)
        rows, compared = (answers.guarded, answers.unguarded) if answers.guarded else (answers.unguarded, ())
        metrics = write_summary(output, rows, compared, job.model_dump())
        written = _write_for_graders(job, output, rows, compared)
    console.print_metrics(metrics)
    console.print_categories(by_category(rows))
    print("\n".join([*written, f"wrote {output / 'records.jsonl'} and {output / 'summary.json'}"]))


def _write_for_graders(job: GenerateJob, output: Path, rows: Sequence[Record], compared: Sequence[Record]) -> list[str]:
    """Answers in the formats of benchmarks' own graders, and a line about each file."""
    if job.dataset.name != "mmvet":
        return []
    from safety_reminder.evaluation.mmvet_results import write_mmvet

    files = {"mmvet.json": rows, "mmvet_unguarded.json": compared}
    return [write_mmvet(output / name, records) for name, records in files.items() if records]


COMMAND = Command(
    name="generate",
    about="answer a data set, guarded, into a run folder.",
    examples=(
        "generate model=pocket reminder=pocket dataset=figstep dataset.root=data/FigStep output=runs/figstep",
        "generate model=llava-hf/llava-1.5-7b-hf reminder=./my-pack dataset=typographic dataset.root=my.csv",
        "generate reminder=none dataset=text dataset.root=prompts.csv dataset.limit=32",
    ),
    job=GenerateJob,
    run=generate,
    choices=CHOICES,
)
