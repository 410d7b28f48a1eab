"""Changed conversations: copies with other text, without images, or with other images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from safety_reminder.errors import MessageError
from safety_reminder.models.messages import Messages, image_source


def after_last_request(messages: Messages, text: str) -> list[dict[str, Any]]:
    """A copy whose last user message has ``text`` after its own; images stay where they are."""

    def change(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        texts = [part for part in parts if part.get("type") == "text"]
        if not texts:  # only an image was sent
            return [*parts, {"type": "text", "text": text}]
        texts[-1]["text"] += text
        return parts

    return _change_last_request(messages, change)


def with_request(messages: Messages, text: str) -> list[dict[str, Any]]:
    """A copy whose last user message says ``text`` instead of its own, after its images."""
    return _change_last_request(
        messages, lambda parts: [*(p for p in parts if p.get("type") != "text"), {"type": "text", "text": text}]
    )


def last_request(messages: Messages) -> str:
    """The text of the last user message."""
    content = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def begun_answer(messages: Messages) -> str:
    """The text of an assistant message at the end, which is to be continued; empty if there is none."""
    content = messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def without_begun_answer(messages: Messages) -> list[dict[str, Any]]:
    """A copy without assistant messages at its end, so that it is answered from the beginning."""
    kept = [dict(message) for message in messages]
    while kept and kept[-1]["role"] == "assistant":
        kept.pop()
    return kept


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
            if (source := image_source(part)) is not None:
                return source
    return None


def map_images(messages: Messages, change: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """A copy in which every image is what ``change`` makes of it."""
    return [
        dict(message)
        if isinstance(message["content"], str)
        else {
            **message,
            "content": [
                dict(part) if part.get("type") == "text" else {"type": "image", "image": change(image_source(part))}
                for part in message["content"]
            ],
        }
        for message in messages
    ]


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
