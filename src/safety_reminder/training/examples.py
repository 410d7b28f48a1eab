"""What identifies a training row, for splits, manifests and the search for rows that are also evaluated on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from safety_reminder.types import TrainingExample


def image_digest(image: Any) -> str:
    """SHA-256 of an image's pixels, so that a copy in another format is the same image."""
    if not isinstance(image, Image.Image):
        with Image.open(Path(image)) as opened:
            image = opened.convert("RGB")
    image = image.convert("RGB")
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


def key(example: TrainingExample) -> str:
    """SHA-256 of what is asked: the text of the conversation, and the image. Rows of one key are never split."""
    image = image_digest(example.image) if example.image is not None else ""
    return hashlib.sha256(f"{example.prompt}\x00{image}".encode()).hexdigest()


def manifest(source: str, examples: Sequence[TrainingExample]) -> dict[str, Any]:
    """What goes into the pack about its data."""
    digest = hashlib.sha256()
    for example in examples:
        fields = (key(example), str(example.safe), str(example.harmful_prompt), example.chosen, example.rejected)
        digest.update("\x00".join(fields).encode())
    return {
        "source": source,
        "sha256": digest.hexdigest(),
        "safe": sum(e.safe for e in examples),
        "unsafe": sum(not e.safe for e in examples),
    }
