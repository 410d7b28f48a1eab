"""What a run of an attack leaves behind, as a data set: ``examples.jsonl``, one line an example, beside its images.

Each line holds the conversation as it was attacked, letter by letter: ``id``, ``prompt``, ``system``, ``turns`` (a list
of [role, text]), ``prefill``, ``image`` (a path relative to the folder; an absolute one of an image elsewhere; or
null), ``harmful``, ``advice`` (where it is true), ``category``, ``instruction``, ``target`` and ``split``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from safety_reminder.data.files import find_file, image_at
from safety_reminder.errors import ConfigError, DataError, unknown_name
from safety_reminder.models.messages import load_image
from safety_reminder.outside import strict_json
from safety_reminder.run_files import write_text
from safety_reminder.types import Example

EXAMPLES = "examples.jsonl"
SPLITS = ("train", "validation", "test")
_TEXTS = ("id", "prompt", "system", "prefill", "category", "instruction", "target")
_NEEDED = ("id", "prompt", "split")


def write_examples(folder: Path, splits: Mapping[str, Sequence[Example]]) -> None:
    """Write ``examples.jsonl`` into the folder, atomically.

    Args:
        folder: made if new. Images that are no files are saved there first, as PNG in ``images/``.
        splits: examples by split: ``train``, ``validation``, ``test``.

    Raises:
        ConfigError: another split. DataError: an id that comes twice, in one split or in two.
    """
    lines, seen = [], set()
    for split, examples in splits.items():
        if split not in SPLITS:
            raise ConfigError(unknown_name("split", split, SPLITS))
        for example in examples:
            if example.id in seen:
                raise DataError(f"two examples of an attack have the id {example.id!r}; ids must be unique")
            seen.add(example.id)
            lines.append(json.dumps(_to_json(example, folder) | {"split": split}, ensure_ascii=False) + "\n")
    write_text(folder / EXAMPLES, "".join(lines))


def load(root: str | Path, *, split: str = "test") -> list[Example]:
    """The examples that an attack's run left behind.

    Args:
        root: the run folder.
        split: ``train``, ``validation``, ``test``, or ``all``.

    Raises:
        DataError: there is no ``examples.jsonl``, a line of it is damaged, or an image is missing or cannot be read.
        ConfigError: unknown split.
    """
    path = find_file(root, "attack_run", "the folder of a finished attack", EXAMPLES)
    if split not in (*SPLITS, "all"):
        raise ConfigError(unknown_name("split", str(split), (*SPLITS, "all")))
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}); run the attack again") from error
    images: dict[str, Path] = {}  # one image goes with many examples; opening it once is enough
    examples = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            row = _read_line(line, where)
            if split in (row["split"], "all"):
                examples.append(_from_json(row, path.parent, images, where))
    return examples


def _to_json(example: Example, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(example, name) for name in _TEXTS}
    image = None if example.image is None else _reference(example.image, folder)
    advice = {"advice": True} if example.advice else {}
    return row | {"turns": example.turns, "image": image, "harmful": example.harmful, **advice}


def _reference(image: Any, folder: Path) -> str:
    if isinstance(image, Image.Image) or str(image).startswith("data:"):
        image = _saved(load_image(image), folder)
    path = Path(str(image).removeprefix("file://")).expanduser().resolve()
    here = folder.resolve()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def _saved(image: Image.Image, folder: Path) -> Path:
    """Named by its pixels, so that an image that many examples share is there once."""
    name = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()[:16]
    path = folder / "images" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def _read_line(line: str, where: str) -> dict[str, Any]:
    try:
        row = strict_json(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}); run the attack again") from error
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) and row[name] for name in _NEEDED):
        raise DataError(f"{where}: an attacked example has the texts {', '.join(_NEEDED)}")
    if row["split"] not in SPLITS:
        raise DataError(f"{where}: {unknown_name('split', row['split'], SPLITS)}")
    return row


def _from_json(row: Mapping[str, Any], folder: Path, images: dict[str, Path], where: str) -> Example:
    texts = {name: row.get(name, "") for name in _TEXTS}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise DataError(f"{where}: {name} is {text!r:.60}, not a text")
    image, truths = row.get("image"), {"harmful": row.get("harmful", True), "advice": row.get("advice", False)}
    for name, value in truths.items():
        if not isinstance(value, bool):
            raise DataError(f"{where}: {name} is {value!r:.60}, not true or false")
    if image is not None and not isinstance(image, str):
        raise DataError(f"{where}: image is {image!r:.60}, not a path")
    if image and image not in images:
        images[image] = image_at(folder / image, where)
    return Example(**texts, **truths, image=images[image] if image else None, turns=_turns(row.get("turns", []), where))


def _turns(turns: Any, where: str) -> tuple[tuple[str, str], ...]:
    pairs = [tuple(turn) for turn in turns if isinstance(turn, list)] if isinstance(turns, list) else []
    fits = isinstance(turns, list) and len(pairs) == len(turns)
    if not fits or not all(len(p) == 2 and p[0] in ("user", "assistant") and isinstance(p[1], str) for p in pairs):
        raise DataError(f"{where}: turns is not a list of [user or assistant, text]")
    return tuple((role, text) for role, text in pairs)
