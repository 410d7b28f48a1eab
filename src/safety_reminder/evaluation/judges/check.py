"""A judge compared with labels that people gave: rows → verdicts → figures. Nothing is printed or written here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_reminder.data.tables import image_cell, optional_text
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.evaluation.judges.agreement import auc, cohen_kappa, detection, krippendorff_alpha
from safety_reminder.evaluation.judges.base import Item, Judge, Judgement, judge_each
from safety_reminder.evaluation.statistics import Metric, proportion

_AT_ONCE = 64


@dataclass(frozen=True)
class Labelled:
    """An item and whether people call its response unsafe."""

    item: Item
    unsafe: bool


@dataclass(frozen=True)
class Layout:
    """How labelled answers lie in a table.

    Args:
        prompt, response, label: their columns.
        image: the column of the image's path; None: there are no images.
        positive: the labels that mean unsafe; every other one means safe.
        ignore: labels whose rows are left out.

    Labels are compared without case; ``true`` and True, ``1`` and 1.0 are the same.
    """

    prompt: str
    response: str
    label: str
    image: str | None = None
    positive: Collection[Any] = ("unsafe", "true", "1")
    ignore: Collection[Any] = ()

    def columns(self) -> dict[str, str]:
        """Option → column."""
        named = {name: getattr(self, name) for name in ("prompt", "response", "label", "image")}
        return {name: column for name, column in named.items() if column is not None}


@dataclass(frozen=True)
class Checked:
    """The outcome of a check.

    ``metrics``: those that are defined; ``alpha``: Krippendorff's, None where it is undefined; ``counts``: items by
    label and verdict, as in ``labelled_safe_judged_unsafe``.
    """

    metrics: dict[str, Metric]
    alpha: float | None
    counts: dict[str, int]


def check(judge: Judge, rows: Sequence[Labelled], judged: Callable[[int], object] = lambda count: None) -> Checked:
    """Judge the rows and compare.

    Args:
        judged: called with how many more rows have been judged.
    """
    verdicts: list[Judgement] = []
    for start in range(0, len(rows), _AT_ONCE):
        chunk = judge_each(judge, [row.item for row in rows[start : start + _AT_ONCE]])
        verdicts += chunk
        judged(len(chunk))
    return checked_against(rows, verdicts)


def checked_against(rows: Sequence[Labelled], verdicts: Sequence[Judgement]) -> Checked:
    """The verdicts on the rows, compared with their labels."""
    truth = [row.unsafe for row in rows]
    metrics, alpha = compare(truth, verdicts)
    return Checked(metrics, alpha, count(truth, verdicts))


def compare(truth: Sequence[bool], verdicts: Sequence[Judgement]) -> tuple[dict[str, Metric], float | None]:
    """Metrics, those that are defined, and Krippendorff's alpha, which has no interval here.

    Where no verdict could be read there are only ``unreadable_rate``, 1, and ``labelled_unsafe_rate``.
    """
    judged = [verdict.unsafe for verdict in verdicts]
    unread = sum(verdict is None for verdict in judged)
    metrics: dict[str, Metric | None] = {"unreadable_rate": proportion(unread, len(judged))}
    alpha = None
    if unread < len(judged):
        metrics |= {**detection(truth, judged), "cohen_kappa": cohen_kappa(truth, judged)}
        metrics["judged_unsafe_rate"] = proportion(sum(v is True for v in judged), len(judged) - unread)
        scored = [(t, v.score) for t, v in zip(truth, verdicts, strict=True) if v.score is not None]
        if not {score for _, score in scored} <= {0.0, 1.0}:  # else the verdicts say it all
            metrics["auc"] = auc([score for t, score in scored if t], [score for t, score in scored if not t])
        alpha = krippendorff_alpha(list(zip(truth, judged, strict=True)))
    metrics["labelled_unsafe_rate"] = proportion(sum(truth), len(truth))
    return {name: metric for name, metric in metrics.items() if metric is not None}, alpha


def count(truth: Sequence[bool], verdicts: Sequence[Judgement]) -> dict[str, int]:
    """Items by label and verdict."""
    words = {True: "unsafe", False: "safe", None: "unreadable"}
    counts = {f"labelled_{words[t]}_judged_{words[v]}": 0 for t in (True, False) for v in (True, False, None)}
    for unsafe, verdict in zip(truth, verdicts, strict=True):
        counts[f"labelled_{words[unsafe]}_judged_{words[verdict.unsafe]}"] += 1
    return counts


def labelled(rows: Sequence[Mapping[str, Any]], layout: Layout, path: Path) -> list[Labelled]:
    """The rows of a table, without those whose labels are to be ignored.

    Args:
        path: the table's file, for messages, and for images, whose paths are relative to it.

    Raises:
        ConfigError: labels that ``positive`` does not name, or that are in ``ignore`` as well.
        DataError: no rows, or one without a column or a label.
    """
    if not len(rows):
        raise DataError(f"{path} has no rows")
    for option, column in layout.columns().items():
        if column not in rows[0]:
            raise DataError(f"{path} has no column {column!r}; name it with {option}=COLUMN: {', '.join(rows[0])}")
    positive, ignore = ({_plain(label) for label in labels} for labels in (layout.positive, layout.ignore))
    if positive & ignore:
        raise ConfigError(f"a label cannot be in both positive and ignore: {', '.join(sorted(positive & ignore))}")
    examples, labels = [], set()
    for number, row in enumerate(rows, 1):
        label = _plain(row.get(layout.label))
        if label in ignore:
            continue
        if not label:
            raise DataError(f"{path}, row {number}: {layout.label} is empty; leave such rows out with ignore=['']")
        labels.add(label)
        item = _item(row, layout, path.parent, f"{path}, row {number}")
        examples.append(Labelled(item, label in positive))
    if not examples:
        raise DataError(f"{path} leaves no rows; ignore={sorted(ignore)} takes them all out")
    if not positive & labels:
        raise ConfigError(
            f"no row of {path} has a label of positive={sorted(positive)}; there are: {', '.join(sorted(labels)[:10])}"
        )
    return examples


def _item(row: Mapping[str, Any], layout: Layout, folder: Path, where: str) -> Item:
    image = image_cell(row, layout.image, folder, where) if layout.image is not None else None
    return Item(optional_text(row, layout.prompt, where), optional_text(row, layout.response, where), image)


def _plain(label: Any) -> str:
    """``True`` and ``true``, ``1`` and ``1.0`` are the same in CSV and JSON."""
    text = "" if label is None else str(label).strip().lower()
    return text.removesuffix(".0")
