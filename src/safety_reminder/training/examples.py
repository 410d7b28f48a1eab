"""Training rows: a conversation, an answer, and whether that answer is safe."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_reminder.config.guard import DEFAULT_REFUSAL
from safety_reminder.errors import DataError


@dataclass(frozen=True)
class TrainingExample:
    """``answer`` to ``prompt`` (with ``image``, a path); unsafe ones must be followed by ``refusal``.

    ``harmful_prompt`` with a safe answer is a refusal: it is never cut to nothing, where the verdict would be unsafe.
    """

    prompt: str
    answer: str
    safe: bool
    image: Path | None = None
    refusal: str = DEFAULT_REFUSAL
    harmful_prompt: bool = False
    source: str = ""

    def messages(self) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = [{"type": "text", "text": self.prompt}]
        if self.image is not None:
            parts.insert(0, {"type": "image", "image": self.image})
        return [{"role": "user", "content": parts}]


def read_examples(path: str | Path) -> list[TrainingExample]:
    """Read JSON lines with ``prompt``, ``answer``, ``safe`` and, optionally, ``image`` (relative to the file),
    ``refusal``, ``harmful_prompt``, ``source``.

    Raises:
        DataError: no file, or a line that does not fit; says which.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"no training file at {path}; give data=FILE.jsonl")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    known = set(TrainingExample.__dataclass_fields__)
    examples = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: not valid JSON: {error}") from error
        if not isinstance(row, dict) or not {"prompt", "answer", "safe"} <= set(row) or not set(row) <= known:
            raise DataError(f"{where}: needs prompt, answer, safe and may have {', '.join(sorted(known))}")
        for name, value in row.items():
            if name in ("safe", "harmful_prompt") and not isinstance(value, bool):
                raise DataError(f"{where}: {name} must be true or false, got {value!r}")
            if name in ("prompt", "answer", "refusal", "source") and not isinstance(value, str):
                raise DataError(f"{where}: {name} must be text, got {value!r}")
        if row.get("image") is not None:
            row["image"] = path.parent / str(row["image"])
            if not row["image"].is_file():
                raise DataError(f"{where}: no image at {row['image']}")
        examples.append(TrainingExample(**row))
    if not any(e.safe for e in examples) or all(e.safe for e in examples):
        raise DataError(f"{path} needs safe and unsafe examples; it has {len(examples)} rows of one kind")
    return examples


def manifest(path: str | Path, examples: list[TrainingExample]) -> dict[str, Any]:
    """What goes into the pack about its data."""
    path = Path(path)
    return {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "safe": sum(e.safe for e in examples),
        "unsafe": sum(not e.safe for e in examples),
    }
