"""Adversarial images that others made, a folder of PNG or BMP files, and a table of goals to show them with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from safety_reminder.data.benchmarks.text import load as load_text
from safety_reminder.data.files import IMAGE_SUFFIXES, existing_root, image_at, one_of
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.types import Example

LOSSLESS = ("PNG", "BMP")
PAIRINGS = ("cross", "name")
COLUMNS = ("goal", "instruction", "question", "prompt")


def load(
    root: str | Path, *, goals: str | Path | None = None, column: str | None = None, pairing: str = "cross"
) -> list[Example]:
    """Goals beside adversarial images; ``prompt`` and ``instruction`` are the goal.

    Args:
        root: the folder of images.
        goals: a ``.csv``, ``.json`` or ``.jsonl`` file. Further columns, all optional: ``id``, ``category``,
            ``harmful``, ``target``.
        column: of the goals; by default the first there is of ``goal``, ``instruction``, ``question``, ``prompt``.
        pairing: ``cross``, every goal with every image; or ``name``, each goal with its own: the one whose name, or the
            number at its end, is the row's ``id``, or the number at its end, or without that column the row's number,
            counted from 0. Images of no row are left out.

    Raises:
        DataError: no such folder or file, no images there, one that cannot be read or is not lossless, or no image for
            a row. ConfigError: unknown pairing, or no goals given.
    """
    folder = existing_root(root, "adv_images", "a folder of adversarial PNG or BMP images")
    images = _lossless(folder)
    if goals is None:
        raise ConfigError(
            "dataset=adv_images needs dataset.goals=FILE (.csv, .json or .jsonl), the goals to show them with"
        )
    one_of("pairing", pairing, PAIRINGS)
    rows = _goals(Path(goals).expanduser(), column)
    if pairing == "cross":
        pairs = [(f"{image.stem}/{row.id}", image, row) for image in images for row in rows]
    else:
        pairs = [(row.id, image, row) for row, image in zip(rows, _by_name(rows, images, folder), strict=True)]
    return [
        Example(key, row.prompt, image, row.harmful, row.category, row.instruction, row.target)
        for key, image, row in pairs
    ]


def _lossless(folder: Path) -> list[Path]:
    files = (
        sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []
    )
    if not files:
        raise DataError(f"dataset=adv_images: expected PNG or BMP images in {folder}")
    for path in files:
        image_at(path, "dataset=adv_images")
        with Image.open(path) as image:
            if image.format not in LOSSLESS:
                raise DataError(
                    f"{path} is a {image.format}, whose compression destroys adversarial perturbations; "
                    "give the image as PNG or BMP, as the attack wrote it, or move the file elsewhere"
                )
    return files


def _goals(path: Path, column: str | None) -> list[Example]:
    if column is not None or not path.is_file():
        return load_text(path, column=column)
    for name in COLUMNS:
        try:
            return load_text(path, column=name)
        except DataError as error:
            if "has no column" not in str(error):
                raise
    raise DataError(f"{path} has no column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}; give dataset.column=NAME")


def _by_name(rows: Sequence[Example], images: Iterable[Path], folder: Path) -> list[Path]:
    named: dict[str, list[Path]] = {}
    for path in images:
        number = re.search(r"\d+$", path.stem)
        for key in {path.stem, *([str(int(number[0]))] if number else [])}:
            named.setdefault(key, []).append(path)
    found = []
    for row in rows:
        number = re.search(r"\d+$", row.id)
        key = str(int(number[0])) if number and row.id not in named else row.id
        there = named.get(key, [])
        if len(there) != 1:
            several = f"several images ({', '.join(path.name for path in there)})" if there else "no image"
            raise DataError(
                f"{folder} has {several} for the goal {row.id!r}; pairing=cross shows every one with every goal"
            )
        found += there
    return found
