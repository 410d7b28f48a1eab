"""The requests that answers are made for: a file of one's own, or those that ship."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_reminder.data.tables import optional_text, read_rows, sample_rows, text_of, truth
from safety_reminder.errors import DataError, unknown_name

SHIPPED = "shipped"
_FILE = Path(__file__).parent / "requests.csv"
TEXT_COLUMNS = ("request", "prompt", "instruction", "question", "goal")
_OTHERS = ("harmful", "topic", "category", "contrast", "id", "source")


@dataclass(frozen=True)
class RowRequest:
    """What is asked for.

    Args:
        contrast: a harmless request that is near harm: it shares topic, words or form with harmful ones.
    """

    text: str
    harmful: bool
    topic: str = ""
    contrast: bool = False

    @property
    def kind(self) -> str:
        return "harmful" if self.harmful else "contrast" if self.contrast else "harmless"


def load_requests(source: str, *, limit: int | None = None, seed: int = 0) -> list[RowRequest]:
    """Requests from a ``.csv``, ``.json``, ``.jsonl`` or ``.parquet`` file, or those that ship.

    A column ``request`` (or ``prompt``, ``instruction``, ``question``, ``goal``) and ``harmful``, in every row; perhaps
    ``topic`` (or ``category``), and ``contrast``, true where a harmless request is near harm.

    Args:
        source: the file, or ``shipped``.
        limit: take this many of each kind (harmful, contrast, harmless), at random by ``seed``.

    Raises:
        DataError: no such file, a column that is missing or unknown, a cell of another type, a request that comes
            twice, or requests of one kind only.
    """
    path = _FILE if source == SHIPPED else Path(source).expanduser()
    if not path.is_file():
        raise DataError(f"no file at {path}; give requests=FILE (.csv, .json, .jsonl or .parquet), or requests=shipped")
    rows = read_rows(path)
    if not len(rows):
        raise DataError(f"{path} has no rows")
    text = next((name for name in TEXT_COLUMNS if name in rows[0]), None)
    if text is None:
        raise DataError(f"{path} has no column {' or '.join(TEXT_COLUMNS)}; it has {', '.join(rows[0])[:300]}")
    requests = [_request(row, text, f"{path}, row {number}") for number, row in enumerate(rows, 1)]
    _require_distinct(requests, path)
    if limit is not None:
        kinds = ("harmful", "contrast", "harmless")
        of_kind = {kind: [request for request in requests if request.kind == kind] for kind in kinds}
        requests = [r for kind, own in of_kind.items() for r in sample_rows(own, limit, f"{seed}/{kind}")]
    for harmful, word in ((True, "harmful"), (False, "harmless")):
        if not any(request.harmful == harmful for request in requests):
            raise DataError(f"{path} has no {word} requests; rows are made of both kinds")
    return requests


def _request(row: Mapping[str, Any], text: str, where: str) -> RowRequest:
    for name in row:
        if name != text and name not in _OTHERS:
            raise DataError(f"{where}: {unknown_name('column', str(name), (text, *_OTHERS))}")
    if row.get("harmful") in (None, ""):
        raise DataError(f"{where}: harmful is missing; say true or false in every row")
    harmful = truth(row["harmful"], where, default=True)
    contrast = truth(row.get("contrast"), where, default=False, name="contrast")
    if harmful and contrast:
        raise DataError(f"{where}: contrast is a harmless request near harm, and this one is harmful")
    topic = optional_text(row, "topic", where) or optional_text(row, "category", where)
    return RowRequest(text_of(row, text, where), harmful, topic, contrast)


def _require_distinct(requests: Sequence[RowRequest], path: Path) -> None:
    """One request that is asked for twice would be trained on and held out."""
    rows: dict[str, int] = {}
    for number, request in enumerate(requests, 1):
        words = re.sub(r"\W+", " ", request.text.casefold()).strip()
        if words in rows:
            raise DataError(f"{path} has one request twice (rows {rows[words]} and {number}); leave one of them out")
        rows[words] = number
