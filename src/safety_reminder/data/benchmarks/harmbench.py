"""HarmBench (Mazeika et al., arXiv:2402.04249): harmful behaviours, as text and with images.

Upstream's ``data/behavior_datasets/harmbench_behaviors_text_all.csv`` has ``Behavior``, ``FunctionalCategory``,
``SemanticCategory``, ``Tags``, ``ContextString``, ``BehaviorID``; ``harmbench_behaviors_multimodal_all.csv`` also
``ImageFileName``, of an image in ``data/multimodal_behavior_images/``. Those are all stored as ``.png``, whichever
suffix ``ImageFileName`` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safety_reminder.data.files import find_file, first_existing, image_at, need_columns, one_of, selection
from safety_reminder.data.tables import optional_text, read_rows, text_of
from safety_reminder.types import Example

MODALITIES = {"text": "harmbench_behaviors_text_all.csv", "multimodal": "harmbench_behaviors_multimodal_all.csv"}
COLUMNS = ("Behavior", "FunctionalCategory", "SemanticCategory", "BehaviorID")
IMAGES = "multimodal_behavior_images"


def load(
    root: str | Path,
    *,
    modality: str = "text",
    categories: Sequence[str] | str | None = None,
    images: str | Path | None = None,
) -> list[Example]:
    """The behaviours, in upstream's order; ``category`` is the semantic category.

    A behaviour with a context comes after it, parted by ``---``, as upstream's own attacks put it.

    Args:
        root: upstream's ``data`` folder, the one above it, ``behavior_datasets``, or one of its CSV files.
        modality: ``text`` or ``multimodal``.
        categories: keep these functional categories only (``standard``, ``contextual``, ``copyright``).
        images: folder of the images; by default ``multimodal_behavior_images`` beside ``behavior_datasets``.

    Raises:
        DataError: a file is not where it should be, or an image cannot be read; says which.
        ConfigError: unknown modality or category.
    """
    one_of("HarmBench modality", modality, MODALITIES)
    places = [f"{folder}/{MODALITIES[modality]}" for folder in ("behavior_datasets", "data/behavior_datasets", ".")]
    path = find_file(root, "harmbench", "HarmBench's data folder, or one of its CSV files", *places)
    rows = read_rows(path)
    need_columns(rows, (*COLUMNS, "ImageFileName") if modality == "multimodal" else COLUMNS, path)
    kinds = [text_of(row, "FunctionalCategory", f"{path}, row {number}") for number, row in enumerate(rows, 1)]
    kept = selection("HarmBench functional category", categories, dict.fromkeys(kinds))
    folder = Path()
    if modality == "multimodal":
        places = [path.parent.parent / IMAGES, path.parent / IMAGES]
        folder = first_existing([Path(images).expanduser()] if images is not None else places, "harmbench")
    examples = []
    for number, (row, kind) in enumerate(zip(rows, kinds, strict=True), 1):
        if kind not in kept:
            continue
        where = f"{path}, row {number}"
        behavior = text_of(row, "Behavior", where)
        context = optional_text(row, "ContextString", where)
        image = None
        if modality == "multimodal":
            name = text_of(row, "ImageFileName", where)
            stored = folder / name
            image = image_at(stored if stored.is_file() else stored.with_suffix(".png"), where)
        examples.append(
            Example(
                id=f"harmbench/{text_of(row, 'BehaviorID', where)}",
                prompt=f"{context}\n\n---\n\n{behavior}" if context else behavior,
                image=image,
                harmful=True,
                category=text_of(row, "SemanticCategory", where),
                instruction=behavior,
            )
        )
    return examples
