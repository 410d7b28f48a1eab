"""A safety system prompt: one's own words, or plain ones."""

from __future__ import annotations

from collections.abc import Sequence

from safety_reminder.config.prompts import SAFETY_PROMPT as TEXT
from safety_reminder.defenses.base import unguarded
from safety_reminder.errors import ConfigError
from safety_reminder.guard import GuardedVLM
from safety_reminder.models.editing import with_system_text
from safety_reminder.types import Request, Response


class SystemPrompt:
    """``text`` as the system message. The model's chat template must take one; pocket's does.

    The default text was written for this project; no paper's numbers are claimed for it.
    """

    name = "system_prompt"
    monitors = False
    needs_reminder = False
    digest = None

    def __init__(self, guarded: GuardedVLM, text: str = TEXT) -> None:
        if not text.strip():
            raise ConfigError("defense=system_prompt needs a text")
        self._guarded, self.text = guarded, text

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        changed = [unguarded(request, with_system_text(request.messages, self.text)) for request in requests]
        return self._guarded.respond(changed)
