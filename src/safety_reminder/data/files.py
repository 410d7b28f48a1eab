"""Finding the files of a data set, and saying which one was expected where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from safety_reminder.data.tables import is_file
from safety_reminder.errors import ConfigError, DataError, unknown_name
from safety_reminder.outside import strict_json

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def existing_root(root: str | Path, dataset: str, what: str) -> Path:
    """``root`` where there is such a file or folder; ``what`` says what it should be.

    Raises:
        DataError: it is empty, or there is nothing there.
    """
    if not str(root):
        raise DataError(f"dataset={dataset} needs dataset.root=PATH, {what}")
    path = Path(root).expanduser()
    if not path.exists():
        raise DataError(f"no file or folder {path}; give dataset.root=PATH, {what}")
    return path


def first_existing(candidates: Iterable[Path], dataset: str) -> Path:
    """The first of the paths that is there. Raises DataError, which names all of them, where none is."""
    paths = list(candidates)
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise DataError(f"dataset={dataset}: expected {', or '.join(map(str, paths))}")
    return path


def find_file(root: str | Path, dataset: str, what: str, *places: str | Path) -> Path:
    """``root`` itself where it is a file; where it is a folder, the first of the ``places`` in it that exists.

    Raises:
        DataError: there is nothing; names what was expected.
    """
    path = existing_root(root, dataset, what)
    return first_existing([path / place for place in places], dataset) if path.is_dir() else path


def read_mapping(path: Path) -> dict[str, dict[str, Any]]:
    """A JSON object of objects, as some benchmarks keep their rows: id → row.

    Raises:
        DataError: it is not UTF-8, not JSON, or not an object of objects.
    """
    try:
        rows = strict_json(path.read_bytes().decode("utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise DataError(f"{path} is not an object of objects, id → row")
    return rows


def need_columns(rows: Sequence[Mapping[str, Any]], columns: Iterable[str], path: Path) -> None:
    """DataError unless there are rows, and all of them have the columns. Of a table on disk, whose rows all have the
    same, the first is looked at."""
    columns = list(columns)
    if not len(rows) or not set(columns) <= set(rows[0]):
        raise DataError(f"{path} needs at least one row, and the columns {', '.join(columns)}")
    for number, row in enumerate(rows if isinstance(rows, list) else (), 1):
        if missing := [name for name in columns if name not in row]:
            raise DataError(f"{path}, row {number} has no {', '.join(missing)}")


def image_at(path: Path, where: str) -> Path:
    """``path`` where an image can be opened. Its pixels are not decoded.

    Raises:
        DataError: there is no such file, or it is not an image; names it.
    """
    if not is_file(path):
        raise DataError(f"{where}: no image at {path}")
    try:
        with Image.open(path) as image:
            image.verify()
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:  # what Pillow raises for files that are damaged
        raise DataError(f"{where}: {path} is not an image that can be read ({error})") from error
    return path


def image_of_stem(folder: Path, stem: str, where: str) -> Path:
    """The image of that name with whichever suffix it has. Raises DataError, which names what was looked for."""
    places = [folder / f"{stem}{suffix}" for suffix in IMAGE_SUFFIXES]
    image = next((path for path in places if path.is_file()), None)
    if image is None:
        raise DataError(f"{where}: no image at {folder / stem} ({', '.join(IMAGE_SUFFIXES)})")
    return image_at(image, where)


def selection(kind: str, wanted: Sequence[str] | str | None, known: Iterable[str]) -> list[str]:
    """The known names that are asked for, in their own order and in any case; all of them for None or an empty list.

    Raises:
        ConfigError: a name that is not known; gives the nearest one.
    """
    known = list(known)
    if not wanted:
        return known
    names = {name.lower(): name for name in known}
    selected = set()
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if str(name).strip().lower() not in names:
            raise ConfigError(unknown_name(kind, str(name), known))
        selected.add(names[str(name).strip().lower()])
    return [name for name in known if name in selected]


def one_of(kind: str, name: str, known: Iterable[str]) -> str:
    """``name`` where it is known. ConfigError with the nearest one where it is not."""
    known = list(known)
    if name not in known:
        raise ConfigError(unknown_name(kind, str(name), known))
    return name
