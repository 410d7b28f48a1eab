"""Prompts without images from a CSV or JSON file of one's own: a column of text, perhaps one that says if harmful."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from safety_reminder.errors import DataError
from safety_reminder.types import Example

TEXT_COLUMNS = ("prompt", "instruction", "question", "goal")


def load(root: str | Path, *, harmful: bool = True, column: str | None = None) -> list[Example]:
    """Text examples from a ``.csv``, a ``.json`` list of objects or a ``.jsonl`` file.

    Args:
        harmful: of rows without a ``harmful`` column.
        column: of the text; by default the first there is of ``prompt``, ``instruction``, ``question``, ``goal``.

    Raises:
        DataError: no such file, not that format, or no such column.
    """
    path = Path(root).expanduser()
    if not path.is_file():
        raise DataError(f"no file at {path}; give dataset.root=FILE (.csv, .json or .jsonl)")
    rows = _rows(path)
    if not rows:
        raise DataError(f"{path} has no rows")
    name = column or next((c for c in TEXT_COLUMNS if c in rows[0]), None)
    if name is None or name not in rows[0]:
        raise DataError(f"{path} has no column {column or ' or '.join(TEXT_COLUMNS)}; it has {', '.join(rows[0])}")
    examples = []
    for number, row in enumerate(rows):
        text = str(row.get(name) or "").strip()
        if not text:
            raise DataError(f"{path}, row {number}: {name} is empty")
        flag = row.get("harmful", harmful)
        flag = flag.strip().lower() in ("true", "1") if isinstance(flag, str) else bool(flag)
        examples.append(
            Example(
                id=str(row.get("id") or f"{path.stem}-{number:04d}"),
                prompt=text,
                harmful=flag,
                category=str(row.get("category") or ""),
                instruction=text,
            )
        )
    return examples


def _rows(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        if path.suffix == ".json":
            rows = json.loads(text)
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise DataError(f"{path} is not a list of objects")
            return rows
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    raise DataError(f"{path}: expected .csv, .json or .jsonl")
