"""What a defence is, and what it may ask of the rooms above."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from safety_reminder.models import Messages
from safety_reminder.types import Request, Response

# For each request (text, image or None, answer), whether the answer is unsafe; None where the judge could not tell.
Verdicts = Callable[[Sequence[tuple[str, Any, str]]], Sequence[bool | None]]
Rewriter = Callable[[Sequence[str]], Sequence[str]]


class Defense(Protocol):
    """Answers a batch of requests that have the same settings.

    A response's ``text`` and ``seen_text`` are what the user saw, without what a defence withheld. ``seconds``
    covers all that the defence ran. The rows of a batch do not depend on each other, and messages are not changed. Each
    defence decides what to do with the guard of a request: most answer unguarded.

    Attributes:
        name: in :data:`~safety_reminder.defenses.DEFENSES`.
        monitors: its responses carry a guard's verdicts.
        needs_reminder: the model that it is given must have one.
        digest: of what it has learned itself, besides model and reminder; None: nothing.

    A class method ``from_options(guarded, helpers, **options)``, where there is one, makes it from what a command line
    can say; otherwise the constructor's arguments after ``guarded`` are its options.
    """

    name: ClassVar[str]
    monitors: ClassVar[bool]
    needs_reminder: ClassVar[bool]

    @property
    def digest(self) -> str | None: ...

    def respond(self, requests: Sequence[Request]) -> list[Response]: ...


class Helpers(Protocol):
    """Other models that a defence may ask for by name."""

    def verdicts(self, judge: str, options: Mapping[str, Any]) -> Verdicts:
        """A judge of harm."""
        ...

    def rewriter(self, model: str, url: str | None, prompt: str) -> Rewriter:
        """A chat model that rewrites requests as ``prompt``, which has ``{request}`` in it, asks for."""
        ...


def unguarded(request: Request, messages: Messages | None = None) -> Request:
    """The request without a guard, with other ``messages`` if there are any."""
    return replace(request, guard=False, messages=request.messages if messages is None else messages)
