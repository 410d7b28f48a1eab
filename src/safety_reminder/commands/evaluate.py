"""``safety-reminder evaluate``: a suite's data sets with every defence, then one table and one page."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from safety_reminder.commands import console
from safety_reminder.commands.command import Command
from safety_reminder.commands.groups import BatchSize, CheckBase, Device, DType, Model, Output, Reads
from safety_reminder.config.names import require_found, require_judge_found
from safety_reminder.config.options import Field, Options
from safety_reminder.config.reading import ReadingOptions
from safety_reminder.data import load_dataset
from safety_reminder.errors import ConfigError
from safety_reminder.outside import read_object
from safety_reminder.run_files import differing, provenance, run_folder, write_json, write_text
from safety_reminder.types import Example

if TYPE_CHECKING:
    from safety_reminder.evaluation.inspect.logs import Answers
    from safety_reminder.evaluation.suite.assembly import SuiteResults
    from safety_reminder.evaluation.suite.suites import Suite, SuiteTask

_LOGS = "logs"


class EvaluateJob(Options):
    """The options of ``evaluate``."""

    model: Model = "pocket"
    reminder: Annotated[str | None, Field(description="pocket, a hub id, a folder, or none")] = "pocket"
    check_base: CheckBase = True
    suite: Annotated[str, Field(description="quick, full, or a YAML file of your own")] = "quick"
    root: Annotated[str | None, Field(description="the folder that the suite's data sets are in")] = None
    defenses: Annotated[list[str] | None, Field(description="of the suite's, only these: defenses=[reminder,ecso]")] = (
        None
    )
    limit: Annotated[int | None, Field(ge=1, description="rows of each data set, at most")] = None
    max_tokens: Annotated[int | None, Field(ge=1, description="of an answer; null: the suite's")] = None
    samples: Annotated[int, Field(ge=0, description="answers on the page")] = 40
    reads: Reads = False
    batch_size: BatchSize = 8
    device: Device = None
    dtype: DType = "auto"
    output: Output = "runs/evaluate"
    reading: ReadingOptions = ReadingOptions()

    @property
    def with_reminder(self) -> bool:
        return self.reminder not in (None, "none")


def evaluate(job: EvaluateJob, output: Path) -> None:
    """Answer every data set of the suite with every defence, and write ``results.json``, ``results.md``,
    ``records.jsonl`` and ``report.html``. A rerun goes on from Inspect's logs, in ``logs``.

    Raises:
        ConfigError: an unknown suite or option, or a folder that holds another run.
        SafetyReminderError: some answers are missing; the same command goes on.
    """
    from safety_reminder.evaluation.suite.suites import load_suite

    suite = load_suite(
        job.suite,
        root=job.root,
        reminder=job.with_reminder,
        defenses=job.defenses,
        limit=job.limit,
        max_tokens=job.max_tokens,
    )
    require_found(job.model, job.reminder if job.with_reminder else None)
    for options in (task.judge_options for task in suite.tasks.values()):
        for judge in options.values():
            require_judge_found(judge if isinstance(judge, dict) else {})
    examples = {name: _examples(task) for name, task in suite.tasks.items()}
    with run_folder(output, reads=(job.model, job.reminder)):
        _answer_and_write(job, output, suite, examples)


def _answer_and_write(job: EvaluateJob, output: Path, suite: Suite, examples: dict[str, dict[str, Example]]) -> None:
    from safety_reminder.evaluation.answerable import require_answerable
    from safety_reminder.evaluation.suite import answering
    from safety_reminder.evaluation.suite.assembly import assemble
    from safety_reminder.guard import load_reminder

    print(f"loading {job.model} ...", file=sys.stderr)
    shared = job.model_dump(include={"check_base", "batch_size", "device", "dtype"}) | job.reading.model_dump()
    models = answering.load_models(suite, job.model, job.reminder, **shared)
    for name, rows in examples.items():
        require_answerable(answering.vlm_of(models), list(rows.values()), of=f"{name}, ")
    config = {
        **job.model_dump(),
        "defenses": suite.defenses,
        "tasks": {name: asdict(task) for name, task in suite.tasks.items()},
        "rows_sha256": {name: _digest(name, rows) for name, rows in examples.items()},
        **answering.identity_of(models),
        "answered": answering.as_answered(suite, models),
    }
    _begin(output, config)
    answering.answer_suite(suite, models, output, output / _LOGS)
    answers = answering.read_suite(output / _LOGS, suite)
    for line in _write_for_graders(output, suite, answers):
        print(line)
    if job.reads:
        rows = [example for task in examples.values() for example in task.values()]
        answers = answering.with_pages_read(models, answers, rows, output, job.batch_size)
    threshold = load_reminder(str(job.reminder)).threshold if job.with_reminder else None
    _write(job, output, config, answers, assemble(answers, threshold), examples)


def _write_for_graders(output: Path, suite: Suite, answers: Sequence[Answers]) -> list[str]:
    """The answers to MM-Vet with each defence, for its official grader, and a line about each file."""
    from safety_reminder.evaluation.mmvet_results import write_mmvet

    return [
        write_mmvet(output / "mmvet" / f"{answered.dataset}-{answered.defense}.json", answered.records)
        for answered in answers
        if suite.tasks[answered.dataset].dataset == "mmvet"
    ]


def _examples(task: SuiteTask) -> dict[str, Example]:
    return {example.id: example for example in load_dataset(task.dataset, task.root, **task.options)}


def _digest(name: str, examples: Mapping[str, Example]) -> str:
    """SHA-256 of what is asked, images included, and of the right answers."""
    from safety_reminder.evaluation.answerable import identities

    rows = []
    found = identities(list(examples.values()), of=f"{name}, ")
    for example in examples.values():
        known = dict(found[example.id])
        context = known.pop("context_sha256")
        # Left out where there is none, as in the digests that earlier versions wrote.
        more = [*([context] if context else []), *(["advice"] if example.advice else [])]
        rows.append([example.id, *known.values(), *more, example.target, example.category])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _begin(output: Path, config: dict[str, Any]) -> None:
    """Keep the configuration, which may not differ from that of existing answers."""
    from safety_reminder.evaluation.runner import another_configuration, differing_options

    if (output / _LOGS).is_dir():
        if changed := differing_options(output, config):
            raise another_configuration(output, changed)
        config["answered"] = _with_earlier(config["answered"], output)
    write_json(output / "config.json", config)


def _with_earlier(answered: dict[str, Any], output: Path) -> dict[str, Any]:
    """The defences of this run, and those of earlier ones into the folder.

    Raises:
        ConfigError: one of them has other options now, and existing answers would pass for its own.
    """
    before = read_object(output / "config.json", ConfigError, "the configuration of a run").get("answered", {})
    if not isinstance(before, dict):
        raise ConfigError(f"{output / 'config.json'} is not the configuration of a run; give another output=DIR")
    for label, options in json.loads(json.dumps(answered)).items():
        if differing({label: options}, {label: before.get(label, options)}):
            raise ConfigError(
                f"{output} holds answers of the defence {label!r} with other options; "
                "give it another label, or another output=DIR"
            )
    return before | answered


def _write(
    job: EvaluateJob,
    output: Path,
    config: dict[str, Any],
    answers: Sequence[Answers],
    tables: SuiteResults,
    examples: dict[str, dict[str, Example]],
) -> None:
    from safety_reminder.evaluation.metrics import unread_reasons
    from safety_reminder.evaluation.pages.report import agreement_lines, write_markdown, write_report
    from safety_reminder.evaluation.records import to_json

    results = {**tables.as_json(), "config": config, "provenance": provenance() | {"judges": tables.judges}}
    lines = [
        json.dumps({"defense": answered.defense, "dataset": answered.dataset, **to_json(record)}, ensure_ascii=False)
        for answered in answers
        for record in answered.records
    ]
    write_text(output / "records.jsonl", "\n".join(lines) + "\n")
    write_json(output / "results.json", results)
    sentences = agreement_lines(tables.agreed)
    markdown = write_markdown(output / "results.md", tables.table, sentences)
    write_report(
        output / "report.html", results, tables.table, tables.records, tables.curve, examples, job.samples, sentences
    )
    print(markdown)
    console.print_metrics(tables.metrics)
    for line in unread_reasons([record for answered in answers for record in answered.records]):
        print(line)
    print(f"wrote {output / 'results.json'}, results.md and records.jsonl; open {output / 'report.html'}")


COMMAND = Command(
    name="evaluate",
    about="data sets x defences: results.json, results.md and one self-contained page, report.html. Inspect's logs are "
    "in output/logs. The same command goes on where it was.",
    examples=(
        "evaluate model=pocket reminder=pocket suite=quick output=runs/quick",
        "evaluate model=pocket reminder=pocket suite=full root=DATA output=runs/full",
        "evaluate model=llava-hf/llava-1.5-7b-hf reminder=./my-pack suite=mine.yaml root=DATA",
    ),
    job=EvaluateJob,
    run=evaluate,
)
