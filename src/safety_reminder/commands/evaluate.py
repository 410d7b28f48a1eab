"""What the command ``evaluate`` does: a suite's data sets behind every defence with Inspect, then tables and a page."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inspect_ai import Task, eval_set
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import Model, get_model

from safety_reminder.commands import console
from safety_reminder.data import load_dataset
from safety_reminder.errors import ConfigError, SafetyReminderError
from safety_reminder.evaluation.inspect.logs import Answers, read_answers
from safety_reminder.evaluation.inspect.provider import SafetyReminderAPI
from safety_reminder.evaluation.inspect.tasks import benchmark
from safety_reminder.evaluation.pages.report import agreement_lines, write_markdown, write_report
from safety_reminder.evaluation.records import identity, to_json
from safety_reminder.evaluation.runner import another_configuration, differing_options
from safety_reminder.evaluation.suite.results import (
    ALL,
    agreements,
    awareness,
    by_defense,
    categories,
    headline,
    judge_versions,
    sweep,
    tabulate,
)
from safety_reminder.evaluation.suite.suites import MONITOR, PLAIN, Suite, SuiteTask, load_suite
from safety_reminder.models import weights_digest
from safety_reminder.run_files import provenance, write_json, write_text
from safety_reminder.types import Example

_LOGS = "logs"


def evaluate(values: dict[str, Any], output: Path) -> None:
    """Answer every data set of the suite behind every defence, and write ``results.json``, ``results.md``,
    ``records.jsonl`` and ``report.html``. Inspect's logs, in ``logs``, are what a rerun goes on from.

    Raises:
        ConfigError: an unknown suite or option, or a folder that holds another run.
        SafetyReminderError: some answers are missing; the same command goes on.
    """
    with_reminder = values["reminder"] not in (None, "none")
    suite = load_suite(
        values["suite"],
        root=values["root"],
        reminder=with_reminder,
        defenses=values["defenses"],
        limit=values["limit"],
        max_tokens=values["max_tokens"],
    )
    examples = {name: _examples(task) for name, task in suite.tasks.items()}
    print(f"loading {values['model']} ...", file=sys.stderr)
    models = {label: _model(values, label, options) for label, options in suite.defenses.items()}
    tasks = {name: asdict(task) for name, task in suite.tasks.items()}
    config = {
        **values,
        "defenses": suite.defenses,
        "tasks": tasks,
        "rows_sha256": {name: _digest(rows) for name, rows in examples.items()},
        **_identity(models),
        "answered": {label: _as_answered(options, models[label]) for label, options in suite.defenses.items()},
    }
    if (output / _LOGS).is_dir():
        if differing := differing_options(output, config):
            raise another_configuration(output, differing)
        config["answered"] = _with_earlier(config["answered"], output)
    write_json(output / "config.json", config)
    _run(suite, models, output)
    # From all logs of the folder that are the latest of their task and model: finished now, or in an earlier run.
    answers = _read(output / _LOGS, suite)
    _write(values, output, config, answers, examples)


def _examples(task: SuiteTask) -> dict[str, Example]:
    return {example.id: example for example in load_dataset(task.dataset, task.root, **task.options)}


def _model(values: dict[str, Any], label: str, options: dict[str, Any]) -> Model:
    shared = {name: values[name] for name in ("check_base", "batch_size", "device", "dtype")}
    # A rival that needs no reminder is not given one: guard options would have nothing to guard.
    reminder = values["reminder"] if options["defense"] in ("reminder", "prompt_tuning") else "none"
    return get_model(
        f"safety-reminder/{values['model']}", memoize=False, label=label, reminder=reminder, **options, **shared
    )


def _identity(models: dict[str, Model]) -> dict[str, Any]:
    """The weights and the reminder behind names that may come to mean others."""
    api = models.get(MONITOR, models[PLAIN]).api
    assert isinstance(api, SafetyReminderAPI)
    guarded = api.guarded
    digest = guarded.reminder.digest if guarded.reminder else None
    return {"weights": weights_digest(guarded.vlm.model), "reminder_digest": digest}


def _as_answered(options: dict[str, Any], model: Model) -> dict[str, Any]:
    """What a defence's answers depend on beside model and reminder: its options, and what it has learned itself."""
    assert isinstance(model.api, SafetyReminderAPI)
    return {**options, "digest": getattr(model.api.defense, "digest", None)}


def _with_earlier(answered: dict[str, Any], output: Path) -> dict[str, Any]:
    """The defences of this run, and those of earlier ones into the folder.

    Raises:
        ConfigError: one of them has other options now, and the answers that are there would pass for its own.
    """
    before = json.loads((output / "config.json").read_text(encoding="utf-8")).get("answered", {})
    for label, options in json.loads(json.dumps(answered)).items():
        if before.get(label, options) != options:
            raise ConfigError(
                f"{output} holds answers of the defence {label!r} with other options; "
                "give it another label, or another output=DIR"
            )
    return before | answered


