"""Prompts without images from a CSV or JSON file of one's own: a column of text, perhaps one that says whether it is
harmful."""

from __future__ import annotations

from pathlib import Path

from safety_reminder.data.tables import id_of, image_cell, optional_text, read_row, read_rows, text_of, truth
from safety_reminder.errors import DataError, shortened
from safety_reminder.types import Example

TEXT_COLUMNS = ("prompt", "instruction", "question", "goal")


def load(root: str | Path, *, harmful: bool = True, column: str | None = None) -> list[Example]:
    """One's own rows: text, or text with an image, from a ``.csv``, a ``.json`` list of objects or a ``.jsonl`` file.

    Optional columns: ``id``, ``category``, ``harmful``, ``advice``, ``image`` (a path, relative to the file),
    ``target``, where there is a right answer, ``prefill``, the beginning of the answer, which is given to the model
    letter by letter, and ``instruction`` beside another text: what is asked, where the text only wraps it.

    Args:
        harmful: for rows without a ``harmful`` column.
        column: the text's; by default the first there is of ``prompt``, ``instruction``, ``question``, ``goal``.

    Raises:
        DataError: no such file, not that format, no such column, a cell of another type, or an image that is not there.
    """
    path = Path(root).expanduser()
    if not path.is_file():
        raise DataError(f"no file at {path}; give dataset.root=FILE (.csv, .json or .jsonl)")
    rows = read_rows(path)
    if not len(rows):
        raise DataError(f"{path} has no rows")
    name = column or next((c for c in TEXT_COLUMNS if c in rows[0]), None)
    if name is None or name not in rows[0]:
        raise DataError(
            f"{path} has no column {column or ' or '.join(TEXT_COLUMNS)}; it has {shortened(', '.join(rows[0]), 300)}"
        )
    examples = []
    for number in range(len(rows)):
        where = f"{path}, row {number + 1}"
        row = read_row(rows, number, where)
        text = text_of(row, name, where)
        begun = optional_text(row, "prefill", where)
        examples.append(
            Example(
                id=id_of(row, f"{path.stem}-{number:04d}", where),
                prompt=text,
                image=image_cell(row, "image", path.parent, where),
                harmful=truth(row.get("harmful"), where, default=harmful),
                advice=truth(row.get("advice"), where, default=False, name="advice"),
                category=optional_text(row, "category", where),
                instruction=optional_text(row, "instruction", where) or text,
                target=optional_text(row, "target", where),
                # Blanks at its ends are part of what the model goes on from.
                prefill=row["prefill"] if begun else "",
            )
        )
    return examples
