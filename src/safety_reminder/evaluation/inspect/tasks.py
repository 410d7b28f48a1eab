"""The Inspect task :func:`benchmark`, over any data set of :data:`~safety_reminder.data.DATASETS`.

inspect eval safety_reminder/benchmark -T dataset=figstep -T root=data/FigStep --model safety-reminder/pocket
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Scorer
from inspect_ai.solver import Solver, generate

from safety_reminder.config.options import checked
from safety_reminder.data import load_dataset
from safety_reminder.errors import ConfigError, unknown_name
from safety_reminder.evaluation.answerable import identities
from safety_reminder.evaluation.inspect.conversations import as_chat_messages
from safety_reminder.evaluation.inspect.scorers import harm, refusal, utility
from safety_reminder.evaluation.inspect.solvers import ATTACK_SOLVERS
from safety_reminder.evaluation.judges import JUDGES, OF_ANSWERS
from safety_reminder.evaluation.records import identity
from safety_reminder.types import Example


@task
def benchmark(
    dataset: str,
    root: str = "",
    options: dict[str, Any] | None = None,
    judges: str | list[str] | None = None,
    judge_options: dict[str, Any] | None = None,
    cache: str | None = None,
    name: str | None = None,
    attack: str | None = None,
    attack_options: dict[str, Any] | None = None,
    max_tokens: int = 512,
    temperature: float = 0.0,
    seed: int | None = None,
) -> Task:
    """A data set, answered, and scored by refusal rules and by ``judges``.

    Args:
        dataset: a name of :data:`~safety_reminder.data.DATASETS`. root: its file or folder.
        options: of the loader, such as ``{"subset": "SafeBench-Tiny"}``, and ``limit`` and ``seed`` of a sample.
        judges: further ones by name, in a list or with commas. judge_options: those of each judge, by its name.
        cache: file of the judges' verdicts, so that none is asked for twice.
        name: of the task; default: the data set's.
        attack: a solver of :mod:`safety_reminder.evaluation.inspect.solvers`, by name, that changes every request
            first. attack_options: its options.
        max_tokens, temperature, seed: of the answers. Temperature 0 is greedy.
    """
    examples = load_dataset(dataset, root, **(options or {}))
    known = identities(examples)
    return Task(
        name=name or dataset,
        dataset=MemoryDataset([as_sample(e, known[e.id]) for e in examples], name=dataset),
        solver=[*_attack(attack, attack_options or {}), generate()],
        scorer=_scorers(judges, judge_options or {}, cache),
        config=GenerateConfig(max_tokens=max_tokens, temperature=temperature, seed=seed),
    )


def _attack(name: str | None, options: dict[str, Any]) -> list[Solver]:
    if name is None:
        return []
    if name not in ATTACK_SOLVERS:
        raise ConfigError(unknown_name("attack", name, ATTACK_SOLVERS))
    return [ATTACK_SOLVERS[name](**options)]


def _scorers(judges: str | list[str] | None, options: dict[str, Any], cache: str | None) -> list[Scorer]:
    """Refusal rules first, then what was asked for."""
    checked(str | list[str] | None, judges, "judges")
    checked(dict[str, dict[str, Any] | None], options, "judge_options")
    names = [name.strip() for name in (judges.split(",") if isinstance(judges, str) else judges or [])]
    for name in names:
        if name not in JUDGES:
            raise ConfigError(unknown_name("judge", name, JUDGES))
    for name in options:
        if name not in names:
            raise ConfigError(unknown_name("judge in judge_options", name, names))
    return [refusal(), *((utility if n in OF_ANSWERS else harm)(n, options.get(n), cache) for n in names)]


def as_sample(example: Example, known: Mapping[str, Any] | None = None) -> Sample:
    """An example, with what metrics need to know about it in its metadata. ``known``: its identity, where it was
    already found."""
    return Sample(
        input=as_chat_messages(example),
        target=example.target,
        id=example.id,
        metadata={
            "category": example.category,
            "instruction": example.instruction,
            "prefill": example.prefill,
            "advice": example.advice,
            **(identity(example) if known is None else known),
        },
    )
