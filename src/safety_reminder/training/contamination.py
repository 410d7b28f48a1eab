"""Training rows that are also evaluated on."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from safety_reminder.errors import DataError, MessageError
from safety_reminder.training.samples import image_digest
from safety_reminder.types import Example, TrainingExample


def refuse_contamination(examples: Sequence[TrainingExample], evaluation: Mapping[str, Sequence[Example]]) -> None:
    """Compare prompts (letters and digits only) and images (pixels) with those of the named evaluation sets.

    A prompt that several rows of an evaluation set share is a template and is not compared; its images are. Training
    rows whose image cannot be read are left to :func:`~safety_reminder.training.samples.make_samples`.

    Raises:
        DataError: a row occurs in a set; says which, and how many.
    """
    prompts = [{_plain(str(m["content"])) for m in e.messages if m["role"] == "user"} for e in examples]
    images = [_digest(e.image) for e in examples]
    for name, rows in evaluation.items():
        counted = Counter(_plain(row.prompt) for row in rows)
        known_prompts = {prompt for prompt, count in counted.items() if count == 1}
        # What an image says is a prompt too, where the set tells.
        known_prompts |= {_plain(row.instruction) for row in rows if row.instruction}
        known_prompts -= {""}  # a prompt without letters and digits: nothing to compare
        known_images = {image_digest(row.image) for row in rows if row.image is not None}
        shared = [
            example
            for example, prompt, image in zip(examples, prompts, images, strict=True)
            if prompt & known_prompts or image in known_images
        ]
        if shared:
            raise DataError(
                f"{len(shared)} of {len(examples)} training rows are also in {name} (the first: "
                f"{shared[0].prompt[:60]!r}); take them out, or set allow_contamination=true and do not report "
                "results on that set"
            )


def _digest(image: Any) -> str | None:
    try:
        return None if image is None else image_digest(image)
    except MessageError:
        return None


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()
