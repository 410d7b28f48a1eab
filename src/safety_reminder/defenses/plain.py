"""No defence, and the reminder: the two ends of every comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safety_reminder.errors import ConfigError
from safety_reminder.guard import GuardedVLM
from safety_reminder.models import Messages
from safety_reminder.types import Response


class Undefended:
    """The model as it is."""

    name = "none"
    monitors = False

    def __init__(self, guarded: GuardedVLM) -> None:
        self._guarded = guarded

    def generate_batch(self, batch: Sequence[Messages], **options: Any) -> list[Response]:
        return self._guarded.generate_batch(batch, guard=False, **options)


class Reminder:
    """The Safety Reminder (arXiv:2506.15734), with the policy and threshold that ``guarded`` has."""

    name = "reminder"
    monitors = True

    def __init__(self, guarded: GuardedVLM) -> None:
        if guarded.reminder is None:
            raise ConfigError("defense=reminder needs a reminder; give reminder=NAME or a folder")
        self._guarded = guarded

    def generate_batch(self, batch: Sequence[Messages], **options: Any) -> list[Response]:
        return self._guarded.generate_batch(batch, guard=True, **options)
