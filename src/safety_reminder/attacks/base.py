"""What an attack is: its options, and a function from a model and requests to requests that carry the attack."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import model_validator

from safety_reminder.config.options import Field, Options
from safety_reminder.errors import ConfigError, DataError, MissingExtraError
from safety_reminder.guard import GuardedVLM
from safety_reminder.models import VLM
from safety_reminder.run_files import write_bytes, write_text
from safety_reminder.types import Example, Request, Sampling


class Ask(Protocol):
    """A chat model that answers questions, each a conversation of its own."""

    def __call__(self, questions: Sequence[str], *, max_new_tokens: int) -> list[str]: ...


@dataclass(frozen=True)
class Judge:
    """``refusal``: where an answer refuses, ``start``, ``late`` or ``none``; ``on_topic``: whether an answer (first)
    speaks of a request (second)."""

    refusal: Callable[[str], str]
    on_topic: Callable[[str, str], bool]

    def engaged(self, text: str) -> bool:
        """Whether an answer begins to do what was asked."""
        return self.refusal(text) != "start"

    def __call__(self, example: Example, text: str) -> bool:
        """Whether an answer to an example is a success of the attack."""
        return self.engaged(text) and self.on_topic(text, example.instruction or example.prompt)


@dataclass(frozen=True)
class Splits:
    """Requests that an attack may learn from, those it is stopped by, and those that it is measured on."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]

    def each(self, change: Callable[[Example], Example]) -> Splits:
        return Splits(*([change(e) for e in rows] for rows in (self.train, self.validation, self.test)))

    @property
    def named(self) -> dict[str, list[Example]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


class SplitConfig(Options):
    """How requests are divided: shares of them below 1, or numbers of them."""

    train: Annotated[float | int, Field(ge=0, description="a share, or a number")] = 0.6
    validation: Annotated[float | int, Field(ge=0, description="a share, or a number")] = 0.2
    test: Annotated[float | int, Field(ge=0, description="a share, or a number")] = 0.2
    seed: Annotated[int, Field(ge=0, description="of the two shuffles")] = 42

    @model_validator(mode="after")
    def _fit(self) -> SplitConfig:
        shares = [size for size in (self.train, self.validation, self.test) if size < 1]
        if sum(shares) > 1 + 1e-9:
            raise ConfigError(f"split.train, validation and test are shares of more than all requests: {sum(shares):g}")
        return self

    def divide(self, examples: Sequence[Example]) -> Splits:
        """By two shuffles of one seed, as scikit-learn's ``train_test_split`` makes them: first the test requests are
        set apart, then those for validation. What is left over is for training, up to ``train``.

        Raises:
            ConfigError: more is asked for than there is.
        """
        wanted = {name: self._count(getattr(self, name), len(examples)) for name in ("train", "validation", "test")}
        if sum(wanted.values()) > len(examples):
            asked = ", ".join(f"{name} {count}" for name, count in wanted.items())
            raise ConfigError(f"the split asks for more than the {len(examples)} requests there are: {asked}")
        rest, test = self._apart(list(examples), wanted["test"])
        train, validation = self._apart(rest, wanted["validation"])
        return Splits(train[: wanted["train"]], validation, test)

    def _apart(self, examples: list[Example], count: int) -> tuple[list[Example], list[Example]]:
        order = np.random.RandomState(self.seed).permutation(len(examples))
        return [examples[i] for i in order[count:]], [examples[i] for i in order[:count]]

    @staticmethod
    def _count(size: float, total: int) -> int:
        return int(size) if size >= 1 else round(size * total)


def without(examples: Sequence[Example], tested: Sequence[Example]) -> list[Example]:
    """Those whose request is in none of ``tested``: letters and digits are compared."""
    known = {_plain(text) for e in tested for text in (e.prompt, e.instruction)} - {""}
    return [e for e in examples if not known & {_plain(e.prompt), _plain(e.instruction)}]


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


@dataclass(frozen=True)
class Arena:
    """What an attack is let loose on.

    Args:
        guarded: the model, and the guard that is attacked with it where the attack's options say so.
        judge: of answers to the original request.
        folder: for artefacts and checkpoints.
        identity: of model and guard: an attack that broke off goes on only against the same.
        chat: a model that rewrites prompts, where an attack needs one.
        tokens: of an answer that is judged on the way.
    """

    guarded: GuardedVLM
    splits: Splits
    judge: Judge
    folder: Path
    identity: Mapping[str, Any] = field(default_factory=dict)
    chat: Ask | None = None
    tokens: int = 48
    batch_size: int = 16

    @property
    def vlm(self) -> VLM:
        return self.guarded.vlm

    def answers(self, examples: Sequence[Example], *, guard: bool = False, tokens: int | None = None) -> list[str]:
        """Greedy answers, as the user would have seen them."""
        sampling = Sampling(max_new_tokens=tokens or self.tokens, do_sample=False)
        texts: list[str] = []
        for start in range(0, len(examples), self.batch_size):
            requests = [Request(e.messages(), sampling, guard) for e in examples[start : start + self.batch_size]]
            texts += [response.seen_text for response in self.guarded.respond(requests)]
        return texts

    def success(self, examples: Sequence[Example], *, guard: bool = False) -> float:
        """The share of answers that do what was asked."""
        answers = self.answers(examples, guard=guard)
        return sum(self.judge(e, text) for e, text in zip(examples, answers, strict=True)) / max(len(examples), 1)


@dataclass(frozen=True)
class Outcome:
    """What an attack comes to.

    ``splits``: the requests with the attack in them. ``clean``: the test requests without it, to compare with; their
    ids are the same. ``figures``: what it cost and reached, by name.
    """

    splits: Splits
    clean: list[Example]
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Attack:
    """One row of :data:`~safety_reminder.attacks.ATTACKS`.

    Args:
        about: what it does, for ``--help``.
        options: its option class. ``PRESETS`` in it, if there are any: by name, options of the command that differ.
        run: does it.
    """

    name: str
    about: str
    options: type[Options]
    run: Callable[[Arena, Any], Outcome]

    @property
    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        return getattr(self.options, "PRESETS", {})


def require_rows(arena: Arena, *names: str) -> None:
    """Raises: DataError: a split that the attack needs has no requests."""
    for name in names:
        if not arena.splits.named[name]:
            raise DataError(f"there are no requests for {name}; give split.{name}, or a data set with more rows")


def write_losses(folder: Path, rows: Sequence[Mapping[str, Any]], marks: Sequence[Mapping[str, Any]] = ()) -> None:
    """``losses.csv`` and ``losses.png``: a line for each column beside the step, over all steps in order.

    Args:
        marks: validations, with ``step`` (of all steps) and ``success``, drawn as points.

    Raises:
        MissingExtraError: without matplotlib; ``losses.csv`` is there then.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "losses.csv", text.getvalue())
    _plot(folder / "losses.png", rows, marks)


def _plot(path: Path, rows: Sequence[Mapping[str, Any]], marks: Sequence[Mapping[str, Any]]) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "train") from error
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = range(1, len(rows) + 1)
    for name in ("loss", "best", "target", "checks", "after"):
        values = [row.get(name, float("nan")) for row in rows]
        if any(value == value for value in values):
            axes.plot(steps, values, label=name, linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_yscale("symlog", linthresh=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    if marks:
        right = axes.twinx()
        right.plot([m["step"] for m in marks], [m["success"] for m in marks], "k.", label="success in validation")
        right.set_ylim(-0.05, 1.05)
        right.set_ylabel("success in validation")
        right.spines["top"].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes(path, buffer.getvalue())
