"""Reading the rows of a ``.csv``, ``.json``, ``.jsonl`` or ``.parquet`` file, and the cells of a row: one strict reader
for all loaders, whose errors name file, row and column."""

from __future__ import annotations

import csv
import errno
import io
import logging
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from safety_reminder.errors import DataError, ImageError, MissingExtraError, shortened
from safety_reminder.outside import require_writable, strict_json

log = logging.getLogger(__name__)
Row = TypeVar("Row")


def read_rows(path: Path) -> Sequence[Mapping[str, Any]]:
    """The rows of a file, as mappings. Those of a ``.parquet`` file stay on disk until they are looked at.

    Raises:
        DataError: it is not UTF-8, or not what its suffix says: a quote is never closed, a row is shorter or longer
            than the header, a column is there twice.
        MissingExtraError: ``.parquet`` without the package that reads it.
    """
    if path.suffix == ".parquet":
        return read_parquet([path])
    readers = {".csv": _csv, ".json": _json, ".jsonl": _json_lines}
    if path.suffix not in readers:
        raise DataError(f"{path}: expected {', '.join(readers)} or .parquet")
    rows = readers[path.suffix](path, read_text(path))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is not a list of objects")
    return rows


def read_text(path: Path) -> str:
    """A file's text, without a byte order mark. Raises DataError where it is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error


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
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{where}: the image cannot be read ({error})") from error


def text_of(row: Mapping[str, Any], name: str, where: str) -> str:
    """A cell that must hold text. Raises DataError, which names row and column, where it does not."""
    text = optional_text(row, name, where)
    if not text:
        raise DataError(f"{where}: {name} is missing or empty")
    return text


def optional_text(row: Mapping[str, Any], name: str, where: str) -> str:
    """A cell that may be empty, or not there. Raises DataError for one that holds something else than text: its
    notation in Python is not what anybody wrote."""
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} must be a text, got {described(value)}")
    require_writable(value, f"{where}: {name}", DataError)
    return value.strip()


def id_of(row: Mapping[str, Any], default: str, where: str, name: str = "id") -> str:
    """The row's own id, a text or a whole number, which may be 0; ``default`` where it has none."""
    value = row.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return optional_text(row, name, where) or default


def truth(value: Any, where: str, *, default: bool, name: str = "harmful") -> bool:
    """``true``/``false`` or ``1``/``0``, in text or JSON; ``default`` where the cell is empty."""
    if value is None or value == "":
        return default
    known = {"true": True, "1": True, "false": False, "0": False}
    word = str(value).strip().lower() if isinstance(value, str | int) else ""
    if word not in known:
        raise DataError(f"{where}: {name} must be true or false, got {described(value)}")
    return known[word]


def image_cell(row: Mapping[str, Any], name: str, folder: Path, where: str) -> Any:
    """A path (relative to ``folder``) of a file that is there, the image of a parquet file's column, or None of an
    empty cell.

    Raises:
        ImageError: no such file, or bytes that are no image. DataError: something else stands there.
    """
    value = row.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, Mapping) and value.keys() <= {"bytes", "path"}:
        # How an image column lies on disk, where the file does not say that it is one.
        if isinstance(data := value.get("bytes"), bytes):
            return _decoded(data, f"{where}: {name}")
        value = value.get("path")
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} must be a path or an image column, got {described(value)}")
    require_writable(value, f"{where}: {name}", DataError)
    path = folder / value
    if not is_file(path):
        raise ImageError(f"{where}: no image at {shortened(str(path), 300)}")
    return path


def is_file(path: Path) -> bool:
    """Whether a file is there; none is under a name that no file can have."""
    try:
        return path.is_file()
    except ValueError:  # a null character
        return False
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def described(value: Any) -> str:
    """A value that does not belong there, for messages, however long it is."""
    kinds = {dict: "an object", list: "a list", bytes: "bytes", float: "a number", int: "a number"}
    kind = kinds.get(type(value), "")
    text = repr(value[:8] if isinstance(value, bytes) else value)
    shown = shortened(text, 60)
    return f"{shown} ({kind})" if kind else shown


def _decoded(data: bytes, where: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{where}: the image cannot be read ({error})") from error
    return image


def read_cells(path: Path) -> list[list[str]]:
    """The lines of a CSV file as cells, without those that are empty.

    Raises:
        DataError: it is not UTF-8, or a quote is never closed, or closed before the end of its cell.
    """
    return [cells for _, cells in _cells(path, read_text(path))]


def _cells(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Cells, and the line of the file that each row begins on."""
    rows: list[tuple[int, list[str]]] = []
    begins = 1
    with _long_cells():
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            for cells in reader:
                if cells:
                    rows.append((begins, cells))
                begins = reader.line_num + 1
        except csv.Error as error:
            reason = "a quote that is opened there is never closed" if "unexpected end" in str(error) else str(error)
            raise DataError(f"{path} is not valid CSV: line {begins}: {reason}") from error
    return rows


@contextmanager
def _long_cells() -> Any:
    """Without Python's limit of 128 KiB a cell."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv(path: Path, text: str) -> list[dict[str, Any]]:
    rows = _cells(path, text)
    if not rows:
        return []
    header = [name.strip() for name in rows[0][1]]
    if doubled := next((name for name in header if header.count(name) > 1), None):
        raise DataError(f"{path} has the column {doubled[:60]!r} twice; which of them counts?")
    for number, (line, cells) in enumerate(rows[1:], 1):
        if len(cells) != len(header):
            few = "fewer" if len(cells) < len(header) else "more"
            raise DataError(
                f"{path} is not valid CSV: row {number} has {few} cells than the header ({len(cells)}, not "
                f"{len(header)}; line {line})"
            )
    return [dict(zip(header, cells, strict=True)) for _, cells in rows[1:]]


def _json(path: Path, text: str) -> Any:
    """One document, or (as some tools name them) JSON lines."""
    lines = text.strip().split("\n")
    if len(lines) > 1 and all(line.startswith("{") and line.rstrip().endswith("}") for line in lines if line.strip()):
        return _json_lines(path, text)
    try:
        return strict_json(text)
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error


def _json_lines(path: Path, text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(strict_json(line))
            except ValueError as error:
                raise DataError(f"{path} is not valid {path.suffix[1:].upper()}: line {number}: {error}") from error
    return rows
