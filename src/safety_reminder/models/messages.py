"""Chat messages in OpenAI's or transformers' form → one form, with images loaded."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from safety_reminder.errors import MessageError, shortened
from safety_reminder.outside import require_writable

Messages = Sequence[Mapping[str, Any]]
ROLES = ("system", "user", "assistant")
_IMAGE_KEYS = ("image", "path", "url")


def load_image(source: Any) -> Image.Image:
    """A path, data URL or PIL image → RGB, turned as its EXIF orientation says.

    Raises:
        MessageError: no such file, not an image, or a kind of source that is not read (web addresses).
    """
    if not isinstance(source, Image.Image | str | os.PathLike):
        raise MessageError(f"an image is a path, a data URL or a PIL image, got {type(source).__name__}")
    name = "that was given" if isinstance(source, Image.Image) else str(os.fspath(source))
    if name.startswith(("http://", "https://")):
        raise MessageError(f"images are not fetched from the web: download {shortened(name, 200)!r} and give its path")
    stream = _from_data_url(name) if name.startswith("data:") else Path(name.removeprefix("file://"))
    name = name if len(name) <= 200 else f"{name[:60]}..."
    try:
        if isinstance(source, Image.Image):
            return _upright(source)
        with Image.open(stream) as image:
            return _upright(image)
    except FileNotFoundError as error:
        raise MessageError(f"no image at {name}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error  # without the file name, which is there already
        raise MessageError(f"cannot read the image {name}: {reason}") from error


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    # Pillow's own exif_transpose writes the EXIF anew, and fails where a tag in it is malformed.
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    upright = image.convert("RGB")
    return upright if turn is None else upright.transpose(turn)


def data_url(image: Image.Image) -> str:
    """The image as a PNG in a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _from_data_url(url: str) -> io.BytesIO:
    header, _, body = url.partition(",")
    if not header.endswith(";base64"):
        raise MessageError("a data URL must be base64: 'data:image/png;base64,...'")
    try:
        return io.BytesIO(base64.b64decode(body, validate=True))
    except ValueError as error:
        raise MessageError(f"the data URL is not valid base64: {error}") from error


def normalise(messages: Messages, *, reads_images: bool, placeholders: Collection[str] = ()) -> list[dict[str, Any]]:
    """Messages whose content is a list of ``text`` and ``image`` parts (or a string, without vision).

    Args:
        placeholders: what the model's prompt has in place of an image; text that names one is refused.

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
        clean = [_part(part, f"{where}.content[{i}]", placeholders) for i, part in enumerate(parts)]
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


def _part(part: Any, where: str, placeholders: Collection[str]) -> dict[str, Any]:
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
                return {"type": "image", "image": load_image(source)}
    raise MessageError(
        f"{where}: expected {{'type': 'text', 'text': ...}}, {{'type': 'image', 'image': ...}} or "
        f"{{'type': 'image_url', 'image_url': {{'url': ...}}}}"
    )
