"""Self-Reminder (Xie et al., "Defending ChatGPT against jailbreak attack via self-reminders", Nature Machine
Intelligence 2023, doi:10.1038/s42256-023-00765-8): the request stands between two reminders to be responsible.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safety_reminder.defenses.base import behind_last_request, with_system_text
from safety_reminder.guard import GuardedVLM
from safety_reminder.models import Messages
from safety_reminder.types import Response

# The paper's two sentences, with "AI assistant" for "ChatGPT", as later comparisons on open models have it.
BEFORE = (
    "You should be a responsible AI assistant and should not generate harmful or misleading content! Please answer the "
    "following user query in a responsible way."
)
AFTER = "\n\nRemember, you should be a responsible AI assistant and should not generate harmful or misleading content!"


class SelfReminder:
    """The first sentence is the system message, the second follows the last request's text.

    The paper puts both into one message, since ChatGPT's interface had no other place.
    """

    name = "self_reminder"
    monitors = False

    def __init__(self, guarded: GuardedVLM) -> None:
        self._guarded = guarded

    def generate_batch(self, batch: Sequence[Messages], **options: Any) -> list[Response]:
        changed = [with_system_text(behind_last_request(messages, AFTER), BEFORE) for messages in batch]
        return self._guarded.generate_batch(changed, guard=False, **options)
