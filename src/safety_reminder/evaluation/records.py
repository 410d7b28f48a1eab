"""``records.jsonl``: one line a sample, appended as it finishes, so that an interrupted run goes on where it was.

The JSON of records, and of the responses in Inspect's logs, is written and read here and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from PIL import Image

from safety_reminder.errors import DataError
from safety_reminder.models.messages import load_image
from safety_reminder.outside import strict_json
from safety_reminder.run_files import append_lines, whole_lines
from safety_reminder.types import Example, Record, Response

# The one number that may be none: a check that gave no verdict. JSON knows no NaN, so it is null there.
_NAN_IS_NULL = "p_unsafe"
_MOST = 1e300  # of a number; a whole one may be too long for a float
# Fields that earlier versions did not write; what their records say there is the default.
_ADDED = {"instruction", "context_sha256", "prefill", "inert_tokens", "advice"}


def make_record(
    example: Example,
    response: Response,
    *,
    guard: bool,
    batch: Sequence[str],
    verdicts: Mapping[str, Any],
    known: Mapping[str, Any] | None = None,
) -> Record:
    """``known``: the example's :func:`identity`, where it was already found."""
    return record_of(
        response,
        id=example.id,
        category=example.category,
        instruction=example.instruction or example.prompt,
        prefill=example.prefill,
        advice=example.advice,
        **(identity(example) if known is None else known),
        seconds=response.seconds,
        guard=guard,
        batch=tuple(batch),
        verdicts=verdicts,
    )


def record_of(response: Response, **others: Any) -> Record:
    """What a record takes over from a response as it is, and its ``others``: example, seconds, batch and verdicts."""
    return Record(
        prompt_tokens=response.prompt_tokens,
        text=response.text,
        seen_text=response.seen_text,
        token_ids=response.token_ids,
        checks=response.checks,
        interventions=response.interventions,
        leaked_tokens=response.leaked_tokens,
        tail_start=response.tail_start,
        finish_reason=response.finish_reason,
        extra_tokens=response.extra_tokens,
        inert_tokens=response.inert_tokens,
        **others,
    )


def identity(example: Example, hashes: dict[str, str | None] | None = None) -> dict[str, Any]:
    """What a record says about its example besides the id: the prompt, whether it is harmful, and the hashes of the
    image and of what else is in the conversation. Two examples that differ in these are not the same.

    Args:
        hashes: of files, by their paths, that were hashed before; this one's is added.
    """
    if hashes is None or not isinstance(example.image, str | Path):
        hashed = image_hash(example.image)
    elif (hashed := hashes.get(str(example.image))) is None:
        hashed = hashes[str(example.image)] = image_hash(example.image)
    return {
        "prompt": example.prompt,
        "harmful": example.harmful,
        "image_sha256": hashed,
        "context_sha256": _context_hash(example),
    }


def _context_hash(example: Example) -> str | None:
    """SHA-256 of system prompt, earlier turns and prefill."""
    context = [example.system, example.turns, example.prefill]
    return hashlib.sha256(json.dumps(context).encode()).hexdigest() if any(context) else None


def image_hash(image: Any) -> str | None:
    """SHA-256 of the file, or of the pixels of an image that was never one."""
    if image is None:
        return None
    if isinstance(image, Image.Image):
        return hashlib.sha256(image.tobytes()).hexdigest()
    load_image(image, max_pixels=None)  # an unreadable file is named here, before anything is spent on it
    return hashlib.sha256(Path(image).read_bytes()).hexdigest()


def to_json(value: Record | Response) -> dict[str, Any]:
    """A value in JSON's terms: tuples are lists, checks and interventions are objects, and a ``p_unsafe`` that is NaN
    is null."""
    return {field.name: _encode(getattr(value, field.name)) for field in fields(value)}


def from_json(row: Any) -> Record:
    """A record as :func:`to_json` gives it.

    Raises:
        DataError: keys are missing or unknown, or a value is of the wrong type; says which.
    """
    return _decode(Record, row, "")


