"""No defence, and the reminder: the two ends of every comparison."""

from __future__ import annotations

from collections.abc import Sequence

from safety_reminder.defenses.base import Guarding, unguarded
from safety_reminder.guard import GuardedVLM
from safety_reminder.types import Request, Response


class Undefended:
    """The model as it is."""

    name = "none"
    monitors = False
    needs_reminder = False
    digest = None

    def __init__(self, guarded: GuardedVLM) -> None:
        self._guarded = guarded

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        return self._guarded.respond([unguarded(request) for request in requests])


class Reminder(Guarding):
    """The Safety Reminder (arXiv:2506.15734), with the policy and threshold that ``guarded`` has."""

    name = "reminder"
