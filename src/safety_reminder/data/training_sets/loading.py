"""Training sets → :class:`~safety_reminder.types.TrainingExample`: the project's own schema, and a table of loaders.

The schema is one row a conversation, in ``.jsonl``, ``.json``, ``.csv`` or ``.parquet``: ``messages`` (or ``prompt``
for a single user message), ``safe``, ``chosen``, and perhaps ``rejected``, ``image``, ``harmful_prompt``, and what kind
of row it is: ``source``, ``topic``, ``attack``.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from safety_reminder.config.guard import DEFAULT_REFUSAL
from safety_reminder.data.tables import (
    each_row,
    image_cell,
    is_file,
    optional_text,
    read_row,
    read_rows,
    sample_rows,
    truth,
)
from safety_reminder.errors import ConfigError, DataError, unknown_name
from safety_reminder.outside import strict_json
from safety_reminder.types import TrainingExample

TRAINING_SETS = {
    "spa_vl": "safety_reminder.data.training_sets.spa_vl:load",
    "vlsafe": "safety_reminder.data.training_sets.vlsafe:load",
    "vlguard": "safety_reminder.data.training_sets.vlguard:load",
    "pairs": "safety_reminder.data.training_sets.pairs:load",
}
MIX = 256  # rows of each kind from named sets, if no number is given: the mix of the method's authors
FIELDS = ("messages", "prompt", "safe", "chosen", "rejected", "image", "harmful_prompt", "source", "topic", "attack")


def load_training(
    sets: str,
    root: str | Path | None = None,
    *,
    harmful: int | None = None,
    benign: int | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    both_kinds: bool = True,
    on_error: str = "stop",
) -> list[TrainingExample]:
    """The rows of one or more training sets, mixed.

    Args:
        sets: names joined by ``+``, of :data:`TRAINING_SETS` or files in the project's schema.
        root: of the named sets: the folder itself, or one with a folder for each of them.
        harmful, benign: take this many rows of each kind, at random by ``seed``; None: :data:`MIX` of named sets, or as
            many as there are, and all rows of files.
        options: passed on to the loaders that know them.
        both_kinds: rows of one kind only are an error; without it, None means all rows.
        on_error: ``skip`` leaves rows out whose image is missing or broken, and names them.

    Raises:
        ConfigError: unknown name or option. DataError: a file that is missing or does not fit; or too few rows.
    """
    parts = _parts(sets)
    for kind, count in (("harmful", harmful), ("benign", benign)):
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
            raise ConfigError(f"data.{kind} must be a number of rows, at least 0; got {count!r}")
    # Enough of each set for the mix, so that the images of a large one are not all read.
    most = [MIX if count is None and both_kinds else count for count in (harmful, benign)]
    limit = None if None in most else sum(count for count in most if count is not None)
    examples = _read_all(parts, root, limit, seed, dict(options or {}), on_error)
    unsafe, safe = [e for e in examples if not e.safe], [e for e in examples if e.safe]
    if both_kinds and any(part in TRAINING_SETS for part in parts):
        harmful = min(MIX, len(unsafe)) if harmful is None else harmful
        benign = min(MIX, len(safe)) if benign is None else benign
    unsafe, safe = _take(unsafe, harmful, "harmful", sets, seed), _take(safe, benign, "benign", sets, seed)
    if both_kinds and not (unsafe and safe):
        kind = "unsafe" if safe else "safe"
        raise DataError(f"{sets} has {len(unsafe) + len(safe)} rows, none of them {kind}; training needs both kinds")
    return unsafe + safe


def _parts(sets: str) -> list[str]:
    """Names and files that ``+`` joins. A ``+`` may also be a character of a file's name, if there is such a file."""
    words, parts = str(sets).split("+"), []
    while words:
        ends = range(len(words), 0, -1)
        taken = next((end for end in ends if _names_a_file("+".join(words[:end]))), 1)
        parts.append("+".join(words[:taken]).strip())
        words = words[taken:]
    return parts


def _names_a_file(name: str) -> bool:
    return "\0" not in name and is_file(Path(name.strip()).expanduser())


