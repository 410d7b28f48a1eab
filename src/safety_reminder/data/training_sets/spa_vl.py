"""SPA-VL (Zhang et al., arXiv:2406.12030): questions on images with a preferred and a rejected answer.

Read as upstream publishes it (``data/train-*.parquet``), and as the authors of the Safety Reminder converted it: JSON
lines with ``class1`` to ``class3``, ``image_name``, and ``safe`` / ``chosen_safe``, a judge's verdicts on the answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safety_reminder.data.tables import (
    each_row,
    image_cell,
    optional_text,
    read_parquet,
    read_row,
    read_rows,
    sample_rows,
    text_of,
    truth,
)
from safety_reminder.data.training_sets.loading import user
from safety_reminder.errors import DataError, ImageError
from safety_reminder.types import TrainingExample

COLUMNS = ("question", "chosen", "rejected")


def load(
    root: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    images: str | Path | None = None,
    on_error: str = "stop",
) -> list[TrainingExample]:
    """Unsafe rows: ``chosen`` must follow a beginning of ``rejected``.

    Args:
        root: upstream's folder, or one ``.parquet``, ``.json`` or ``.jsonl`` file.
        limit: at most this many rows, at random by ``seed``; the images of the others are not read.
        images: folder of the images that JSON rows name; by default beside the file.
        on_error: ``skip`` leaves rows out whose image is missing or broken, and names them.

    Raises:
        DataError: no such file, columns or texts that are missing, an image that is not there.
    """
    root = Path(root)
    if root.is_dir():
        files = sorted(root.glob("data/train-*.parquet")) or sorted(root.glob("train*/*.parquet"))
        files = files or sorted(root.glob("*.parquet"))
        if not files:
            lines = sorted([*root.glob("*.jsonl"), *root.glob("*.json")])
            if len(lines) != 1:
                raise DataError(f"{root}: expected data/train-*.parquet, or one JSON-lines file")
            root = lines[0]
    else:
        files = []
    rows = read_parquet(files) if files else read_rows(root)
    folder = Path(images) if images else (root.parent if root.is_file() else root)
    missing = [name for name in COLUMNS if not len(rows) or name not in rows[0]]
    if missing:
        raise DataError(f"{root} has no column {', '.join(missing)}; SPA-VL has question, chosen, rejected")
    numbers = list(range(len(rows)))
    if isinstance(rows, list):
        numbers = [i for i in numbers if usable(rows[i], f"{root}, row {i + 1}")]
    taken = sample_rows(numbers, limit, f"{seed}/spa_vl")
    return each_row((partial(_examples, rows, i, folder, f"{root}, row {i + 1}") for i in taken), on_error)


def usable(row: Mapping[str, Any], where: str) -> bool:
    """If a judge was asked, it called the rejected answer unsafe and the chosen one safe."""
    rejected = truth(row.get("safe"), where, default=False, name="safe")
    return not rejected and truth(row.get("chosen_safe"), where, default=True, name="chosen_safe")


def _examples(rows: Any, number: int, folder: Path, where: str) -> list[TrainingExample]:
    row = read_row(rows, number, where)
    question, chosen, rejected = (text_of(row, name, where) for name in COLUMNS)
    image = row.get("image")
    if image is None or isinstance(image, str):
        image = find_image(row, folder, where)
    else:
        image = image_cell(row, "image", folder, where)
    topic = optional_text(row, "class1", where)
    return [TrainingExample(user(question), False, chosen, rejected, image, source="spa_vl", topic=topic)]


def find_image(row: Mapping[str, Any], folder: Path, where: str) -> Path:
    """The image a row names, in ``folder`` or in its classes' folders below. Raises DataError, which names where it was
    sought."""
    classes = [name for i in (1, 2, 3) if (name := optional_text(row, f"class{i}", where))]
    names = (optional_text(row, column, where) for column in ("image_path", "image", "image_name"))
    name = next(filter(None, names), "")
    if not name:
        raise ImageError(f"{where}: has neither image, image_path nor image_name")
    places = [folder / name, folder.joinpath(*classes, name), folder.joinpath("images", *classes, name)]
    image = next((path for path in places if path.is_file()), None)
    if image is None:
        raise ImageError(f"{where}: no image at {', nor at '.join(map(str, places))}")
    return image
