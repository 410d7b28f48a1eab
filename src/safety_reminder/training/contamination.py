"""Training rows that are also evaluated on."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from safety_reminder.errors import DataError, MessageError
from safety_reminder.training.samples import image_digest
from safety_reminder.types import Example, TrainingExample

Words = tuple[str, ...]
# A text of fewer words or letters is found in too many others: it is compared as a whole only.
_LEAST_WORDS, _LEAST_LETTERS = 4, 8
# Chinese, Japanese and Korean leave no spaces: each of their characters counts as a word.
_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def refuse_contamination(examples: Sequence[TrainingExample], evaluation: Mapping[str, Sequence[Example]]) -> None:
    """Compare prompts (letters and digits only) and images (pixels) with those of the named evaluation sets.

    A prompt is also found inside a longer one, as a jailbreak wraps a request, whichever of the two is trained on. A
    prompt that several rows of an evaluation set share, or several training rows with images, is a template and is not
    compared; its images are. Training rows whose image cannot be read are left to
    :func:`~safety_reminder.training.samples.make_samples`.

    Raises:
        DataError: a row occurs in a set; says which, and how many, and of its prompt no more than the beginning.
    """
    prompts = [{_words(str(m["content"])) for m in e.messages if m["role"] == "user"} for e in examples]
    beside_images = Counter(
        words for e, own in zip(examples, prompts, strict=True) if e.image is not None for words in own
    )
    bare = [{words for words in own if beside_images[words] < 2} for own in prompts]
    images = [_digest(e.image) for e in examples]
    around = _Inside(words for own in bare for words in own)
    for name, rows in evaluation.items():
        known = _known_prompts(rows)
        inside = _Inside(known)
        wrapped = {found for words in known for found in around.find(words)}
        known_images = {image_digest(row.image) for row in rows if row.image is not None}
        shared = [
            example
            for example, prompt, own, image in zip(examples, prompts, bare, images, strict=True)
            if prompt & known or own & wrapped or any(inside.find(words) for words in prompt) or image in known_images
        ]
        if shared:
            raise DataError(
                f"{len(shared)} of {len(examples)} training rows are also in {name} (the first: {_named(shared[0])}); "
                "take them out, or set allow_contamination=true and do not report results on that set"
            )


def _known_prompts(rows: Sequence[Example]) -> set[Words]:
    """What an evaluation set asks: its prompts but for templates, and what an image says, where the set tells."""
    counted = Counter(_words(row.prompt) for row in rows)
    known = {prompt for prompt, count in counted.items() if count == 1}
    known |= {_words(row.instruction) for row in rows if row.instruction}
    return known - {()}  # a prompt without letters and digits: nothing to compare


class _Inside:
    """Finds which of many texts stand in another, word by word."""

    def __init__(self, texts: Iterable[Words]) -> None:
        self._by_length: dict[int, set[Words]] = defaultdict(set)
        for words in texts:
            if len(words) >= _LEAST_WORDS and sum(map(len, words)) >= _LEAST_LETTERS:
                self._by_length[len(words)].add(words)

    def find(self, text: Words) -> set[Words]:
        return {
            text[start : start + length]
            for length, known in self._by_length.items()
            for start in range(len(text) - length + 1)
            if text[start : start + length] in known
        }


def _named(example: TrainingExample) -> str:
    """A row, by its source and the beginning of what it asks: never the whole of it."""
    words = example.prompt.split()
    begins = " ".join(words[: min(4, len(words) // 2)])[:40]
    return f"of {example.source or 'no source'}, {begins + ' ...'!r}"


def _digest(image: Any) -> str | None:
    try:
        return None if image is None else image_digest(image)
    except MessageError:
        return None


def _words(text: str) -> Words:
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))
