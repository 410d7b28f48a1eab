"""``safety-reminder attack``: make requests that carry an attack, and measure it, unguarded and guarded."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import ConfigDict, model_validator

from safety_reminder.attacks import ATTACKS, Attack, attack_named
from safety_reminder.attacks.options import SplitConfig
from safety_reminder.commands import console
from safety_reminder.commands.command import Command, Kinds
from safety_reminder.commands.groups import (
    BatchSize,
    CheckBase,
    DatasetOptions,
    Device,
    DType,
    GuardChanges,
    GuardOptions,
    Model,
    Output,
)
from safety_reminder.commands.rows import named_datasets
from safety_reminder.config.names import require_found
from safety_reminder.config.options import Field, Options
from safety_reminder.config.reading import ReadingOptions
from safety_reminder.errors import ConfigError, unknown_name
from safety_reminder.run_files import provenance, run_folder, write_json
from safety_reminder.types import Example, Sampling

if TYPE_CHECKING:
    from safety_reminder.attacks.base import Arena, Judge, Outcome
    from safety_reminder.attacks.splits import Splits
    from safety_reminder.evaluation.statistics import Metric
    from safety_reminder.guard import GuardedVLM

ANSWERS = "answers"  # in a run folder


class ChosenAttack(Options):
    """An attack, and its options, which its own class checks."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def row(self) -> Attack:
        return attack_named(self.name)

    @property
    def options(self) -> Options:
        """Raises: ConfigError: an option that the attack does not have, or a wrong value."""
        return self.row.options.parse(self.model_extra or {}, "attack")


class AnswerOptions(Options):
    """How the attacked requests are answered in the end, and on the way."""

    max_new_tokens: Annotated[int, Field(ge=1, description="of an answer, at most")] = 64
    validation_tokens: Annotated[int, Field(ge=1, description="of an answer that is judged on the way")] = 48
    batch_size: BatchSize = 16
    clean: Annotated[bool, Field(description="answer the test requests without the attack as well, unguarded")] = True


class ChatOptions(Options):
    """A chat model that rewrites prompts, for attack=bap_rewrite."""

    model: Annotated[str | None, Field(description="a hub id or folder; with url: its name there")] = None
    url: Annotated[str | None, Field(description="of an OpenAI-compatible server, up to and with /v1")] = None


class AttackJob(Options):
    """The options of ``attack``."""

    model: Model = "pocket"
    reminder: Annotated[
        str | None,
        Field(description="the guard: pocket, a hub id, a folder, or none; known to the attack if it says so"),
    ] = "pocket"
    check_base: CheckBase = True
    preset: Annotated[
        str | None, Field(description="paper: the published settings, which options that are given change")
    ] = None
    test_on: Annotated[
        list[str],
        Field(
            description="NAME:FOLDER of the requests to measure on, in place of a part of the data set; requests that "
            "are in them are not learned from"
        ),
    ] = Field(default_factory=list)
    device: Device = None
    dtype: DType = "auto"
    output: Output = "runs/attack"
    attack: ChosenAttack
    dataset: DatasetOptions
    split: Annotated[SplitConfig, Field(description="of the data set's harmful requests")] = SplitConfig()
    guard: GuardChanges = GuardOptions()
    reading: ReadingOptions = ReadingOptions()
    answers: AnswerOptions = AnswerOptions()
    chat: ChatOptions = ChatOptions()

    @model_validator(mode="after")
    def _fit(self) -> Self:
        self.attack.options  # noqa: B018
        return self

    @property
    def with_guard(self) -> bool:
        return self.reminder not in (None, "none")

    def splits(self) -> Splits:
        """The harmful requests; those for advice are none.

        Raises:
            ConfigError, DataError: a data set or a split that cannot be had.
        """
        from safety_reminder.attacks.splits import divide, without

        examples = [example for example in self.dataset.load() if example.kind == "attack"]
        tested = self._tests()
        if repeated := [name for name, count in Counter(e.id for e in tested).items() if count > 1]:
            raise ConfigError(f"two requests of test_on have the id {repeated[0]!r}; ids must be unique")
        if not tested:
            return divide(examples, self.split)
        left = without(examples, tested)
        if len(left) < len(examples):
            print(f"{len(examples) - len(left)} requests are also tested on, and are not learned from")
        divided = divide(left, self.split.with_changes(test=0))
        return replace(divided, test=tested)

    def _tests(self) -> list[Example]:
        """The harmful requests of ``test_on``; the file or folder that each is from stands before its id."""
        sets = named_datasets("test_on", self.test_on)
        places = {entry: Path(entry.split(":")[1]).stem for entry in sets}
        return [
            replace(e, id=f"{places[entry]}/{e.id}") for entry, rows in sets.items() for e in rows if e.kind == "attack"
        ]


def attack(job: AttackJob, output: Path) -> dict[str, Metric]:
    """Run the attack into ``output``, and answer its test requests."""
    require_found(job.model, job.reminder if job.with_guard else None)
    splits = job.splits()
    with run_folder(output, reads=(job.model, job.reminder)):
        from safety_reminder.data.attack_runs import write_examples
        from safety_reminder.evaluation.runner import claim_configuration
        from safety_reminder.guard import load

        guarded = load(
            job.model,
            job.reminder if job.with_guard else None,
            device=job.device,  # type: ignore[arg-type]
            dtype=job.dtype,
            check_base=job.check_base,
            **job.reading.model_dump(),
            **job.guard.given(),
        )
        identity = _identity(job, guarded)
        claim_configuration(output, json.loads(json.dumps(job.model_dump() | identity)))
        began = time.perf_counter()
        outcome = job.attack.row.run(_arena(job, guarded, splits, output, identity), job.attack.options)
        # An attack that broke off says itself how long it took in all.
        cost = {"seconds": time.perf_counter() - began, **outcome.figures}
        write_examples(output, outcome.splits.named)
        return _measure(job, guarded, outcome, output, identity, cost)


