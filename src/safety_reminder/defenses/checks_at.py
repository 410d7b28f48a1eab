"""Controls: when the reminder is read. Before the first token alone, along the answer alone, or both."""

from __future__ import annotations

from typing import Any

from safety_reminder.defenses.base import NEVER, Guarding, with_changes
from safety_reminder.errors import ConfigError, unknown_name
from safety_reminder.guard import GuardedVLM

# What each changes of the guard that a model has. The last check of an answer belongs to those along it.
PLACES: dict[str, dict[str, Any]] = {
    "prompt": {"prompt_check": True, "interval": NEVER, "final_check": False},
    "periodic": {"prompt_check": False, "final_check": True},
    "both": {"prompt_check": True, "final_check": True},
}


class ChecksAt(Guarding):
    """The guard that ``guarded`` has, with other checks, and the same threshold. Where that was calibrated for fewer
    checks than are made here, more harmless answers may alarm than it promises.

    Args:
        when: ``prompt``, ``periodic`` (every interval, and at the end) or ``both``.

    Raises:
        ConfigError: another place, or checks that were set otherwise.
    """

    name = "checks_at"

    def __init__(self, guarded: GuardedVLM, when: str = "both") -> None:
        if when not in PLACES:
            raise ConfigError(unknown_name("defense=checks_at: when", when, PLACES))
        super().__init__(with_changes(guarded, self.name, **PLACES[when]))
