"""BAP (Ying et al., "Jailbreak vision language models via bi-modal adversarial prompt", arXiv:2406.04031): questions
that a chat model rewrote, each beside an adversarial image, in the JSON that its code writes.
"""

from __future__ import annotations

from pathlib import Path

from safety_reminder.data.files import existing_root, image_at, need_columns
from safety_reminder.data.tables import optional_text, read_rows, text_of
from safety_reminder.errors import DataError
from safety_reminder.types import Example

COLUMNS = ("question", "rephrased_question", "image_path")


def load(root: str | Path, *, images: str | Path | None = None) -> list[Example]:
    """The rewritten questions with their images; ``instruction`` is the original question, on which answers are judged.

    Args:
        root: a JSON file: a list of objects with ``question``, ``rephrased_question`` and ``image_path``.
        images: folder that ``image_path`` leads from; by default the file's own.

    Raises:
        DataError: no such file, a row that lacks one of these, or an image that cannot be read. An empty path stands
            for no image.
    """
    what = "BAP's JSON file"
    path = existing_root(root, "bap", what)
    if not path.is_file():
        raise DataError(f"{path} is a folder; give dataset.root=FILE, {what}")
    rows = read_rows(path)
    need_columns(rows, COLUMNS, path)
    folder = path.parent if images is None else Path(images).expanduser()
    seen: dict[str, Path] = {}  # one image goes with many questions; opening it once is enough
    examples = []
    for number, row in enumerate(rows):
        where = f"{path}, row {number + 1}"
        name = optional_text(row, "image_path", where)
        if name and name not in seen:
            seen[name] = image_at(folder / name, where)
        examples.append(
            Example(
                id=f"{path.stem}-{number:04d}",
                prompt=text_of(row, "rephrased_question", where),
                image=seen.get(name),
                harmful=True,
                instruction=text_of(row, "question", where),
            )
        )
    return examples
