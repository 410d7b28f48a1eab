"""VLSafe (Chen et al., DRESS, arXiv:2311.10081): harmful queries, and in another file helpful talks, on COCO images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safety_reminder.config.guard import DEFAULT_REFUSAL
from safety_reminder.data.tables import each_row, is_file, optional_text, read_rows, sample_rows, text_of
from safety_reminder.data.training_sets.loading import user
from safety_reminder.errors import DataError, ImageError
from safety_reminder.types import TrainingExample


def load(
    root: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    images: str | Path | None = None,
    on_error: str = "stop",
) -> list[TrainingExample]:
    """Rows of all JSON-lines files in a folder, or of one. The set's examination files, which are for evaluation, are
    only read if they are named.

    A harmful row has ``query`` (and ``reference``, which nothing here reads: it is not an answer of the model that is
    trained). It has no unsafe answer, so only the bare prompt is learned from. A benign row has ``interaction``: a
    user's text and the model's answer, and if feedback follows, the answer after it. What is asked in the interactions
    of a file named ``harmless*`` (upstream's talks on harmful requests) is a harmful query too.

    Args:
        images: COCO's image folder; by default ``images`` beside the file.
        on_error: ``skip`` leaves rows out whose image is missing, and names them.

    Raises:
        DataError: no such file, a row of neither form, an image that is not there.
    """
    root = Path(root)
    files = [root]
    if root.is_dir():
        files = sorted(path for path in root.glob("*.jsonl") if "examine" not in path.name)
    if not files:
        raise DataError(f"{root} has no .jsonl file; VLSafe has harmlessness_alignment.jsonl and others")
    rows = [(row, f"{path}, row {n}", path) for path in files for n, row in enumerate(read_rows(path), 1)]
    if limit is not None:
        kinds = [[entry for entry in rows if _is_benign(entry[0], entry[2]) == benign] for benign in (True, False)]
        rows = [entry for kind in kinds for entry in sample_rows(kind, limit, f"{seed}/vlsafe")]
    parts = (
        partial(_examples, row, where, Path(images) if images else path.parent / "images", _is_benign(row, path))
        for row, where, path in rows
    )
    return each_row(parts, on_error)


def _is_benign(row: Mapping[str, Any], path: Path) -> bool:
    return "interaction" in row and not path.name.startswith("harmless")


def _examples(row: Mapping[str, Any], where: str, folder: Path, benign: bool) -> list[TrainingExample]:
    name = optional_text(row, "image_id", where) or optional_text(row, "image", where)
    if not name:
        raise ImageError(f"{where}: has no image_id")
    image = folder / name
    if not is_file(image):
        raise ImageError(f"{where}: no image at {image}; give +data.options.images=DIR, COCO's image folder")
    if "interaction" in row:
        try:
            first, *later = row["interaction"]
            query = text_of(first, "user", where)
            answer = text_of(later[0] if later else first, "model", where) if benign else ""
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where}: interaction must begin with a user's text and the model's") from error
        if benign:
            return [TrainingExample(user(query), safe=True, chosen=answer, image=image, source="vlsafe")]
    elif "query" in row:
        query = text_of(row, "query", where)
    else:
        raise DataError(f"{where}: has neither query nor interaction")
    return [TrainingExample(user(query), safe=False, chosen=DEFAULT_REFUSAL, image=image, source="vlsafe")]
