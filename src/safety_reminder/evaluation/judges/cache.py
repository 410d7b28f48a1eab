"""Verdicts that are kept: what a judge has judged once, it need not judge again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from safety_reminder.errors import DataError
from safety_reminder.evaluation.judges.base import Item, Judge, Judgement
from safety_reminder.evaluation.records import image_hash
from safety_reminder.run_files import append_lines, whole_lines

_CHUNK = 64  # verdicts are on disk after so many, so that an interrupted run loses no more


def cached(judge: Judge, path: str | Path) -> Judge:
    """``judge`` with its verdicts kept in a JSON Lines file, which judges and runs may share.

    A verdict is found by the judge's name and version and the item, image included. Unreadable ones are kept like the
    others: remove the file to have them judged anew. One process may write at a time.

    Raises:
        DataError: the file holds something else.
    """
    return _Cached(judge, Path(path))


def item_key(judge: Judge, item: Item) -> str:
    """SHA-256 of everything a verdict depends on."""
    parts = [judge.name, judge.version, item.prompt, item.response, item.target, image_hash(item.image)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class _Cached:
    def __init__(self, judge: Judge, path: Path) -> None:
        self._judge, self._path = judge, path
        self._known = _read(path)

    @property
    def name(self) -> str:
        return self._judge.name

    @property
    def version(self) -> str:
        return self._judge.version

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        keys = [item_key(self._judge, item) for item in items]
        # As a mapping, so that an item that is there twice is judged once.
        waiting = {key: item for key, item in zip(keys, items, strict=True) if key not in self._known}
        for start in range(0, len(waiting), _CHUNK):
            chunk = list(waiting.items())[start : start + _CHUNK]
            judgements = self._judge.judge([item for _, item in chunk])
            self._append({key: verdict for (key, _), verdict in zip(chunk, judgements, strict=True)})
        return [self._known[key] for key in keys]

    def _append(self, verdicts: dict[str, Judgement]) -> None:
        append_lines(self._path, ({"key": key, **verdict.as_json()} for key, verdict in verdicts.items()))
        self._known |= verdicts


def _read(path: Path) -> dict[str, Judgement]:
    """What the file holds."""
    names = {"key", *(field.name for field in fields(Judgement))}
    known = {}
    for number, line in enumerate(whole_lines(path), 1):
        try:
            row = json.loads(line.decode("utf-8"))
            if not isinstance(row, dict) or set(row) != names:
                raise ValueError("not a verdict of this version")
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; give another file, or remove it") from error
        key = row.pop("key")
        known[key] = Judgement(**row)
    return known
