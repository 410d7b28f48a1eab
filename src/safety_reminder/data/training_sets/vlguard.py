"""VLGuard (Zong et al., arXiv:2402.02207): safe and unsafe instructions on images, each with a safe response."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safety_reminder.data.tables import each_row, image_cell, optional_text, read_rows, sample_rows, text_of
from safety_reminder.data.training_sets.loading import user
from safety_reminder.errors import DataError, ImageError
from safety_reminder.types import TrainingExample

INSTRUCTIONS = ("safe_instruction", "unsafe_instruction", "instruction")


def load(
    root: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    split: str = "train",
    images: str | Path | None = None,
    on_error: str = "stop",
) -> list[TrainingExample]:
    """Rows of ``{split}.json``.

    An image that is itself unsafe comes with ``instruction``; a safe one with ``safe_instruction`` and
    ``unsafe_instruction``. Every response is a safe one. Unsafe requests become two rows: the bare prompt, which the
    response must follow, and that response itself, which the guard must let pass.

    Args:
        root: upstream's folder, or the JSON file.
        images: folder of the images; by default ``{split}`` beside the file, as upstream has it.
        on_error: ``skip`` leaves rows out whose image is missing, and names them.

    Raises:
        DataError: no such file, a row of an unknown form, an image that is not there.
    """
    root = Path(root)
    path = root / f"{split}.json" if root.is_dir() else root
    if not path.is_file():
        raise DataError(f"expected VLGuard's {path}")
    folder = Path(images) if images else path.parent / split
    rows = sample_rows([(row, n) for n, row in enumerate(read_rows(path), 1)], limit, f"{seed}/vlguard")
    return each_row((partial(_examples, row, f"{path}, row {n}", folder) for row, n in rows), on_error)


def _examples(row: Mapping[str, Any], where: str, folder: Path) -> list[TrainingExample]:
    image = image_cell(row, "image", folder, where)
    if image is None:
        raise ImageError(f"{where}: has no image")
    out = []
    topic = optional_text(row, "harmful_category", where)
    pairs = row.get("instr-resp")
    for pair in pairs if isinstance(pairs, list) and pairs else [{}]:
        pair = pair if isinstance(pair, Mapping) else {}
        known = [name for name in INSTRUCTIONS if pair.get(name)]
        if not known:
            raise DataError(f"{where}: instr-resp needs a response, and one of {', '.join(INSTRUCTIONS)}")
        response = text_of(pair, "response", where)
        request = user(text_of(pair, known[0], where))
        if known[0] == "safe_instruction":
            out.append(TrainingExample(request, safe=True, chosen=response, image=image, source="vlguard", topic=topic))
        else:
            out.append(
                TrainingExample(request, safe=False, chosen=response, image=image, source="vlguard", topic=topic)
            )
            out.append(
                TrainingExample(
                    request, True, response, image=image, harmful_prompt=True, source="vlguard", topic=topic
                )
            )
    return out
