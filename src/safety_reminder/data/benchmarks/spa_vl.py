"""SPA-VL's test questions (Zhang et al., arXiv:2406.12030), for evaluation; ``spa_vl`` reads its training rows.

Upstream publishes ``test/harm-*.parquet`` and ``test/help-*.parquet``, 265 rows each, with ``image``, ``question`` and
``class1`` to ``class3``, from coarse to fine. JSON lines that name their images, as in converted copies, are read too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safety_reminder.data.files import existing_root, image_at, need_columns, one_of
from safety_reminder.data.tables import image_cell, read_parquet, read_row, read_rows, text_of
from safety_reminder.data.training_sets.spa_vl import find_image
from safety_reminder.errors import DataError
from safety_reminder.types import Example

SPLITS = ("harm", "help")


def load(root: str | Path, *, split: str = "harm", images: str | Path | None = None) -> list[Example]:
    """The questions of a split, in upstream's order; ``category`` is ``class1``, one of six domains.

    ``harm`` (upstream's HarmEval) counts as harmful. ``help`` (HelpEval) does not, since upstream compares how helpful
    its answers are; single questions bear no label, and nobody has checked that none of them asks for harm.

    Args:
        root: upstream's folder, or one ``.parquet``, ``.json`` or ``.jsonl`` file; ``split`` then says which split its
            rows are.
        images: folder of the images that JSON rows name; by default beside the file.

    Raises:
        DataError: a file is not where it should be, or an image cannot be read; says which.
        MissingExtraError: ``.parquet`` without the package that reads it.
        ConfigError: unknown split.
    """
    one_of("SPA-VL split", split, SPLITS)
    path = existing_root(root, "spa_vl", "SPA-VL's folder")
    rows: Sequence[Mapping[str, Any]]
    if path.is_dir():
        files = sorted(path.glob(f"test/{split}-*.parquet")) or sorted(path.glob(f"test/{split}/*.parquet"))
        if not files:
            raise DataError(f"dataset=spa_vl: expected {path / 'test' / f'{split}-*.parquet'}")
        rows, path = read_parquet(files), files[0]
    else:
        rows = read_rows(path)
    folder = Path(images).expanduser() if images is not None else path.parent
    need_columns(rows, ("question", "class1"), path)
    return [_example(rows, number, split, folder, f"{path}, row {number + 1}") for number in range(len(rows))]


def _example(rows: Sequence[Mapping[str, Any]], number: int, split: str, folder: Path, where: str) -> Example:
    row = read_row(rows, number, where)
    image = row.get("image")
    if image is None or isinstance(image, str):
        image = image_at(find_image(row, folder, where), where)
    else:
        image = image_cell(row, "image", folder, where)
    question = text_of(row, "question", where)
    return Example(
        id=f"spa_vl/{split}/{number}",
        prompt=question,
        image=image,
        harmful=split == "harm",
        category=text_of(row, "class1", where),
        instruction=question,
    )
