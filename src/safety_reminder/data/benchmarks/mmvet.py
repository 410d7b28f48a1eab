"""MM-Vet (Yu et al., arXiv:2308.02490): harmless questions on images that ask for several capabilities at once.

Upstream's archive holds ``mm-vet.json``, an object id → ``imagename``, ``question``, ``answer``, ``capability``, and
``images/``. Copies of it as a list are read too: ``data.json`` with ``question_id`` and ``image`` in their places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safety_reminder.data.files import existing_root, first_existing, image_at, need_columns, read_mapping, selection
from safety_reminder.data.tables import id_of, read_rows, text_of
from safety_reminder.errors import DataError
from safety_reminder.types import Example

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")


def load(root: str | Path, *, capabilities: Sequence[str] | str | None = None) -> list[Example]:
    """The questions, none of them harmful. ``category`` is the capabilities as ``ocr/math``.

    ``target`` is the right answer in upstream's notation: all parts that ``<AND>`` joins must be there, and one of
    those that ``<OR>`` joins.

    Args:
        root: the folder of ``mm-vet.json`` (or ``data.json``) and ``images/``, or the one above a folder ``mm-vet``.
        capabilities: keep the questions that ask for at least one of these.

    Raises:
        DataError: a file is not where it should be, or a row does not fit; says which.
        ConfigError: unknown capability.
    """
    kept = set(selection("MM-Vet capability", capabilities, CAPABILITIES))
    folder = existing_root(root, "mmvet", "the folder of mm-vet.json and images/")
    path = first_existing(
        [folder / "mm-vet.json", folder / "mm-vet" / "mm-vet.json", folder / "data.json"], dataset="mmvet"
    )
    rows: list[tuple[str, Mapping[str, Any], str]]
    if path.name == "mm-vet.json":
        rows = [(key, row, "imagename") for key, row in read_mapping(path).items()]
    else:
        listed = read_rows(path)
        need_columns(listed, ("question_id", "image", "question", "answer", "capability"), path)
        rows = [
            (id_of(row, "", f"{path}, row {number}", "question_id"), row, "image")
            for number, row in enumerate(listed, 1)
        ]
    examples = []
    for key, row, column in rows:
        where = f"{path}, question {key}"
        skills = row.get("capability")
        if not isinstance(skills, list) or not skills or not all(skill in CAPABILITIES for skill in skills):
            raise DataError(f"{where}: capability must be a list of {', '.join(CAPABILITIES)}, got {skills!r:.60}")
        if not kept & set(skills):
            continue
        examples.append(
            Example(
                id=key,
                prompt=text_of(row, "question", where),
                image=image_at(path.parent / "images" / text_of(row, column, where), where),
                harmful=False,
                category="/".join(skills),
                instruction=text_of(row, "question", where),
                target=text_of(row, "answer", where),
            )
        )
    return examples
