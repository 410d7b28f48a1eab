"""What a defence is, what those that are guards share, and what one may ask of the rooms above."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from safety_reminder.errors import ConfigError
from safety_reminder.guard import GuardedVLM
from safety_reminder.guard.decoding import Kept
from safety_reminder.guard.policy import POLICIES
from safety_reminder.models import Messages
from safety_reminder.types import Example, Request, Response

NEVER = 2**31  # tokens between two checks, where none is to be made along the answer

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


class Guarding:
    """A defence that is a guard: ``guarded`` answers, with the policy, checks and thresholds that it has."""

    monitors: ClassVar[bool] = True
    needs_reminder: ClassVar[bool] = True
    digest: str | None = None

    def __init__(self, guarded: GuardedVLM) -> None:
        self.guarded = guarded

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        return self.guarded.respond([replace(request, guard=True) for request in requests])


class Helpers(Protocol):
    """Other models that a defence may ask for by name."""

    def verdicts(self, judge: str, options: Mapping[str, Any]) -> Verdicts:
        """A judge of harm."""
        ...

    def rewriter(self, model: str, url: str | None, prompt: str) -> Rewriter:
        """A chat model that rewrites requests as ``prompt``, which has ``{request}`` in it, asks for."""
        ...

    def examples(self, name: str) -> list[Example]:
        """Requests to choose and calibrate a detector on: ``shipped``, or a file as for ``dataset=text``."""
        ...


def with_changes(guarded: GuardedVLM, name: str, **options: Any) -> GuardedVLM:
    """The same model and reminder, with other guard options.

    Args:
        name: of the defence, for messages.

    Raises:
        ConfigError: policy or checks were set to something else, which would be ignored.
    """
    assert guarded.guard is not None
    config, reminder = guarded.guard.config, guarded.guard.reminder
    unset = {"policy": reminder.policy, "prompt_check": reminder.prompt_check, "final_check": True}
    for option, value in options.items():
        if (given := getattr(config, option)) not in (value, unset.get(option, given)):
            raise ConfigError(f"defense={name} sets {option} to {value!r} itself; leave {option}={given!r} out")
    return GuardedVLM(guarded.vlm, reminder, config.replace(**options), check_base=False)


def keeping(guarded: GuardedVLM, kept: Kept, name: str) -> GuardedVLM:
    """The same guard, which leaves ``kept`` in the context after an unsafe verdict.

    Args:
        name: of the defence, for messages.

    Raises:
        ConfigError: under the guard's policy nothing is left there.
    """
    assert guarded.guard is not None
    config = guarded.guard.config
    rule = POLICIES[config.policy]
    if rule.ends or not rule.acts:
        raise ConfigError(
            f"defense={name} differs in what stays after an unsafe verdict, and under policy={config.policy} nothing "
            "does; take policy=continue, rewind or restart"
        )
    return GuardedVLM(guarded.vlm, guarded.reminder, config, check_base=False, kept=kept)


def unguarded(request: Request, messages: Messages | None = None) -> Request:
    """The request without a guard, with other ``messages`` if there are any."""
    return replace(request, guard=False, messages=request.messages if messages is None else messages)
