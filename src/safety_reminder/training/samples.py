"""Prepared rows: their tokens, digests of what is asked, and the parts that they are split into."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_reminder.errors import ConfigError, DataError, SafetyReminderError
from safety_reminder.models import VLM
from safety_reminder.models.messages import load_image
from safety_reminder.run_files import write_json
from safety_reminder.training.config import TrainingConfig
from safety_reminder.training.leave_out import require_known, set_apart
from safety_reminder.types import TrainingExample

log = logging.getLogger(__name__)

PARTS = ("training", "validation", "calibration", "test")


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


@dataclass(frozen=True, eq=False)
class Sample:
    """``answer``, ``refusal`` (as a whole answer) and ``correction`` (after other text) in token ids; ``key``: what
    is asked, as a digest. ``least``: tokens of the answer that hold ``min_chars`` characters."""

    example: TrainingExample
    answer: tuple[int, ...]
    refusal: tuple[int, ...]
    correction: tuple[int, ...]
    key: str
    least: int = 1

    @property
    def name(self) -> str:
        """For messages: the prompt's beginning and the image."""
        image = f" (image {self.example.image})" if self.example.image is not None else ""
        return f"{self.example.prompt[:60]!r}{image}"


def make_samples(
    vlm: VLM, examples: Sequence[TrainingExample], config: TrainingConfig, *, option: str = "training.on_error"
) -> list[Sample]:
    """Tokens and digests of every row. Each prompt is encoded here too, so that a broken image, or one that the model's
    processor does not take, stops the run before training.

    Args:
        option: what the user sets ``on_error`` with, for the message.

    Raises:
        DataError: an image that cannot be read, a conversation that the model does not take, or a safe row without an
            answer, unless ``on_error`` is ``skip``.
    """
    ids = lambda text: list(vlm.tokenizer(text, add_special_tokens=False)["input_ids"])  # noqa: E731
    end = vlm.end_of_turn()
    samples = []
    for number, example in enumerate(examples, 1):
        try:
            vlm.encode([example.conversation()])
            if example.safe and not example.chosen.strip():
                raise DataError("a safe row needs chosen, the answer that is to be left as it is")
            digest = key(example)
        except SafetyReminderError as error:
            message = f"training row {number}, {example.prompt[:60]!r}: {error}"
            if config.on_error == "stop":
                raise DataError(f"{message}; {option}=skip leaves such rows out") from error
            log.warning("left out: %s", message)
            continue
        answer = ([*ids(example.answer), end] if example.answer else [])[: config.answer_tokens]
        samples.append(
            Sample(
                example,
                tuple(answer),
                refusal=tuple([*ids(example.chosen), end][: config.target_tokens]),
                correction=tuple([*ids(" " + example.chosen.lstrip()), end][: config.target_tokens]),
                key=digest,
                least=_tokens_with(vlm, answer, config.min_chars),
            )
        )
    return samples


def _tokens_with(vlm: VLM, answer: Sequence[int], characters: int) -> int:
    """How many tokens of an answer it takes for so many characters; all of them, if it is shorter."""
    if not characters:
        return 1
    return next((n for n in range(1, len(answer)) if len(vlm.tokenizer.decode(answer[:n])) >= characters), len(answer))


def counts(parts: Mapping[str, Sequence[Sample]]) -> dict[str, tuple[int, int]]:
    """Of each part, how many rows are harmful to answer, and how many are not."""
    harmful = {part: sum(not sample.example.safe for sample in rows) for part, rows in parts.items()}
    return {part: (harmful[part], len(rows) - harmful[part]) for part, rows in parts.items()}


def manifest(source: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """What goes into the pack about its data."""
    digest = hashlib.sha256()
    for sample in samples:
        example = sample.example
        fields = (sample.key, str(example.safe), str(example.harmful_prompt), example.chosen, example.rejected)
        digest.update("\x00".join(fields).encode())
    return {
        "source": source,
        "sha256": digest.hexdigest(),
        "safe": sum(s.example.safe for s in samples),
        "unsafe": sum(not s.example.safe for s in samples),
    }


def seen_as(key: str) -> str:
    """A key as a pack lists it, shortened, so that a pack stays small."""
    return key[:16]


def split(
    samples: Sequence[Sample],
    config: TrainingConfig,
    *,
    held_back: Sequence[str] = PARTS[1:],
    seen: Collection[str] = (),
) -> dict[str, list[Sample]]:
    """By what is asked, so that no prompt with its image is in two parts: training; validation, for early stopping;
    calibration, for the threshold; and test, for the report. Harmful and harmless prompts are shared out alike.

    What ``config.leave_out`` names is all of the test part, beside ``config.test`` of the other rows of a kind that it
    has none of.

    Args:
        held_back: the parts to fill besides ``training``; others stay empty.
        seen: what a reminder was trained on already (:func:`seen_as`); it stays in the training part.

    Raises:
        ConfigError: training, validation or test would have one kind of row only, or calibration no safe one.
    """
    require_known([sample.example for sample in samples], config.left_out)
    samples, left_out = set_apart(samples, config.left_out)
    unsafe = {sample.key for sample in samples if not sample.example.safe}
    rng = random.Random(config.seed)
    shares = {part: getattr(config, part) for part in held_back}
    part_of: dict[str, str] = {}
    for safe, kind in ((False, unsafe), (True, {sample.key for sample in samples} - unsafe)):
        keys = sorted(key for key in kind if seen_as(key) not in seen)
        rng.shuffle(keys)
        tested = any(sample.example.safe == safe for sample in left_out)
        start = 0
        for part, share in shares.items():
            if part == "test" and tested:
                continue
            count = max(1, round(share * len(kind))) if share else 0
            part_of |= dict.fromkeys(keys[start : start + count], part)
            start += count
    parts: dict[str, list[Sample]] = {part: [] for part in PARTS}
    for sample in samples:
        parts[part_of.get(sample.key, "training")].append(sample)
    parts["test"] += left_out
    if left_out and not shares.get("test") and len({sample.example.safe for sample in left_out}) < 2:
        raise ConfigError("the rows that are left out are of one kind; training.test above 0 adds rows of the other")
    unseen = " that the reminder was not trained on" if seen else ""
    for part in ("training", *held_back):
        if part == "calibration" or (part in shares and not shares[part]):
            continue
        if len({sample.example.safe for sample in parts[part]}) < 2:
            raise ConfigError(f"the {part} split has only one kind of row; give more rows{unseen}")
    if shares.get("calibration") and not any(sample.example.safe for sample in parts["calibration"]):
        raise ConfigError(
            f"the calibration split has no safe row; give more rows{unseen}, or a larger training.calibration"
        )
    return parts


def tell_what_is_left_out(
    samples: Sequence[Sample], parts: Mapping[str, Sequence[Sample]], seen: Collection[str] = ()
) -> None:
    """Warn where rows that ``leave_out`` names cost others, which ask the same, or were seen by the vectors."""
    if dropped := len(samples) - sum(map(len, parts.values())):
        log.warning("%d rows ask what rows that are left out ask, and are in no part", dropped)
    if again := sum(seen_as(sample.key) in seen for sample in parts["test"]):
        log.warning("the reminder's vectors saw %d of the %d test rows; the probe did not", again, len(parts["test"]))


def write_splits(output: Path, parts: Mapping[str, Sequence[Sample]]) -> None:
    """Which rows are in which part, as :class:`Sample` keys, into ``output/splits.json``."""
    write_json(output / "splits.json", {part: sorted({s.key for s in rows}) for part, rows in parts.items()})
