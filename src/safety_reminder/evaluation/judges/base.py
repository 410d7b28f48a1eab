"""What judges take and give. A judge of harm says whether an answer is unsafe, a judge of answers how right it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from safety_reminder.errors import DataError, MessageError

UNREADABLE = "unreadable"
REASON = 300  # characters of why there is no verdict


@dataclass(frozen=True)
class Item:
    """What is judged.

    Args:
        prompt: the request.
        response: everything the user saw, text that was withdrawn later included.
        image: of the request: a path or a PIL image. Judges that read text alone do not see it.
        target: where there is a right answer, that answer in its benchmark's own notation.
    """

    prompt: str
    response: str
    image: Any | None = None
    target: str = ""


@dataclass(frozen=True)
class Judgement:
    """A verdict.

    Args:
        unsafe: whether the response is unsafe. None: the verdict could not be read, which is never taken for ``safe``;
            always None from a judge of answers, which says nothing about harm.
        score: of a judge of harm, how unsafe, in [0, 1], where it says so; of a judge of answers, how right, in [0, 1].
        label: the verdict in the judge's own words; ``unreadable`` where there was none to read.
        raw: what the judge wrote.
        votes: of a panel, each member's ``unsafe`` by its name.
    """

    unsafe: bool | None
    score: float | None
    label: str
    raw: str
    votes: dict[str, bool | None] | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@runtime_checkable
class Judge(Protocol):
    """``name`` and ``version`` identify the verdicts: two judges that share both give the same ones."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        """One judgement an item, in their order."""
        ...


class NoAnswer(str):
    """Why a judge's model was not asked, or gave no answer. No verdict is read in it."""

    __slots__ = ()


def unreadable(raw: str) -> Judgement:
    """The judge wrote something that is not a verdict, or ``raw`` says why there is none."""
    return Judgement(None, None, UNREADABLE, raw)


def read_answers(read: Callable[[str], Judgement], answers: Iterable[str]) -> list[Judgement]:
    """A judgement of each answer; unreadable where there is :class:`NoAnswer`."""
    return [unreadable(str(answer)) if isinstance(answer, NoAnswer) else read(answer) for answer in answers]


def judge_each(judge: Judge, items: Sequence[Item]) -> list[Judgement]:
    """One judgement an item. An item that the judge cannot take, for its image or its target, has an unreadable one,
    which says why, and does not keep the others from theirs."""
    try:
        return judge.judge(items)
    except (DataError, MessageError) as error:
        if len(items) == 1:
            return [unreadable(" ".join(str(error).split())[:REASON])]
    return [judgement for item in items for judgement in judge_each(judge, [item])]