def _read_all(
    parts: Sequence[str],
    root: str | Path | None,
    limit: int | None,
    seed: int,
    options: Mapping[str, Any],
    on_error: str,
) -> list[TrainingExample]:
    """The rows of sets and files in turn; ``limit`` rows of each set, at random by ``seed``. Every option must be one
    that some loader takes."""
    examples: list[TrainingExample] = []
    known_options: set[str] = set()
    for name in parts:
        if name in TRAINING_SETS:
            loader: Callable[..., list[TrainingExample]] = pkgutil.resolve_name(TRAINING_SETS[name])
            takes = inspect.signature(loader).parameters
            known = set(takes) - {"root", "limit", "seed", "on_error"}
            known_options |= known
            fitting = {key: value for key, value in options.items() if key in known}
            if "on_error" in takes:
                fitting["on_error"] = on_error
            examples += loader(_root_of(name, root), limit=limit, seed=seed, **fitting)
        elif "." in name or "/" in name:
            examples += read_training_file(name, on_error=on_error)
        else:
            raise ConfigError(unknown_name("training set", name, TRAINING_SETS) + "; or give a FILE.jsonl")
    for option in options:
        if option not in known_options:
            raise ConfigError(unknown_name(f"option of data={'+'.join(parts)}", option, known_options))
    return examples


def _take(examples: list[TrainingExample], count: int | None, kind: str, sets: str, seed: int) -> list[TrainingExample]:
    if count is not None and count > len(examples):
        raise DataError(f"{sets} has {len(examples)} {kind} rows; data.{kind}={count} asks for more")
    return list(sample_rows(examples, count, f"{seed}/{kind}"))


def _root_of(name: str, root: str | Path | None) -> Path:
    if root is None or not str(root):
        raise DataError(f"data={name} needs data.root=DIR, the folder of {name}")
    path = Path(root).expanduser()
    path = path / name if (path / name).exists() else path
    if not path.exists():
        raise DataError(f"no file or folder {path}; give data.root=DIR, the folder of {name}")
    return path


def read_training_file(path: str | Path, *, on_error: str = "stop") -> list[TrainingExample]:
    """Rows in the project's own schema. Image paths are relative to the file. ``on_error``: as :func:`load_training`.

    Raises:
        DataError: no file, or a row that does not fit; says which.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"no training file at {path}; give data=FILE (.jsonl, .json, .csv or .parquet)")
    rows = read_rows(path)
    return each_row((partial(_examples, rows, number, path) for number in range(len(rows))), on_error)


def _examples(rows: Sequence[Mapping[str, Any]], number: int, path: Path) -> list[TrainingExample]:
    where = f"{path}, row {number + 1}"
    row = {key: value for key, value in read_row(rows, number, where).items() if value not in (None, "")}
    if "seen_text" in row and "checks" in row:
        raise DataError(
            f"{where} is a record of a run; a training row has prompt, safe, the answer as chosen, and the image, "
            "which records do not keep"
        )
    for name in row:
        if name not in FIELDS:
            raise DataError(f"{where}: {unknown_name('field', name, FIELDS)}")
    if "safe" not in row or ("messages" in row) == ("prompt" in row):
        raise DataError(f"{where}: needs safe, and either messages or prompt")
    safe = truth(row["safe"], where, default=True, name="safe")
    for name in ("prompt", "chosen", "rejected"):
        optional_text(row, name, where)
    labels = {name: optional_text(row, name, where) for name in ("source", "topic", "attack")}
    if safe and "chosen" not in row:
        raise DataError(f"{where}: a safe row needs chosen, the answer that is to be left as it is")
    example = TrainingExample(
        messages=_messages(row["messages"], where) if "messages" in row else user(row["prompt"]),
        safe=safe,
        chosen=row.get("chosen", DEFAULT_REFUSAL),
        rejected=row.get("rejected", ""),
        image=image_cell(row, "image", path.parent, where),
        harmful_prompt=truth(row.get("harmful_prompt"), where, default=False, name="harmful_prompt"),
        **labels | {"source": labels["source"] or path.stem},
    )
    return [example]


def user(text: str) -> tuple[dict[str, Any], ...]:
    """A conversation of one user message."""
    return ({"role": "user", "content": text},)


def _messages(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    if isinstance(value, str):  # of a CSV cell
        try:
            value = strict_json(value)
        except ValueError as error:
            raise DataError(f"{where}: messages is not valid JSON: {error}") from error
    fits = isinstance(value, list) and all(
        isinstance(m, Mapping)
        and m.get("role") in ("system", "user", "assistant")
        and isinstance(m.get("content"), str)
        for m in value
    )
    if not fits or not value or value[-1]["role"] != "user":
        raise DataError(
            f"{where}: messages must be a list of {{role, content}} with text content, the last by the user"
        )
    return tuple({"role": m["role"], "content": m["content"]} for m in value)
