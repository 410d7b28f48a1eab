"""What identifies a training row, for splits and the search for rows that are also evaluated on."""

from __future__ import annotations

import hashlib
from typing import Any

from safety_reminder.models.messages import load_image
from safety_reminder.types import TrainingExample


def image_digest(image: Any) -> str:
    """SHA-256 of an image's pixels, so that a copy in another format is the same image.

    Raises:
        MessageError: it cannot be read.
    """
    pixels = load_image(image)
    return hashlib.sha256(repr(pixels.size).encode() + pixels.tobytes()).hexdigest()


def key(example: TrainingExample) -> str:
    """SHA-256 of what is asked: the text of the conversation, and the image. Rows of one key are never split."""
    image = image_digest(example.image) if example.image is not None else ""
    return hashlib.sha256(f"{example.prompt}\x00{image}".encode()).hexdigest()
