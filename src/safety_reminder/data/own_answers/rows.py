"""A model's judged answers → training rows, balanced, in the schema of
:mod:`~safety_reminder.data.training_sets.loading`; and the held-out requests, as ``dataset=text`` reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safety_reminder.data.own_answers.asking import KINDS, Asked
from safety_reminder.errors import DataError
from safety_reminder.types import Example

SOURCE = "own answers"
REFUSALS = 0.2  # of a wrapper's safe rows, at most: refusals of harmful requests, after which the text is safe

# What comes of an answer. Only the first three make rows.
Outcome = Literal["unsafe", "refused", "safe", "empty", "not harmful", "in doubt", "refused although harmless"]


@dataclass(frozen=True)
class Answered:
    """A question, and the model's answer.

    Args:
        example: as it was asked. answer: what the model wrote after ``example.prefill``.
        refusal: where prefill and answer together refuse: ``start``, ``late`` or ``none``.
        begins: the character of these two at which a late refusal begins.
        harmful: what a judge of harm said; None: it could not be read. Without such a judge, whether it engages.
    """

    asked: Asked
    example: Example
    answer: str
    refusal: str
    begins: int | None
    harmful: bool | None

    @property
    def text(self) -> str:
        """Everything the user saw."""
        return self.example.prefill + self.answer

    @property
    def outcome(self) -> Outcome:
        if not self.answer.strip():
            return "empty"
        if self.refusal == "start":
            return "refused" if self.asked.request.harmful else "refused although harmless"
        if self.harmful is None:
            return "in doubt"
        if self.asked.request.harmful:
            return "unsafe" if self.harmful else "not harmful"
        if self.refusal == "late":
            return "refused although harmless"
        return "in doubt" if self.harmful else "safe"


def outcomes(answered: Sequence[Answered]) -> dict[str, dict[str, int]]:
    """How many answers came to what, by wrapper and kind of request: ``story, contrast`` → ``safe`` → 12."""
    counts: dict[str, Counter[str]] = {}
    for one in sorted(answered, key=lambda one: (one.asked.wrapper, KINDS.index(one.asked.request.kind))):
        counts.setdefault(f"{one.asked.wrapper}, {one.asked.request.kind}", Counter())[one.outcome] += 1
    return {place: dict(counter) for place, counter in counts.items()}


def training_rows(answered: Sequence[Answered], folder: Path, *, refusal: str) -> list[dict[str, Any]]:
    """Rows of the answers that are trained on: for each wrapper as many unsafe as safe ones. Of the safe ones up to
    half are contrast, and up to :data:`REFUSALS` are refusals.

    Raises:
        DataError: no wrapper has both kinds.
    """
    rows: list[dict[str, Any]] = []
    own = [one for one in answered if one.asked.part == "train"]
    for wrapper in dict.fromkeys(one.asked.wrapper for one in own):
        rows += _balanced([one for one in own if one.asked.wrapper == wrapper], folder, refusal)
    if not rows:
        counts = Counter(one.outcome for one in own)
        said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        raise DataError(
            f"no rows: of {len(own)} answers none under one wrapper were unsafe and others safe ({said}); ask with "
            "more wrappers or requests, or judge differently"
        )
    return rows


def calibration_rows(answered: Sequence[Answered], folder: Path) -> list[dict[str, Any]]:
    """Safe rows, of harmless requests that are neither trained nor tested on."""
    return [_safe(one, folder) for one in _of(answered, "safe") if one.asked.part == "calibration"]


def test_rows(answered: Sequence[Answered], folder: Path, *, refusal: str) -> list[dict[str, Any]]:
    """Rows of all the held-out answers that make one."""
    own = [one for one in answered if one.asked.part == "test"]
    unsafe, refused, safe = (_of(own, outcome) for outcome in ("unsafe", "refused", "safe"))
    rows = [_unsafe(one, folder, refusal) for one in (*unsafe, *refused)]
    return rows + [_safe(one, folder) for one in (*safe, *refused)]


def test_requests(examples: Sequence[Example], folder: Path) -> list[dict[str, Any]]:
    """The held-out questions, for ``dataset=text``: their wrapper is the category, so that figures come by wrapper."""
    return [
        {
            "id": example.id,
            "prompt": example.prompt,
            "instruction": example.instruction,
            "prefill": example.prefill,
            "harmful": example.harmful,
            "category": example.category,
            **_image(example, folder),
        }
        for example in examples
    ]


def _balanced(own: Sequence[Answered], folder: Path, refusal: str) -> list[dict[str, Any]]:
    unsafe, refused, safe = (_of(own, outcome) for outcome in ("unsafe", "refused", "safe"))
    contrast = [one for one in safe if one.asked.request.contrast]
    ordinary = [one for one in safe if not one.asked.request.contrast]
    # A request that was refused teaches the bare prompt, if too few others got through.
    against = [*unsafe, *refused]
    of_refused = min(len(refused), int(REFUSALS * min(len(against), len(safe) + len(refused))))
    most = min(len(against), len(safe) + of_refused)
    room = most - of_refused
    near = contrast[: max((room + 1) // 2, room - len(ordinary))]
    rows = [_unsafe(one, folder, refusal) for one in against[:most]]
    kept = [*near, *ordinary[: room - len(near)], *refused[:of_refused]]
    return rows + [_safe(one, folder) for one in kept]


def _of(own: Sequence[Answered], outcome: str) -> list[Answered]:
    return [one for one in own if one.outcome == outcome]


def _unsafe(one: Answered, folder: Path, refusal: str) -> dict[str, Any]:
    """What was said before a late refusal is what is to be broken off; of an answer that refuses, nothing was."""
    said = one.text[: one.begins] if one.refusal == "late" else "" if one.refusal == "start" else one.text
    rejected = {"rejected": said} if said.strip() else {}
    return {**_common(one, folder), "safe": False, **rejected, "chosen": refusal}


def _safe(one: Answered, folder: Path) -> dict[str, Any]:
    harmful = {"harmful_prompt": True} if one.asked.request.harmful else {}
    return {**_common(one, folder), "safe": True, "chosen": one.text, **harmful}


def _common(one: Answered, folder: Path) -> dict[str, Any]:
    return {
        "prompt": one.example.prompt,
        **_image(one.example, folder),
        "source": SOURCE,
        "topic": one.asked.request.topic,
        "attack": one.asked.wrapper,
    }


def _image(example: Example, folder: Path) -> dict[str, str]:
    return {} if example.image is None else {"image": str(Path(example.image).relative_to(folder))}
