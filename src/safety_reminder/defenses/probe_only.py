"""A control: the probe alone. An unsafe verdict ends the answer with a fixed refusal, and no vectors stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from safety_reminder.defenses.base import with_changes
from safety_reminder.guard import GuardedVLM
from safety_reminder.types import Request, Response


class ProbeOnly:
    """The guard that ``guarded`` has, under the policy ``stop``."""

    name = "probe_only"
    monitors = True
    needs_reminder = True
    digest = None

    def __init__(self, guarded: GuardedVLM) -> None:
        self.guarded = with_changes(guarded, self.name, policy="stop")

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        return self.guarded.respond([replace(request, guard=True) for request in requests])
