"""No defence, and the reminder: the two ends of every comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from safety_reminder.defenses.base import unguarded
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


class Reminder:
    """The Safety Reminder (arXiv:2506.15734), with the policy and threshold that ``guarded`` has."""

    name = "reminder"
    monitors = True
    needs_reminder = True
    digest = None

    def __init__(self, guarded: GuardedVLM) -> None:
        self.guarded = guarded

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        return self.guarded.respond([replace(request, guard=True) for request in requests])
