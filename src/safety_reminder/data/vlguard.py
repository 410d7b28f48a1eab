"""VLGuard (Zong et al., arXiv:2402.02207): safe and unsafe instructions on images, each with a safe response."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safety_reminder.data.tables import read_rows, sample_rows
from safety_reminder.data.training import user
from safety_reminder.errors import DataError
from safety_reminder.types import TrainingExample


def load(
    root: str | Path, *, limit: int | None = None, seed: int = 0, split: str = "train", images: str | Path | None = None
) -> list[TrainingExample]:
    """Rows of ``{split}.json``.

    An image that is itself unsafe comes with ``instruction``; a safe one with ``safe_instruction`` and
    ``unsafe_instruction``. Every response is a safe one. Unsafe requests become two rows: the bare prompt, behind which
    the response must follow, and that response itself, which must be let pass.

    Args:
        root: upstream's folder, or the JSON file.
        images: folder of the images; by default ``{split}`` beside the file, as upstream has it.

    Raises:
        DataError: no such file, a row of no known form, an image that is not there.
    """
    root = Path(root)
    path = root / f"{split}.json" if root.is_dir() else root
    if not path.is_file():
        raise DataError(f"expected VLGuard's {path}")
    folder = Path(images) if images else path.parent / split
    rows = sample_rows([(row, n) for n, row in enumerate(read_rows(path), 1)], limit, f"{seed}/vlguard")
    return [example for row, n in rows for example in _examples(dict(row), f"{path}, row {n}", folder)]


def _examples(row: dict[str, Any], where: str, folder: Path) -> list[TrainingExample]:
    image = folder / str(row.get("image"))
    if not image.is_file():
        raise DataError(f"{where}: no image at {image}")
    out = []
    for pair in row.get("instr-resp") or [{}]:
        response = pair.get("response")
        safe = pair.get("safe_instruction")
        unsafe = pair.get("unsafe_instruction") or pair.get("instruction")
        if not isinstance(response, str) or not isinstance(safe or unsafe, str):
            raise DataError(
                f"{where}: instr-resp needs a response, and one of instruction, safe_instruction, unsafe_instruction"
            )
        request = user(str(safe or unsafe))
        if safe:
            out.append(TrainingExample(request, safe=True, chosen=response, image=image, source="vlguard"))
        else:
            out.append(TrainingExample(request, safe=False, chosen=response, image=image, source="vlguard"))
            out.append(TrainingExample(request, True, response, image=image, harmful_prompt=True, source="vlguard"))
    return out
