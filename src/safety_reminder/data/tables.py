"""Reading the rows of a ``.csv``, ``.json`` or ``.jsonl`` file, and telling true from false in them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from safety_reminder.errors import DataError


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, as mappings.

    Raises:
        DataError: it is not UTF-8, or not what its suffix says.
    """
    readers = {".csv": _csv, ".json": json.loads, ".jsonl": _json_lines}
    if path.suffix not in readers:
        raise DataError(f"{path}: expected {', '.join(readers)}")
    try:
        rows = readers[path.suffix](path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is not valid {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is not a list of objects")
    return rows


def truth(value: Any, where: str, *, default: bool) -> bool:
    """``true``/``false`` or ``1``/``0``, in text or JSON; ``default`` where the cell is empty."""
    if value is None or value == "":
        return default
    known = {"true": True, "1": True, "false": False, "0": False}
    word = str(value).strip().lower()
    if word not in known:
        raise DataError(f"{where}: harmful must be true or false, got {value!r}")
    return known[word]


def _csv(text: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def _json_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]