def _identity(job: AttackJob, guarded: GuardedVLM) -> dict[str, Any]:
    """What an attack that broke off may only go on with, beside its own options and requests."""
    from safety_reminder.commands.answering import identity_of
    from safety_reminder.models import sampled_digest

    guard = asdict(guarded.guard.config) if guarded.guard else None
    model = {"dtype": str(guarded.vlm.model.dtype), "all_weights": sampled_digest(guarded.vlm.model)}
    return identity_of(guarded) | model | {"resolved_guard": guard, "chat_model": job.chat.model_dump()}


def _arena(job: AttackJob, guarded: GuardedVLM, splits: Splits, output: Path, identity: dict[str, Any]) -> Arena:
    from safety_reminder.attacks.base import Arena

    return Arena(
        guarded,
        splits,
        _judge(),
        output,
        identity=identity,
        chat=_chat(job.chat, job.device, job.dtype),
        tokens=job.answers.validation_tokens,
        batch_size=job.answers.batch_size,
    )


def _judge() -> Judge:
    from safety_reminder.attacks.base import Judge
    from safety_reminder.evaluation.refusal import judge_refusal
    from safety_reminder.evaluation.topic import succeeds_on_topic

    return Judge(lambda text: judge_refusal(text).where, succeeds_on_topic)


def _chat(options: ChatOptions, device: Any, dtype: str) -> Any:
    if options.model is None:
        return None
    from safety_reminder.evaluation.judges.chat import LocalChat, RemoteChat

    chat = RemoteChat(options.model, options.url) if options.url else LocalChat(options.model, device, dtype, 8)
    return chat.ask


def _measure(
    job: AttackJob,
    guarded: GuardedVLM,
    outcome: Outcome,
    output: Path,
    identity: dict[str, Any],
    cost: dict[str, Any],
) -> dict[str, Metric]:
    """Answer the test requests with the attack, unguarded and guarded, and without it; write ``summary.json``."""
    from safety_reminder.evaluation.metrics import summarise
    from safety_reminder.evaluation.runner import open_run, run

    sampling = Sampling(max_new_tokens=job.answers.max_new_tokens, do_sample=False)
    configuration = job.answers.model_dump() | identity
    sets = {"attacked": outcome.splits.test} | ({"clean": outcome.clean} if job.answers.clean else {})
    answered: dict[str, Any] = {}
    for name, examples in sets.items():
        records = open_run(output / ANSWERS / name, configuration, restart=True)
        kinds = (False, True) if name == "attacked" and job.with_guard else (False,)
        for guard in kinds:
            answered[f"{name}/{guard}"] = run(
                guarded, examples, records, guard=guard, batch_size=job.answers.batch_size, sampling=sampling
            )
    metrics = summarise(answered.get("attacked/True") or answered["attacked/False"], answered["attacked/False"])
    if not job.with_guard:
        metrics = {name: metric for name, metric in metrics.items() if not name.endswith("_unguarded")}
    if job.answers.clean:
        clean = summarise(answered["clean/False"])
        metrics |= {f"{name}_clean": metric for name, metric in clean.items() if name.startswith("attack_success")}
    write_json(
        output / "summary.json",
        {
            "metrics": {name: metric.as_json() for name, metric in metrics.items()},
            "cost": cost,
            "config": job.model_dump(),
            "provenance": provenance(),
        },
    )
    console.print_metrics(metrics)
    print("  ".join(f"{name}: {value:.4g}" for name, value in cost.items() if isinstance(value, int | float)))
    print(f"wrote {output}; dataset=attack_run dataset.root={output} answers its requests anywhere")
    return metrics


def expand(arguments: Sequence[str]) -> list[str]:
    """``preset=NAME`` in the attack's own options, ahead of those that are given.

    Raises:
        ConfigError: no such attack, or it has no such preset.
    """
    given = [argument.partition("=")[2] for argument in arguments if argument.startswith("preset=")]
    if not given or given[-1] in ("", "null", "none"):
        return list(arguments)
    names = [re.sub("^attack=", "", argument) for argument in arguments if argument.startswith("attack=")] or ["pgd"]
    presets = attack_named(names[-1]).presets
    if given[-1] not in presets:
        raise ConfigError(unknown_name(f"preset of attack={names[-1]}", given[-1], presets))
    options = [f"{name}={json.dumps(value) if value is None else value}" for name, value in presets[given[-1]].items()]
    chosen = [argument for argument in arguments if argument.startswith("attack=")]
    return [*chosen, *options, *(argument for argument in arguments if not argument.startswith("attack="))]


COMMAND = Command(
    name="attack",
    about="make requests that carry an attack, and measure them unguarded and guarded. A finished run is a data set: "
    "dataset=attack_run dataset.root=RUN. For testing models that you are responsible for.",
    examples=(
        "attack attack=pgd model=pocket dataset=advbench dataset.root=DATA attack.epsilon=32/255 output=runs/pgd",
        "attack attack=pgd attack.adaptive.against=probe dataset=advbench dataset.root=DATA output=runs/adaptive",
        "attack attack=gcg preset=paper model=llava-hf/llava-1.5-7b-hf reminder=none dataset=advbench",
    ),
    job=AttackJob,
    run=attack,
    choices={"dataset": "text", "attack": "pgd"},
    kinds={
        "attack": Kinds(tuple(ATTACKS), lambda name: attack_named(name).options, lambda name: attack_named(name).about)
    },
    expand=expand,
)
