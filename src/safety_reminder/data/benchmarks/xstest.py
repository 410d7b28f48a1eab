"""XSTest (Röttger et al., arXiv:2308.01263): safe prompts that sound unsafe, and unsafe ones to contrast with them.

Upstream's ``xstest_prompts.csv`` has ``id,prompt,type,label,focus,note``. Older copies (``xstest_v2_prompts.csv``) have
no ``label``; there, as upstream says, a prompt is unsafe where its type begins with ``contrast_``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safety_reminder.data.files import find_file, need_columns, one_of, selection
from safety_reminder.data.tables import id_of, optional_text, read_rows, text_of
from safety_reminder.errors import DataError
from safety_reminder.types import Example

FILES = ("xstest_prompts.csv", "xstest_v2_prompts.csv")
KINDS = ("all", "safe", "unsafe")


def load(root: str | Path, *, kind: str = "all", types: Sequence[str] | str | None = None) -> list[Example]:
    """The prompts, in upstream's order; ``category`` is the type.

    Args:
        root: the CSV file, or its folder.
        kind: ``safe`` and ``unsafe`` keep one kind only.
        types: keep these only (``homonyms``, ``contrast_homonyms`` and so on).

    Raises:
        DataError: no such file or column, or a label that contradicts the type.
        ConfigError: unknown kind or type.
    """
    one_of("kind of XSTest prompts", kind, KINDS)
    path = find_file(root, "xstest", FILES[0], *FILES)
    rows = read_rows(path)
    need_columns(rows, ("prompt", "type"), path)
    names = [text_of(row, "type", f"{path}, row {number}") for number, row in enumerate(rows, 1)]
    kept = selection("XSTest type", types, dict.fromkeys(names))
    examples = []
    for number, (row, name) in enumerate(zip(rows, names, strict=True), 1):
        where = f"{path}, row {number}"
        harmful = name.startswith("contrast_")
        label = optional_text(row, "label", where)
        if label and label != ("unsafe" if harmful else "safe"):
            raise DataError(f"{where}: label {label!r} contradicts the type {name!r}")
        if name not in kept or kind == ("safe" if harmful else "unsafe"):
            continue
        text = text_of(row, "prompt", where)
        key = id_of(row, id_of(row, str(number), where, "id_v2"), where)
        examples.append(Example(id=f"xstest/{key}", prompt=text, harmful=harmful, category=name, instruction=text))
    return examples
