"""What a defence is, and what several of them do to messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from safety_reminder.errors import MessageError
from safety_reminder.models import Messages
from safety_reminder.types import Response


class Defense(Protocol):
    """Answers a batch of conversations.

    A response's ``text`` and ``seen_text`` are what the user saw: what a defence withholds was not seen. ``seconds``
    covers all that the defence ran. The rows of a batch do not depend on each other, and messages are not changed.
    """

    name: str

    def generate_batch(self, batch: Sequence[Messages], **options: Any) -> list[Response]:
        """``options``: as :meth:`~safety_reminder.guard.GuardedVLM.generate_batch` takes them."""
        ...


def behind_last_request(messages: Messages, text: str) -> list[dict[str, Any]]:
    """A copy whose last user message has ``text`` behind its own; images stay where they are."""
    changed = [dict(message) for message in messages]
    last = next((message for message in reversed(changed) if message["role"] == "user"), None)
    if last is None:
        raise MessageError("the conversation has no user message")
    content = last["content"]
    if isinstance(content, str):
        last["content"] = content + text
        return changed
    parts = [dict(part) for part in content]
    texts = [part for part in parts if part.get("type") == "text"]
    if texts:
        texts[-1]["text"] += text
    else:  # only an image was sent
        parts.append({"type": "text", "text": text})
    last["content"] = parts
    return changed


def with_system_text(messages: Messages, text: str) -> list[dict[str, Any]]:
    """A copy with ``text`` as, or in front of, the system message's text."""
    changed = [dict(message) for message in messages]
    if not changed or changed[0]["role"] != "system":
        return [{"role": "system", "content": text}, *changed]
    content = changed[0]["content"]
    if isinstance(content, str):
        changed[0]["content"] = f"{text}\n\n{content}"
    else:
        changed[0]["content"] = [{"type": "text", "text": f"{text}\n\n"}, *content]
    return changed
