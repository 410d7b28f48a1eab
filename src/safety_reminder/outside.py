"""What comes from outside, read strictly: JSON that means one thing, and texts that can be written down.

Python's own reader lets through what breaks later: doubled names (the last one wins), ``NaN`` and ``Infinity``, halves
of characters (``"\\ud800"``), and nesting that no recursive function survives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from safety_reminder.errors import SafetyReminderError

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # as JSON writes them: a half, or one of two that make a whole
DEPTH = 64  # lists and objects within one another; what this package writes has under ten


def strict_json(text: str | bytes) -> Any:
    """The value of a JSON document in UTF-8.

    Raises:
        ValueError: it is not JSON, or such JSON as no two readers agree on; says why, in one line.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEPTH} levels deep") from None
    if text.count("[") + text.count("{") > DEPTH:
        _require_shallow(value)
    if _SURROGATE.search(text) and not can_be_written(json.dumps(value, ensure_ascii=False)):
        raise ValueError("a text in it has half of a character (a lone surrogate, \\ud800 to \\udfff)")
    return value


def read_object(path: Path, kind: type[SafetyReminderError], what: str, advice: str = "") -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        what: the file should be, for messages. advice: what to do if it is not.

    Raises:
        ``kind``: it is not UTF-8, not JSON as :func:`strict_json` reads it, or not an object; names the file.
    """
    do = f"; {advice}" if advice else ""
    try:
        value = strict_json(path.read_bytes())
    except ValueError as error:
        raise kind(f"{path} is not valid JSON: {error}{do}") from error
    if not isinstance(value, dict):
        raise kind(f"{path} is not {what}: it holds no object{do}")
    return value


def can_be_written(text: str) -> bool:
    """Whether a text is whole characters, which UTF-8 has a form for."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def require_writable(text: str, where: str, kind: type[SafetyReminderError]) -> None:
    """Raises ``kind``, which names ``where``, for a text that no file and no tokenizer takes."""
    if not can_be_written(text):
        raise kind(f"{where} has half of a character (a lone surrogate, \\ud800 to \\udfff), which is no text")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it gives {doubled[:60]!a} twice in one object")
    return value


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _require_shallow(value: Any) -> None:
    level: Iterable[Any] = [value] if isinstance(value, dict | list) else []
    for _ in range(DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEPTH} levels deep")


_DECODER = json.JSONDecoder(parse_constant=_no_number, object_pairs_hook=_object)
