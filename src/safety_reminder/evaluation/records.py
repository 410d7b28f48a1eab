"""``records.jsonl``: one line a sample, appended as it finishes, so that an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from PIL import Image

from safety_reminder.errors import DataError
from safety_reminder.models.messages import load_image
from safety_reminder.run_files import append_lines, whole_lines
from safety_reminder.types import Example, Record, Response


def make_record(
    example: Example, response: Response, *, guard: bool, batch: list[str], verdicts: dict[str, Any]
) -> Record:
    prompt, harmful, image_sha256 = identity(example)
    return Record(
        id=example.id,
        prompt=prompt,
        harmful=harmful,
        category=example.category,
        image_sha256=image_sha256,
        **answer_fields(asdict(response)),
        seconds=response.seconds,
        guard=guard,
        batch=batch,
        verdicts=verdicts,
    )


def answer_fields(response: Mapping[str, Any]) -> dict[str, Any]:
    """What a record takes over as it is from a :class:`~safety_reminder.types.Response`, given as a mapping."""
    names = ("prompt_tokens", "text", "seen_text", "leaked_tokens", "tail_start", "finish_reason", "extra_tokens")
    lists = ("token_ids", "checks", "interventions")
    return {name: response[name] for name in names} | {name: list(response[name]) for name in lists}


def identity(example: Example) -> tuple[str, bool, str | None]:
    """What a record says of its example beside the id: prompt, whether it is harmful, and the image's hash."""
    return example.prompt, example.harmful, image_hash(example.image)


def image_hash(image: Any) -> str | None:
    """SHA-256 of the file, or of the pixels of an image that was never one."""
    if image is None:
        return None
    if isinstance(image, Image.Image):
        return hashlib.sha256(image.tobytes()).hexdigest()
    load_image(image)  # an unreadable file is named here, before anything is spent on it
    return hashlib.sha256(Path(image).read_bytes()).hexdigest()


def _verdicts(row: dict[str, Any], old: float | None, new: float | None) -> dict[str, Any]:
    """NaN, a check that gave no verdict, is null in the file: JSON knows no NaN."""
    same = lambda p: p is None if old is None else p != p  # noqa: E731
    for name in ("checks", "interventions"):
        row = {**row, name: [{**d, "p_unsafe": new} if same(d.get("p_unsafe", 0.0)) else d for d in row[name]]}
    return row


class RecordFile:
    """Appends records; on opening, a last line that was cut off by a kill is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = self._read()

    def _read(self) -> list[Record]:
        names = {f.name for f in fields(Record)}
        records = []
        for number, line in enumerate(whole_lines(self.path), 1):
            try:
                row = json.loads(line.decode("utf-8"))
                if not isinstance(row, dict) or set(row) != names:
                    raise ValueError("not a record of this version")
            except ValueError as error:
                raise DataError(f"{self.path}, line {number}: {error}; give another output folder") from error
            records.append(Record(**_verdicts(row, None, math.nan)))
        return records

    def append(self, record: Record) -> None:
        append_lines(self.path, [_verdicts(record.as_json(), math.nan, None)])
        self.records.append(record)

    def done(self, *, guard: bool) -> set[str]:
        return {record.id for record in self.records if record.guard == guard}
