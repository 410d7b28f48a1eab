"""An example's conversation in Inspect's messages, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    Content,
    ContentImage,
    ContentText,
)
from PIL import Image

from safety_reminder.errors import ConfigError
from safety_reminder.models import data_url
from safety_reminder.types import Example

_KINDS = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


def as_chat_messages(example: Example) -> list[ChatMessage]:
    """The example's conversation, its images as paths or data URLs."""
    return [_KINDS[message["role"]](content=_content(message["content"])) for message in example.messages()]


def as_example(messages: Sequence[ChatMessage], *, id: str = "", instruction: str = "") -> Example:
    """The example that has this conversation.

    Raises:
        ConfigError: it is of another kind: it has no request, tools, several images, or one that is not in the first
            user message.
    """
    system = "\n\n".join(message.text for message in messages if message.role == "system")
    talk = [message for message in messages if message.role != "system"]
    if any(message.role == "tool" for message in talk):
        raise ConfigError("these attacks change samples of plain text; this one calls tools")
    begun = talk.pop().text if talk and talk[-1].role == "assistant" else ""
    if not talk or talk[-1].role != "user":
        raise ConfigError("these attacks change a request; this sample has none at its end")
    images = [(message, part.image) for message in talk for part in _parts(message) if isinstance(part, ContentImage)]
    first = next(message for message in talk if message.role == "user")
    if len(images) > 1 or any(message is not first for message, _ in images):
        raise ConfigError("these attacks change samples of text, with one image at most, in the first user message")
    return Example(
        id=id,
        prompt=talk[-1].text,
        image=images[0][1] if images else None,
        instruction=instruction,
        system=system,
        turns=tuple((message.role, message.text) for message in talk[:-1]),
        prefill=begun,
    )


def _parts(message: ChatMessage) -> list[Content]:
    return [] if isinstance(message.content, str) else message.content


def _content(content: str | list[dict[str, Any]]) -> str | list[Content]:
    return content if isinstance(content, str) else [_part(part) for part in content]


def _part(part: dict[str, Any]) -> Content:
    if part["type"] == "text":
        return ContentText(text=part["text"])
    image = part["image"]
    # A path stays as it is; an image that was drawn here becomes a data URL.
    return ContentImage(image=data_url(image) if isinstance(image, Image.Image) else str(image))