def _digest(examples: Mapping[str, Example]) -> str:
    """SHA-256 of what is asked, images included, and of the right answers."""
    rows = [[example.id, *identity(example), example.target, example.category] for example in examples.values()]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _run(suite: Suite, models: dict[str, Model], output: Path) -> None:
    tasks = [_task(name, task, output) for name, task in suite.tasks.items()]
    # Inspect's own counts and warnings at start and end say nothing that ours do not.
    logging.getLogger("inspect_ai").setLevel(logging.WARNING)
    success, logs = eval_set(
        tasks,
        model=list(models.values()),
        log_dir=str(output / _LOGS),
        max_tasks=1,
        retry_attempts=1,
        retry_wait=1,
        log_buffer=8,
        log_images=False,
        log_dir_allow_dirty=True,
        display="rich" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else "plain",
    )
    if not success:
        raise SafetyReminderError(f"some answers are missing: {_first_problem(logs)}; run the same command again")


def _task(name: str, task: SuiteTask, output: Path) -> Task:
    return benchmark(
        dataset=task.dataset,
        root=task.root,
        options=task.options,
        judges=list(task.judges),
        judge_options=task.judge_options,
        cache=str(output / "verdicts.jsonl") if task.judges else None,
        name=name,
        max_tokens=task.max_tokens,
    )


def _first_problem(logs: Sequence[EvalLog]) -> str:
    for log in logs:
        if log.status != "success":
            return f"{log.eval.task}: {log.error.message if log.error else log.status}"
    return "Inspect gives no reason"


def _read(folder: Path, suite: Suite) -> list[Answers]:
    """The answers of the suite, one log each."""
    found: dict[tuple[str, str], Answers] = {}
    for path in sorted(folder.glob("*.eval")):
        log = read_eval_log(str(path))
        if log.status != "success":
            continue  # an attempt that a later log finished
        answers = read_answers(log)
        if answers.dataset in suite.tasks and answers.defense in suite.defenses:
            found[answers.defense, answers.dataset] = answers
    missing = [f"{label} on {name}" for label in suite.defenses for name in suite.tasks if (label, name) not in found]
    if missing:
        raise SafetyReminderError(f"no answers of {', '.join(missing)}; run the same command again")
    return [found[label, name] for label in suite.defenses for name in suite.tasks]


def _write(
    values: dict[str, Any],
    output: Path,
    config: dict[str, Any],
    answers: Sequence[Answers],
    examples: dict[str, dict[str, Example]],
) -> None:
    records = by_defense(answers)
    table = tabulate(records, PLAIN)
    main = next((label for label in records if label == "reminder"), PLAIN)
    watched = records.pop(MONITOR, {}).get(ALL, [])
    table.pop(MONITOR, None)
    metrics = headline(table, main, PLAIN) if main != PLAIN else dict(table[PLAIN][ALL])
    threshold = _threshold(watched, values)
    curve = sweep(watched, threshold)
    everything = [record for one in answers for record in one.records]
    agreed = agreements(everything)
    sentences = agreement_lines(agreed)
    results = {
        "metrics": {name: metric.as_json() for name, metric in metrics.items()},
        "defenses": {
            label: {name: {metric: value.as_json() for metric, value in found.items()} for name, found in sets.items()}
            for label, sets in table.items()
        },
        "categories": {
            label: {name: metric.as_json() for name, metric in categories(sets[ALL]).items()}
            for label, sets in records.items()
        },
        "sweep": [point.as_json() for point in curve],
        "awareness": awareness(watched),
        "threshold": threshold,
        "agreement": {name: found.as_json() for name, found in agreed.items()},
        "config": config,
        "provenance": provenance() | {"judges": judge_versions(everything)},
    }
    lines = [
        json.dumps({"defense": one.defense, "dataset": one.dataset, **to_json(record)}, ensure_ascii=False)
        for one in answers
        for record in one.records
    ]
    write_text(output / "records.jsonl", "\n".join(lines) + "\n")
    write_json(output / "results.json", results)
    markdown = write_markdown(output / "results.md", table, sentences)
    write_report(output / "report.html", results, table, records, curve, examples, values["samples"], sentences)
    print(markdown)
    console.print_metrics(metrics)
    print(f"wrote {output / 'results.json'}, results.md and records.jsonl; open {output / 'report.html'}")


def _threshold(watched: Sequence[Any], values: dict[str, Any]) -> float | None:
    """The one that the recorded verdicts were made with: the pack's own."""
    if not watched:
        return None
    from safety_reminder.guard import load_reminder

    return load_reminder(values["reminder"]).threshold
