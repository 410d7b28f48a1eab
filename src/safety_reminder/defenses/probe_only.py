"""A control: the probe alone. An unsafe verdict ends the answer with a fixed refusal, and no vectors stay."""

from __future__ import annotations

from safety_reminder.defenses.base import Guarding, with_changes
from safety_reminder.guard import GuardedVLM


class ProbeOnly(Guarding):
    """The guard that ``guarded`` has, under the policy ``stop``."""

    name = "probe_only"

    def __init__(self, guarded: GuardedVLM) -> None:
        super().__init__(with_changes(guarded, self.name, policy="stop"))
