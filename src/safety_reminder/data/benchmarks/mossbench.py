"""MOSSBench (Li et al., arXiv:2406.17806): harmless requests on images that look as if they were not.

Upstream's ``data/images_information/information.json`` is an object id → ``image`` (``images/1.png``), ``question``,
``metadata`` and more; the images lie in ``data/images``. ``metadata.over`` is ``type 1`` to ``type 3``,
in the order in which the paper names the three kinds of stimulus.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safety_reminder.data.files import existing_root, first_existing, image_at, read_mapping, selection
from safety_reminder.data.tables import text_of
from safety_reminder.errors import DataError
from safety_reminder.types import Example

KINDS = {
    "type 1": "Exaggerated Risk",
    "type 2": "Negated Harm",
    "type 3": "Counterintuitive Interpretation",
}


def load(root: str | Path, *, kinds: Sequence[str] | str | None = None) -> list[Example]:
    """The requests, none of them harmful, in upstream's order; ``category`` is the kind of stimulus.

    Args:
        root: upstream's ``data`` folder, or the one above it.
        kinds: keep these only, by their names in :data:`KINDS`.

    Raises:
        DataError: a file is not where it should be, a row does not fit, or an image cannot be read; says which.
        ConfigError: unknown kind.
    """
    kept = selection("kind of MOSSBench stimulus", kinds, KINDS.values())
    folder = existing_root(root, "mossbench", "MOSSBench's data folder")
    name = Path("images_information") / "information.json"
    path = first_existing([folder / name, folder / "data" / name], "mossbench")
    data = path.parent.parent
    examples = []
    for key, row in read_mapping(path).items():
        where = f"{path}, request {key}"
        metadata = row.get("metadata")
        over = metadata.get("over") if isinstance(metadata, dict) else None
        if not isinstance(over, str) or over not in KINDS:
            raise DataError(f"{where}: metadata.over must be one of {', '.join(KINDS)}, got {over!r:.60}")
        if KINDS[over] not in kept:
            continue
        question = text_of(row, "question", where)
        examples.append(
            Example(
                id=f"mossbench/{key}",
                prompt=question,
                image=image_at(data / text_of(row, "image", where), where),
                harmful=False,
                category=KINDS[over],
                instruction=question,
            )
        )
    return examples
