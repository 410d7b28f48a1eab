"""Reading the rows of a ``.csv``, ``.json``, ``.jsonl`` or ``.parquet`` file, and telling true from false in them."""

from __future__ import annotations

import csv
import io
import json
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from safety_reminder.errors import DataError, ImageError, MissingExtraError

log = logging.getLogger(__name__)
Row = TypeVar("Row")


def read_rows(path: Path) -> Sequence[Mapping[str, Any]]:
    """The rows of a file, as mappings. Those of a ``.parquet`` file stay on disk until they are looked at.

    Raises:
        DataError: it is not UTF-8, or not what its suffix says.
        MissingExtraError: ``.parquet`` without the package that reads it.
    """
    if path.suffix == ".parquet":
        return read_parquet([path])
    readers = {".csv": _csv, ".json": _json, ".jsonl": _json_lines}
    if path.suffix not in readers:
        raise DataError(f"{path}: expected {', '.join(readers)} or .parquet")
    try:
        rows = readers[path.suffix](path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is not valid {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is not a list of objects")
    return rows


def read_parquet(paths: Sequence[Path]) -> Any:
    """The rows of parquet files, one after the other, as a ``datasets.Dataset``: a row is read when it is indexed."""
    try:
        import datasets
        from datasets.exceptions import DatasetGenerationError
    except ImportError as error:
        raise MissingExtraError("datasets", "train") from error
    try:
        return datasets.Dataset.from_parquet([str(path) for path in paths])
    except (OSError, ValueError, DatasetGenerationError) as error:
        raise DataError(f"{paths[0]} is not a valid parquet file: {error.__cause__ or error}") from error


def sample_rows(rows: Sequence[Any], count: int | None, seed: int | str) -> Sequence[Any]:
    """``count`` of the rows at random, in their order; all of them for None, or where there are no more."""
    if count is None or count >= len(rows):
        return rows
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), count))]


def each_row(rows: Iterable[Callable[[], Iterable[Row]]], on_error: str) -> list[Row]:
    """The rows that the callables read. Where an image is missing or broken, ``skip`` names the row and goes on.

    Raises:
        ImageError: of the first such row, unless ``on_error`` is ``skip``.
    """
    made: list[Row] = []
    for make in rows:
        try:
            made += make()
        except ImageError as error:
            if on_error != "skip":
                raise
            log.warning("left out: %s", error)
    return made


def read_row(rows: Sequence[Mapping[str, Any]], number: int, where: str) -> Mapping[str, Any]:
    """``rows[number]``. Of a ``.parquet`` file this decodes the row's image; ImageError where it is broken."""
    try:
        return rows[number]
    except (OSError, SyntaxError) as error:
        raise ImageError(f"{where}: the image cannot be read ({error})") from error


def id_of(row: Mapping[str, Any], default: str) -> str:
    """The row's own ``id``, which may be 0; ``default`` where it has none."""
    return default if row.get("id") in (None, "") else str(row["id"])


def truth(value: Any, where: str, *, default: bool, name: str = "harmful") -> bool:
    """``true``/``false`` or ``1``/``0``, in text or JSON; ``default`` where the cell is empty."""
    if value is None or value == "":
        return default
    known = {"true": True, "1": True, "false": False, "0": False}
    word = str(value).strip().lower()
    if word not in known:
        raise DataError(f"{where}: {name} must be true or false, got {value!r}")
    return known[word]


def _csv(text: str) -> list[dict[str, Any]]:
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    for number, row in enumerate(rows, 1):
        if None in row:
            raise ValueError(f"row {number} has more cells than the header")
    return rows


def _json(text: str) -> Any:
    """One document, or (as some tools name them) JSON lines."""
    lines = text.strip().split("\n")
    if len(lines) > 1 and all(line.startswith("{") and line.rstrip().endswith("}") for line in lines if line.strip()):
        return _json_lines(text)
    return json.loads(text)


def _json_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]
