"""VLGuard's test set (Zong et al., arXiv:2402.02207), for evaluation; ``vlguard`` reads its training rows.

Upstream's ``test.json`` has ``image`` (a path below ``test/``), ``safe``, ``harmful_category`` where the image is not
safe, and ``instr-resp``. Upstream takes three subsets from it: ``unsafes``, an instruction on an image that is itself
harmful; ``safe_unsafes``, a harmful instruction on a harmless image; ``safe_safes``, where neither is harmful.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safety_reminder.data.files import find_file, first_existing, image_at, need_columns, selection
from safety_reminder.data.tables import read_rows, text_of
from safety_reminder.errors import DataError
from safety_reminder.types import Example

# Subset → (the image is safe, the key of its instruction).
SUBSETS = {
    "unsafes": (False, "instruction"),
    "safe_unsafes": (True, "unsafe_instruction"),
    "safe_safes": (True, "safe_instruction"),
}


def load(
    root: str | Path, *, subsets: Sequence[str] | str | None = None, images: str | Path | None = None
) -> list[Example]:
    """The instructions of the subsets, one subset after the other. Safe images without one are left out.

    ``category`` is upstream's harmful category, and for safe images the subset.

    Args:
        root: the folder of ``test.json``, the one above ``data``, or the file.
        subsets: of ``unsafes``, ``safe_unsafes`` and ``safe_safes``; by default all.
        images: folder of the images; by default ``test`` beside the file.

    Raises:
        DataError: a file is not where it should be, a row of an unknown form, an unreadable image; says which.
        ConfigError: unknown subset.
    """
    subset_names = selection("VLGuard subset", subsets, SUBSETS)
    path = find_file(root, "vlguard", "VLGuard's folder with test.json and test/", "test.json", "data/test.json")
    rows = read_rows(path)
    need_columns(rows, ("image", "safe", "instr-resp"), path)
    folder = first_existing([Path(images).expanduser() if images is not None else path.parent / "test"], "vlguard")
    examples = []
    for subset in subset_names:
        safe, key = SUBSETS[subset]
        for number, row in enumerate(rows):
            where = f"{path}, row {number + 1}"
            if not isinstance(row.get("safe"), bool):
                raise DataError(f"{where}: safe must be true or false, got {row.get('safe')!r:.60}")
            instruction = _instruction(row, key, where) if row["safe"] is safe else None
            if instruction is None:
                continue
            examples.append(
                Example(
                    id=f"vlguard/{subset}/{number}",
                    prompt=instruction,
                    image=image_at(folder / text_of(row, "image", where), where),
                    harmful=subset != "safe_safes",
                    category=subset if safe else text_of(row, "harmful_category", where),
                    instruction=instruction,
                )
            )
    return examples


def _instruction(row: Mapping[str, Any], key: str, where: str) -> str | None:
    pairs = row.get("instr-resp")
    if not isinstance(pairs, list) or not pairs or not all(isinstance(pair, dict) for pair in pairs):
        raise DataError(f"{where}: instr-resp must be a list of objects")
    pair_with_key = next((pair for pair in pairs if key in pair), None)
    if pair_with_key is None and key == "instruction":
        raise DataError(f"{where}: instr-resp of an image that is not safe needs an instruction")
    return None if pair_with_key is None else text_of(pair_with_key, key, where)
