"""SIUO (Wang et al., arXiv:2406.15279): a harmless text and a harmless image that together ask for something unsafe.

Upstream's ``data/siuo_gen.json`` is a list of ``question_id``, ``image``, ``question``, ``category``,
``safety_warning`` and ``reference_answer``; the images come from an archive of their own, into ``images/`` beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safety_reminder.data.files import find_file, image_at, need_columns, selection
from safety_reminder.data.tables import id_of, read_rows, text_of
from safety_reminder.types import Example

FILE = "siuo_gen.json"


def load(root: str | Path, *, categories: Sequence[str] | str | None = None) -> list[Example]:
    """The questions, in upstream's order.

    All count as harmful: simply doing what they ask is unsafe. A good answer need not refuse, it may also warn, so that
    a judge of the whole answer fits this set better than one that looks for a refusal.

    Args:
        root: the folder of ``siuo_gen.json``, the one above ``data``, or the file.
        categories: keep these only, by upstream's names.

    Raises:
        DataError: a file is not where it should be, or an image cannot be read; says which.
        ConfigError: unknown category.
    """
    path = find_file(root, "siuo", f"SIUO's folder with {FILE} and images/", FILE, f"data/{FILE}")
    rows = read_rows(path)
    need_columns(rows, ("question_id", "image", "question", "category"), path)
    known = dict.fromkeys(text_of(row, "category", f"{path}, row {n}") for n, row in enumerate(rows, 1))
    kept = selection("SIUO category", categories, known)
    examples = []
    for number, row in enumerate(rows, 1):
        where = f"{path}, row {number}"
        if text_of(row, "category", where) not in kept:
            continue
        question = text_of(row, "question", where)
        examples.append(
            Example(
                id=f"siuo/{id_of(row, str(number), where, 'question_id')}",
                prompt=question,
                image=image_at(path.parent / "images" / text_of(row, "image", where), where),
                harmful=True,
                category=text_of(row, "category", where),
                instruction=question,
            )
        )
    return examples