def response_from_json(row: Any) -> Response:
    """A response as :func:`to_json` gives it.

    Raises:
        DataError: as :func:`from_json` raises it.
    """
    return _decode(Response, row, "")


def _encode(value: Any) -> Any:
    if is_dataclass(value):
        values = {field.name: _encode(getattr(value, field.name)) for field in fields(value)}
        return {k: None if k == _NAN_IS_NULL and math.isnan(v) else v for k, v in values.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, Mapping):
        return {k: _encode(v) for k, v in value.items()}
    return value


def _decode(kind: Any, value: Any, place: str) -> Any:
    """``value`` as the type ``kind``; ``place`` says where it stands, as ``checks[2].kind``."""
    if is_dataclass(kind):
        return _decode_object(kind, value, place)
    origin, of = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_decode(of[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    if origin is UnionType and value is None and NoneType in of:
        return None
    if origin is UnionType:
        return _decode(of[0], value, place)
    if origin is Literal and value in of:
        return value
    if kind is float and (number := _number(value, place)) is not None:
        return number
    if kind in (str, int, bool) and type(value) is kind:
        return value
    if origin is Mapping and isinstance(value, dict):
        return value
    raise DataError(f"{place} is {value!r:.60}, not {_described(kind)}")


def _number(value: Any, place: str) -> float | None:
    """As a float; None where it is none, or not a possible one."""
    probability = place.endswith(_NAN_IS_NULL)
    if probability and (value is None or value != value):  # of NaN, which logs may hold
        return math.nan
    least, most = (0, 1) if probability else (-_MOST, _MOST)
    return float(value) if type(value) in (int, float) and least <= value <= most else None


def _decode_object(kind: Any, value: Any, place: str) -> Any:
    known = _fields(kind)
    if not isinstance(value, Mapping):
        raise DataError(f"{place or 'the row'} is not an object")
    if differing := (value.keys() ^ known.keys()) - (_ADDED - value.keys()):
        missing = [f"no {name!r}" for name in known if name in differing]
        unknown = [f"unknown {name[:60]!r}" for name in value if name in differing]
        where = f" at {place}" if place else ""
        raise DataError(f"not a {kind.__name__.lower()} of this version ({', '.join(missing + unknown)}{where})")
    before = f"{place}." if place else ""
    return kind(
        **{name: _decode(kind_of, value[name], before + name) for name, kind_of in known.items() if name in value}
    )


@cache
def _fields(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _described(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if origin is UnionType:
        return _described(get_args(kind)[0])
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", tuple: "a list"}
    return words.get(origin or kind, "an object")


class RecordFile:
    """Appends records; on opening, a last line that was cut off by a kill is dropped.

    Raises:
        DataError: a line is not a record, or the second one of its example; says which.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self._lines: dict[tuple[str, bool], int] = {}  # by id and guard
        for number, line in enumerate(whole_lines(path), 1):
            try:
                record = from_json(strict_json(line))
                self._require_first(record)
            except (ValueError, DataError) as error:
                raise DataError(f"{path}, line {number}: {error}; give another output folder") from error
            self._keep(record)

    def append(self, record: Record) -> None:
        """Raises: DataError: the file has a record of this example."""
        self._require_first(record)
        append_lines(self.path, [to_json(record)])
        self._keep(record)

    def done(self, *, guard: bool) -> set[str]:
        return {record.id for record in self.records if record.guard == guard}

    def _require_first(self, record: Record) -> None:
        earlier = self._lines.get((record.id, record.guard))
        if earlier is not None:
            kind = "guarded" if record.guard else "unguarded"
            raise DataError(f"a second {kind} record of {record.id!r}, which has one on line {earlier}")

    def _keep(self, record: Record) -> None:
        self.records.append(record)
        self._lines[record.id, record.guard] = len(self.records)
