"""Whether a model can answer all rows of a data set, found out before the first of them is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from safety_reminder.errors import ConfigError, MessageError
from safety_reminder.evaluation.records import identity
from safety_reminder.models import VLM
from safety_reminder.models.editing import without_images
from safety_reminder.outside import require_writable
from safety_reminder.types import Example

_TEXTS = ("id", "prompt", "category", "instruction", "target", "system", "prefill")
_ASKED = ("system", "prompt", "prefill")


def identities(examples: Sequence[Example], *, of: str = "") -> dict[str, Mapping[str, Any]]:
    """What tells each example from another (:func:`~safety_reminder.evaluation.records.identity`), by its id. Every
    image is read for it.

    Args:
        of: what the rows are of, for messages, with a comma after it.

    Raises:
        ConfigError: an id that is there twice, or a text that is none; names the row.
        MessageError: an image that cannot be read; names the row.
    """
    found: dict[str, Mapping[str, Any]] = {}
    rows: dict[str, int] = {}
    hashes: dict[str, str | None] = {}  # many rows may show one file
    for number, example in enumerate(tqdm(examples, "checking rows", delay=2, leave=False, unit="row"), 1):
        where = _where(of, number, example)
        for name in _TEXTS:
            if not isinstance(text := getattr(example, name), str):
                raise ConfigError(f"{where}: {name} must be a text, got {text!r:.60}")
            require_writable(text, f"{where}: {name}", ConfigError)
        if example.id in found:
            both = f"{of}rows {rows[example.id]} and {number}"
            raise ConfigError(f"two examples have the id {example.id!r}; ids must be unique ({both})")
        try:
            found[example.id] = identity(example, hashes)
        except MessageError as error:
            raise MessageError(f"{where}: image: {error}") from error
        rows[example.id] = number
    return found


def require_answerable(vlm: VLM, examples: Sequence[Example], *, of: str = "") -> None:
    """Refuse rows that ``vlm`` cannot be asked, such as a system prompt where its template takes none, or with
    ``special_text=refuse`` texts that spell its special tokens.

    Raises:
        MessageError: the first such row; names it, and the column.
    """
    for number, example in enumerate(examples, 1):
        where = _where(of, number, example)
        if example.image is not None and not vlm.family.reads_images:
            raise MessageError(f"{where}: has an image, but {vlm.name} reads text only")
        texts = [(name, getattr(example, name)) for name in _ASKED] + [("turns", text) for _, text in example.turns]
        for name, text in texts:
            if text:
                _require_text(vlm, text, "system" if name == "system" else "user", f"{where}: {name}")
        if example.system or example.turns:
            try:
                vlm.render(without_images(replace(example, prefill="").messages()))
            except MessageError as error:
                raise MessageError(f"{where}: {error}") from error


def _require_text(vlm: VLM, text: str, role: str, where: str) -> None:
    try:
        vlm.conversation([{"role": role, "content": text}])
        if role != "system":
            vlm.answer_ids([text])  # refuses special tokens, where they are not made plain text
    except MessageError as error:
        raise MessageError(f"{where}: {str(error).partition(': ')[2] or error}") from error


def _where(of: str, number: int, example: Example) -> str:
    return f"{of}row {number} ({example.id!a})"
