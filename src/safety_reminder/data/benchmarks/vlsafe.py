"""VLSafe's examination queries (Chen et al., DRESS, arXiv:2311.10081); ``vlsafe`` reads its training rows.

Upstream's ``VLSafe/harmlessness_examine.jsonl`` has ``image_id``, the file name of an image of COCO's train2017, and
``query``. What else a row holds (a caption or a reference) is not read.
"""

from __future__ import annotations

from pathlib import Path

from safety_reminder.data.files import find_file, first_existing, image_at, need_columns
from safety_reminder.data.tables import read_rows, text_of
from safety_reminder.types import Example

FILE = "harmlessness_examine.jsonl"


def load(root: str | Path, *, images: str | Path | None = None) -> list[Example]:
    """The queries, all harmful, in upstream's order.

    Args:
        root: the JSON-lines file, its folder, or the folder above ``VLSafe``.
        images: folder of COCO's images; by default ``images`` or ``train2017`` beside the file.

    Raises:
        DataError: a file is not where it should be, or an image cannot be read; says which.
    """
    path = find_file(root, "vlsafe", FILE, FILE, f"VLSafe/{FILE}")
    rows = read_rows(path)
    need_columns(rows, ("image_id", "query"), path)
    places = [path.parent / "images", path.parent / "train2017"]
    folder = first_existing([Path(images).expanduser()] if images is not None else places, "vlsafe")
    examples = []
    for number, row in enumerate(rows):
        where = f"{path}, row {number + 1}"
        query = text_of(row, "query", where)
        image = image_at(folder / text_of(row, "image_id", where), where)
        examples.append(Example(id=f"vlsafe/{number:04d}", prompt=query, image=image, harmful=True, instruction=query))
    return examples
