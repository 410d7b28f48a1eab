"""A file of verdicts, so that a judge need not judge the same item twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from filelock import FileLock, Timeout

from safety_reminder.config.options import Options, checked
from safety_reminder.errors import DataError
from safety_reminder.evaluation.judges.base import Item, Judge, Judgement
from safety_reminder.outside import strict_json
from safety_reminder.run_files import append_lines

_CHUNK = 64  # verdicts are on disk after so many, so that an interrupted run loses no more
_PATIENCE = 60.0  # seconds; a process holds the file only while it writes a chunk
_NAMES = {"key", *(field.name for field in fields(Judgement))}


class _Verdict(Options):
    """A :class:`Judgement` as it stands in the file."""

    unsafe: bool | None
    score: float | None
    label: str
    raw: str
    votes: dict[str, bool | None] | None


def cached(judge: Judge, path: str | Path) -> Judge:
    """``judge`` with its verdicts kept in a JSON Lines file, which judges and runs may share.

    The judge's name and version and the item, image included, identify a verdict. Unreadable ones are kept like the
    others: remove the file to have them judged anew. Several processes may share the file: they write in turn, and each
    reads what the others have judged.

    Raises:
        DataError: the file holds something else, or another process keeps it locked.
    """
    return _Cached(judge, Path(path))


def item_key(judge: Judge, item: Item) -> str:
    """SHA-256 of everything a verdict depends on."""
    from safety_reminder.evaluation.records import image_hash

    parts = [judge.name, judge.version, item.prompt, item.response, item.target, image_hash(item.image)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class _Cached:
    def __init__(self, judge: Judge, path: Path) -> None:
        self._judge, self._file = judge, _Verdicts(path)
        self._file.read()

    @property
    def name(self) -> str:
        return self._judge.name

    @property
    def version(self) -> str:
        return self._judge.version

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        keys = [item_key(self._judge, item) for item in items]
        # A mapping, so that an item that occurs twice is judged once.
        waiting = dict(zip(keys, items, strict=True))
        while True:
            self._file.read()  # another process may have judged some of them
            waiting = {key: item for key, item in waiting.items() if key not in self._file.known}
            if not waiting:
                return [self._file.known[key] for key in keys]
            chunk = list(waiting)[:_CHUNK]
            judgements = self._judge.judge([waiting[key] for key in chunk])
            self._file.append(dict(zip(chunk, judgements, strict=True)))


class _Verdicts:
    """The file, and what has been read from it: ``known``. Only whole lines are read, since the last may still be
    growing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=_PATIENCE)
        self._offset, self._lines = 0, 0
        self.known: dict[str, Judgement] = {}

    def append(self, verdicts: Mapping[str, Judgement]) -> None:
        """Append the verdicts that no other process has written by now."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._lock:
                self.read()
                with suppress(FileNotFoundError):
                    os.truncate(self._path, self._offset)  # a last line that was cut off: nobody writes it now
                new = {key: verdict for key, verdict in verdicts.items() if key not in self.known}
                append_lines(self._path, ({"key": key, **verdict.as_json()} for key, verdict in new.items()))
                self.read()
        except Timeout as error:
            raise DataError(f"another process keeps {self._path} locked; end it, or give another file") from error

    def read(self) -> None:
        """Read what has been written since the last call."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    self._offset, self._lines = 0, 0  # removed, and begun anew
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            self._offset, self._lines = 0, 0
            return
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.split(b"\n")[:-1]:
            self._lines += 1
            key, verdict = self._verdict(line)
            self.known[key] = verdict
        self._offset += len(whole)

    def _verdict(self, line: bytes) -> tuple[str, Judgement]:
        try:
            row = strict_json(line)
            if not isinstance(row, dict) or set(row) != _NAMES:
                raise ValueError("not a verdict of this version")
            key = checked(str, row.pop("key"), "key")
            return key, Judgement(**_Verdict.parse(row).model_dump())
        except ValueError as error:
            raise DataError(f"{self._path}, line {self._lines}: {error}; give another file, or remove it") from error
