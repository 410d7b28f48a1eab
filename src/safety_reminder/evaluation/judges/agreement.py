"""How far verdicts agree, with people's labels or with one another. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from safety_reminder.errors import ConfigError, MissingExtraError
from safety_reminder.evaluation.statistics import Metric, proportion

try:
    import krippendorff
except ImportError as error:  # here rather than where it is used: nobody wants to hear it after hours of judging
    raise MissingExtraError("krippendorff", "eval") from error


def cohen_kappa(a: Sequence[Hashable | None], b: Sequence[Hashable | None], *, resamples: int = 2000) -> Metric | None:
    """Cohen's kappa (1960) of two raters, with a percentile bootstrap interval over items.

    Args:
        a, b: their labels of the same items; items that either left open (None) do not count.

    Returns:
        None where both gave every item the same one label: by chance they would agree as well, so that kappa is
        undefined. Resamples in which that happens are left out of the interval.

    Raises:
        ConfigError: they labelled different numbers of items, or none in common.
    """
    pairs = _pairs(a, b)
    classes = sorted({label for pair in pairs for label in pair}, key=repr)
    if len(classes) == 1:
        return None
    place = {label: i for i, label in enumerate(classes)}
    table = np.zeros((len(classes), len(classes)))
    for x, y in pairs:
        table[place[x], place[y]] += 1
    n = len(pairs)
    # Drawing items with replacement is drawing the cells of the table.
    drawn = np.random.default_rng(0).multinomial(n, table.ravel() / n, size=resamples)
    values = _kappa(drawn.reshape(-1, *table.shape) / n)
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return Metric(float(_kappa(table[None] / n)[0]), float(low), float(high), n, "score")


def auc(positive: Sequence[float], negative: Sequence[float]) -> Metric | None:
    """How often a score of a positive item is above that of a negative one, ties counting half, with the interval of
    Hanley and McNeil (1982).

    Returns:
        None where one kind has no item.
    """
    p, n = len(positive), len(negative)
    if not p or not n:
        return None
    ordered = np.sort(np.asarray(negative, dtype=float))
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    value = float(below.sum() / (2 * p * n))
    first, second = value / (2 - value), 2 * value**2 / (1 + value)
    spread = value * (1 - value) + (p - 1) * (first - value**2) + (n - 1) * (second - value**2)
    half = 1.959964 * float(np.sqrt(max(0.0, spread) / (p * n)))
    return Metric(value, max(0.0, value - half), min(1.0, value + half), p + n, "score")


def _kappa(tables: np.ndarray) -> np.ndarray:
    """Tables of shares (tables, classes, classes) → kappas; NaN where chance alone agrees on everything.

    Scikit-learn's ``cohen_kappa_score`` gives the same figure, but one table a call: an interval would take seconds.
    """
    observed = tables.trace(axis1=1, axis2=2)
    expected = (tables.sum(2) * tables.sum(1)).sum(1)
    room = 1 - expected
    undefined = room < 1e-12
    return np.where(undefined, np.nan, (observed - expected) / np.where(undefined, 1.0, room))


def krippendorff_alpha(units: Sequence[Sequence[Hashable | None]]) -> float | None:
    """Krippendorff's alpha for nominal labels by any number of raters, some of them missing (Krippendorff, 2004).

    Args:
        units: one row an item, one label a rater; None where there is none. Items with fewer than two labels are left
            out, since nothing can be compared.

    Returns:
        None where only one label was ever given: then there is no disagreement to expect, and alpha is undefined.

    Raises:
        ConfigError: no item has two labels.
    """
    rated = [[label for label in unit if label is not None] for unit in units]
    rated = [labels for labels in rated if len(labels) > 1]
    if not rated:
        raise ConfigError("agreement over zero items is undefined; no item has two labels")
    categories = list(dict.fromkeys(label for labels in rated for label in labels))
    if len(categories) == 1:
        return None
    counts = [[Counter(labels)[label] for label in categories] for labels in rated]
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))


def detection(truth: Sequence[bool | None], verdicts: Sequence[bool | None]) -> dict[str, Metric | None]:
    """``accuracy``, ``precision`` and ``recall`` of verdicts against the truth, each with Wilson's interval.

    Args:
        truth, verdicts: whether each item is positive; items that either left open (None) do not count.

    Returns:
        None for precision where nothing was taken for positive, and for recall where nothing is.

    Raises:
        ConfigError: different numbers of items, or none in common.
    """
    pairs = _pairs(truth, verdicts)
    hits = sum(bool(t) and bool(v) for t, v in pairs)
    taken, positive = sum(bool(v) for _, v in pairs), sum(bool(t) for t, _ in pairs)
    return {
        "accuracy": proportion(sum(bool(t) == bool(v) for t, v in pairs), len(pairs)),
        "precision": proportion(hits, taken) if taken else None,
        "recall": proportion(hits, positive) if positive else None,
    }


def _pairs(a: Sequence[Hashable | None], b: Sequence[Hashable | None]) -> list[tuple[Hashable, Hashable]]:
    if len(a) != len(b):
        raise ConfigError(f"labels of {len(a)} items cannot be compared with labels of {len(b)}")
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    if not pairs:
        raise ConfigError("agreement over zero items is undefined; no item has two labels")
    return pairs
