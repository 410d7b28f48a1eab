"""Adversarial suffixes that others found, as GCG's scripts (Zou et al., arXiv:2307.15043) and their followers write
them: a table with the columns ``goal``, ``adv_suffix`` and, as a rule, ``target``.
"""

from __future__ import annotations

from pathlib import Path

from safety_reminder.data.files import existing_root, image_at, need_columns
from safety_reminder.data.tables import id_of, optional_text, read_rows, text_of, truth
from safety_reminder.errors import DataError
from safety_reminder.types import Example


def load(root: str | Path, *, joiner: str = " ", image: str | Path | None = None) -> list[Example]:
    """Every goal with its suffix after it; all harmful, unless a column ``harmful`` says otherwise.

    Goal and suffix are taken letter by letter: a space more or less makes other tokens. ``instruction`` is the goal.

    Args:
        root: a ``.csv``, ``.json`` or ``.jsonl`` file. Further columns: ``target``, ``id``, ``category``, ``harmful``.
        joiner: what stands between goal and suffix; published scripts put a space there.
        image: shown with every prompt, where the suffix was found beside one.

    Raises:
        DataError: no such file or column, an empty cell, or an image that cannot be read.
    """
    what = "a table with the columns goal and adv_suffix"
    path = existing_root(root, "adv_suffix", what)
    if not path.is_file():
        raise DataError(f"{path} is a folder; give dataset.root=FILE, {what}")
    rows = read_rows(path)
    need_columns(rows, ("goal", "adv_suffix"), path)
    picture = image_at(Path(image).expanduser(), "dataset.image") if image else None
    examples = []
    for number, row in enumerate(rows):
        where = f"{path}, row {number + 1}"
        text_of(row, "adv_suffix", where)
        goal = text_of(row, "goal", where)
        examples.append(
            Example(
                id=id_of(row, f"{path.stem}-{number:04d}", where),
                prompt=f"{row['goal']}{joiner}{row['adv_suffix']}",
                image=picture,
                harmful=truth(row.get("harmful"), where, default=True),
                category=optional_text(row, "category", where),
                instruction=goal,
                target=optional_text(row, "target", where),
            )
        )
    return examples
