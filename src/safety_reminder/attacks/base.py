"""What an attack is: its options, and a function from a model and requests to requests that carry the attack."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from safety_reminder.attacks.splits import Splits
from safety_reminder.errors import DataError
from safety_reminder.guard import GuardedVLM
from safety_reminder.models import VLM
from safety_reminder.run_files import write_text
from safety_reminder.types import Example, Request, Response, Sampling

log = logging.getLogger(__name__)


Respond = Callable[[Sequence[Request]], Sequence[Response]]


class Ask(Protocol):
    """A chat model that answers questions, each a conversation of its own."""

    def __call__(self, questions: Sequence[str], *, max_new_tokens: int) -> list[str]: ...


@dataclass(frozen=True)
class Judge:
    """``refusal``: where an answer refuses, ``start``, ``late`` or ``none``; ``on_topic``: whether an answer (first)
    does something about a request (second), after what it was begun with (third)."""

    refusal: Callable[[str], str]
    on_topic: Callable[[str, str, str], bool]

    def engaged(self, text: str) -> bool:
        """Whether an answer begins to do what was asked."""
        return self.refusal(text) != "start"

    def __call__(self, example: Example, text: str) -> bool:
        """Whether an answer to an example is a success of the attack."""
        return self.engaged(text) and self.on_topic(text, example.instruction or example.prompt, example.prefill)


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

    def answers(
        self,
        examples: Sequence[Example],
        *,
        guard: bool = False,
        tokens: int | None = None,
        respond: Respond | None = None,
    ) -> list[str]:
        """Greedy answers, as the user would have seen them; by ``respond``, where a rival defends the model."""
        respond = respond or self.guarded.respond
        sampling = Sampling(max_new_tokens=tokens or self.tokens, do_sample=False)
        texts: list[str] = []
        for start in range(0, len(examples), self.batch_size):
            requests = [Request(e.messages(), sampling, guard) for e in examples[start : start + self.batch_size]]
            texts += [response.seen_text for response in respond(requests)]
        return texts

    def success(self, examples: Sequence[Example], *, guard: bool = False, respond: Respond | None = None) -> float:
        """The share of answers that do what was asked."""
        answers = self.answers(examples, guard=guard, respond=respond)
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


def require_rows(arena: Arena, *names: str) -> None:
    """Raises: DataError: a split that the attack needs has no requests."""
    for name in names:
        if not arena.splits.named[name]:
            raise DataError(f"there are no requests for {name}; give split.{name}, or a data set with more rows")


def write_losses(folder: Path, rows: Sequence[Mapping[str, Any]], marks: Sequence[Mapping[str, Any]] = ()) -> None:
    """``losses.csv`` and ``losses.png``: a line for each column beside the step, over all steps in order.

    Args:
        marks: validations, with ``step`` (of all steps) and ``success``, drawn as points.
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
    except ImportError:
        log.warning("losses.png is not drawn without matplotlib; install safety-reminder[train]")
        return
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
    axes.legend(frameon=False, loc="lower left")
    scratch = path.with_name(f".{path.name}")
    figure.savefig(scratch, dpi=110, format="png")
    os.replace(scratch, path)
