"""What a defence is, and what several of them do to messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from safety_reminder.errors import MessageError
from safety_reminder.models import Messages
from safety_reminder.types import Response


class Defense(Protocol):
    """Answers a batch of conversations.

    A response's ``text`` and ``seen_text`` are what the user saw: what a defence withholds was not seen. ``seconds``
    covers all that the defence ran. The rows of a batch do not depend on each other, and messages are not changed.
    One that brings something learned of its own has a ``digest`` of it.
    """

    name: str
    monitors: bool  # its responses carry a guard's verdicts

    def generate_batch(self, batch: Sequence[Messages], **options: Any) -> list[Response]:
        """``options``: as :meth:`~safety_reminder.guard.GuardedVLM.generate_batch` takes them."""
        ...


def behind_last_request(messages: Messages, text: str) -> list[dict[str, Any]]:
    """A copy whose last user message has ``text`` behind its own; images stay where they are."""

    def change(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        texts = [part for part in parts if part.get("type") == "text"]
        if not texts:  # only an image was sent
            return [*parts, {"type": "text", "text": text}]
        texts[-1]["text"] += text
        return parts

    return _change_last_request(messages, change)


def with_request(messages: Messages, text: str) -> list[dict[str, Any]]:
    """A copy whose last user message says ``text`` instead of its own, behind its images."""
    return _change_last_request(
        messages, lambda parts: [*(p for p in parts if p.get("type") != "text"), {"type": "text", "text": text}]
    )


def last_request(messages: Messages) -> str:
    """The text of the last user message."""
    content = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def without_images(messages: Messages) -> list[dict[str, Any]]:
    """A copy with text alone."""
    return [
        dict(message)
        if isinstance(message["content"], str)
        else {**message, "content": [part for part in message["content"] if part.get("type") == "text"]}
        for message in messages
    ]


def has_images(messages: Messages) -> bool:
    return first_image(messages) is not None


def first_image(messages: Messages) -> Any | None:
    """The first image of the conversation, as it was given."""
    for message in messages:
        for part in [] if isinstance(message["content"], str) else message["content"]:
            if part.get("type") != "text":
                return _image_of(part)
    return None


def map_images(messages: Messages, change: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """A copy in which every image is what ``change`` makes of it."""
    return [
        dict(message)
        if isinstance(message["content"], str)
        else {
            **message,
            "content": [
                dict(part) if part.get("type") == "text" else {"type": "image", "image": change(_image_of(part))}
                for part in message["content"]
            ],
        }
        for message in messages
    ]


def _image_of(part: dict[str, Any]) -> Any | None:
    found = next((part[name] for name in ("image", "path", "url", "image_url") if name in part), None)
    return found["url"] if isinstance(found, dict) else found


def _change_last_request(
    messages: Messages, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """A copy in which the parts of the last user message are what ``change`` makes of them. Text that was given as a
    string stays one."""
    changed = [dict(message) for message in messages]
    last = next((message for message in reversed(changed) if message["role"] == "user"), None)
    if last is None:
        raise MessageError("the conversation has no user message")
    plain = isinstance(last["content"], str)
    parts = [{"type": "text", "text": last["content"]}] if plain else [dict(part) for part in last["content"]]
    parts = change(parts)
    last["content"] = parts[0]["text"] if plain else parts
    return changed


def with_system_text(messages: Messages, text: str, *, between: str = "\n\n") -> list[dict[str, Any]]:
    """A copy with ``text`` as, or in front of, the system message's text."""
    changed = [dict(message) for message in messages]
    if not changed or changed[0]["role"] != "system":
        return [{"role": "system", "content": text}, *changed]
    content = changed[0]["content"]
    if isinstance(content, str):
        changed[0]["content"] = f"{text}{between}{content}"
    else:
        changed[0]["content"] = [{"type": "text", "text": f"{text}{between}"}, *content]
    return changed
