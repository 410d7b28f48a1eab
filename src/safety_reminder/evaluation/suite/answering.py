"""Answering a suite with Inspect: a model for each defence, a log for each data set and defence."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from inspect_ai import Task, eval_set
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import Model, get_model

from safety_reminder.defenses import needs_reminder
from safety_reminder.errors import SafetyReminderError
from safety_reminder.evaluation.inspect.logs import Answers, read_answers
from safety_reminder.evaluation.inspect.provider import SafetyReminderAPI
from safety_reminder.evaluation.inspect.tasks import benchmark
from safety_reminder.evaluation.reading import read_pages, with_readings
from safety_reminder.evaluation.suite.suites import MONITOR, PLAIN, Suite, SuiteTask
from safety_reminder.models import VLM, weights_digest
from safety_reminder.types import Example


def load_models(suite: Suite, model: str, reminder: str | None, **shared: Any) -> dict[str, Model]:
    """A model for each defence of the suite, by its label.

    Args:
        shared: options of the provider that are the same for all.
    """
    models = {}
    for label, options in suite.defenses.items():
        # A rival that needs no reminder is not given one: guard options would have nothing to guard.
        reminder_or_none = reminder if needs_reminder(options["defense"]) else "none"
        models[label] = get_model(
            f"safety-reminder/{model}", memoize=False, label=label, reminder=reminder_or_none, **options, **shared
        )
    return models


def vlm_of(models: dict[str, Model]) -> VLM:
    """The model that all of them answer with."""
    return _api(models[PLAIN]).guarded.vlm


def identity_of(models: dict[str, Model]) -> dict[str, Any]:
    """Digests of the weights and the reminder, since names may come to mean others."""
    guarded = _api(models.get(MONITOR, models[PLAIN])).guarded
    digest = guarded.reminder.digest if guarded.reminder else None
    return {"weights": weights_digest(guarded.vlm.model), "reminder_digest": digest}


def as_answered(suite: Suite, models: dict[str, Model]) -> dict[str, Any]:
    """What a defence's answers depend on besides model and reminder, by its label: its options, and what it has learned
    itself."""
    return {
        label: {**options, "digest": _api(models[label]).defense.digest} for label, options in suite.defenses.items()
    }


def _api(model: Model) -> SafetyReminderAPI:
    assert isinstance(model.api, SafetyReminderAPI)
    return model.api


def answer_suite(suite: Suite, models: dict[str, Model], output: Path, logs: Path) -> None:
    """Answer all that has no finished log in ``logs`` yet; judges' verdicts are kept in ``output``.

    Raises:
        SafetyReminderError: some answers are missing; the same call goes on.
    """
    tasks = [_task(name, task, output) for name, task in suite.tasks.items()]
    # Inspect's own counts and warnings at start and end say nothing that ours do not.
    logging.getLogger("inspect_ai").setLevel(logging.WARNING)
    success, eval_logs = eval_set(
        tasks,
        model=list(models.values()),
        log_dir=str(logs),
        max_tasks=1,
        retry_attempts=1,
        retry_wait=1,
        log_buffer=8,
        log_images=False,
        log_dir_allow_dirty=True,
        display="rich" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else "plain",
    )
    if not success:
        raise SafetyReminderError(f"some answers are missing: {_first_problem(eval_logs)}; run the same command again")


def with_pages_read(
    models: dict[str, Model], answers: Sequence[Answers], examples: Sequence[Example], output: Path, batch_size: int
) -> list[Answers]:
    """Answers whose records say what the undefended model can read of their pages, kept in ``output``."""
    said = read_pages(_api(models[PLAIN]).guarded, examples, output, batch_size=batch_size)
    return [replace(answered, records=tuple(with_readings(answered.records, said))) for answered in answers]


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


def read_suite(logs: Path, suite: Suite) -> list[Answers]:
    """The answers of the suite, finished now or in an earlier run: those of the latest log for each data set and
    defence.

    Raises:
        SafetyReminderError: some are missing.
    """
    done: dict[tuple[str, str], Answers] = {}
    for path in sorted(logs.glob("*.eval")):
        log = read_eval_log(str(path))
        if log.status != "success":
            continue  # an attempt that a later log finished
        answers = read_answers(log)
        if answers.dataset in suite.tasks and answers.defense in suite.defenses:
            done[answers.defense, answers.dataset] = answers
    missing = [f"{label} on {name}" for label in suite.defenses for name in suite.tasks if (label, name) not in done]
    if missing:
        raise SafetyReminderError(f"no answers of {', '.join(missing)}; run the same command again")
    return [done[label, name] for label in suite.defenses for name in suite.tasks]
