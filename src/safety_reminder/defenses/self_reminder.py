"""Self-Reminder (Xie et al., "Defending ChatGPT against jailbreak attack via self-reminders", Nature Machine
Intelligence 2023, doi:10.1038/s42256-023-00765-8): the request stands between two reminders to be responsible.
"""

from __future__ import annotations

from collections.abc import Sequence

from safety_reminder.defenses.base import unguarded
from safety_reminder.guard import GuardedVLM
from safety_reminder.models.editing import after_last_request, with_system_text
from safety_reminder.types import Request, Response

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
    needs_reminder = False
    digest = None

    def __init__(self, guarded: GuardedVLM) -> None:
        self._guarded = guarded

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        reminded = [with_system_text(after_last_request(r.messages, AFTER), BEFORE) for r in requests]
        changed = [unguarded(request, messages) for request, messages in zip(requests, reminded, strict=True)]
        return self._guarded.respond(changed)
