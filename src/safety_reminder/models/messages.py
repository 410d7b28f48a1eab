"""Chat messages in OpenAI's or transformers' form → one form, with images loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from safety_reminder.errors import MessageError, shortened
from safety_reminder.models.images import MAX_PIXELS, load_image
from safety_reminder.outside import require_writable

Messages = Sequence[Mapping[str, Any]]
ROLES = ("system", "user", "assistant")
_IMAGE_KEYS = ("image", "path", "url")


def normalise(
    messages: Messages,
    *,
    reads_images: bool,
    placeholders: Collection[str] = (),
    max_pixels: int | None = MAX_PIXELS,
) -> list[dict[str, Any]]:
    """Messages whose content is a list of ``text`` and ``image`` parts (or a string, without vision).

    Args:
        placeholders: what the model's prompt has in place of an image. A system message that names one is refused;
            others are made inert: :mod:`safety_reminder.models.inert`.
        max_pixels: of an image, as :func:`load_image` takes it.

    Raises:
        MessageError: says which message and part.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise MessageError("messages must be a list like [{'role': 'user', 'content': '...'}]")
    if not messages:
        raise MessageError("there are no messages")
    out = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise MessageError(f"{where} needs 'role' and 'content'")
        if message["role"] not in ROLES:
            raise MessageError(
                f"{where}: unknown role {shortened(repr(message['role']), 60)}; known: {', '.join(ROLES)}"
            )
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, Sequence):
            raise MessageError(f"{where}: content must be a string or a list of parts")
        taboo = placeholders if message["role"] == "system" else ()
        clean = [_part(part, f"{where}.content[{i}]", taboo, max_pixels) for i, part in enumerate(parts)]
        if not reads_images:
            if any(part["type"] == "image" for part in clean):
                raise MessageError(f"{where} has an image, but this model reads text only")
            clean_content: Any = "\n".join(part["text"] for part in clean)
        else:
            clean_content = clean
        out.append({"role": message["role"], "content": clean_content})
    return out


def image_source(part: Mapping[str, Any]) -> Any | None:
    """The image of a content part, as :func:`load_image` takes it; None of a part that has none."""
    if part.get("type") == "image_url":
        url = part.get("image_url")
        return url.get("url") if isinstance(url, Mapping) else url
    if part.get("type") != "image":
        return None
    if isinstance(part.get("base64"), str) and all(part.get(key) is None for key in _IMAGE_KEYS):
        return "data:image;base64," + part["base64"]
    return next((part[key] for key in _IMAGE_KEYS if part.get(key) is not None), None)


def _part(part: Any, where: str, placeholders: Collection[str], max_pixels: int | None) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise MessageError(f"{where} must be a mapping with a 'type'")
    match part.get("type"):
        case "text" if isinstance(part.get("text"), str):
            require_writable(part["text"], f"{where}: the text", MessageError)
            for placeholder in placeholders:
                if placeholder in part["text"]:
                    raise MessageError(
                        f"{where}: the text has {placeholder!r}, which stands for an image in this model's prompts; "
                        "take it out, and give an image as a part of its own"
                    )
            return {"type": "text", "text": part["text"]}
        case "image" | "image_url":
            if (source := image_source(part)) is not None:
                return {"type": "image", "image": _image(source, where, max_pixels)}
    raise MessageError(
        f"{where}: expected {{'type': 'text', 'text': ...}}, {{'type': 'image', 'image': ...}} or "
        f"{{'type': 'image_url', 'image_url': {{'url': ...}}}}"
    )


def _image(source: Any, where: str, max_pixels: int | None) -> Any:
    try:
        return load_image(source, max_pixels=max_pixels)
    except MessageError as error:
        raise MessageError(f"{where}: {error}") from error
