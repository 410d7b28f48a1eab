"""Shares, means and ratios, each with a 95 % interval, and how they are shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from safety_reminder.errors import ConfigError

Unit = Literal["share", "tokens", "seconds", "ratio", "score"]
RESAMPLES = 2000


@dataclass(frozen=True)
class Metric:
    """``value`` in [``low``, ``high``] (95 %) over ``n`` rows.

    ``unit``: a ``share`` of rows, 0 to 1; ``tokens``; ``seconds``; a ``ratio`` of two amounts; or a ``score``, a
    number on a scale of its own, such as a judge's or kappa.
    """

    value: float
    low: float
    high: float
    n: int
    unit: Unit

    def as_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


class Shown(NamedTuple):
    """A metric in words: ``25.0 %``, ``[10.2, 49.5]``, ``n = 20``. The interval may be empty."""

    value: str
    interval: str
    n: str


def shown(metric: Metric) -> Shown:
    """As the terminal, the tables and the pages show it. The interval stands in the unit of the value."""
    scale = 100.0 if metric.unit == "share" else 1.0
    digits = 1 if metric.unit in ("share", "tokens") else 2
    value, low, high = (f"{scale * x:.{digits}f}" for x in (metric.value, metric.low, metric.high))
    mark = {"share": " %", "seconds": " s"}.get(metric.unit, "")
    # A bootstrap of one value says nothing; Wilson's interval of one row says how little is known.
    alone = metric.n == 1 and metric.unit != "share"
    return Shown(value + mark, "" if alone else f"[{low}, {high}]", f"n = {metric.n}")


def proportion(hits: float, n: int, *, z: float = 1.959964) -> Metric:
    """``hits / n`` with Wilson's score interval.

    Raises:
        ConfigError: over zero rows, a share is not 0 % but nothing.
    """
    if n <= 0:
        raise ConfigError("a metric over zero rows is undefined; the data set or the filter left nothing")
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Metric(p, max(0.0, centre - half), min(1.0, centre + half), n, "share")


def mean(values: Sequence[float], unit: Unit) -> Metric:
    """The mean with a percentile bootstrap interval (Efron, 1979), which cannot leave the range of the values.

    Raises:
        ConfigError: there are no values.
    """
    n = len(values)
    if n == 0:
        raise ConfigError("a mean over zero rows is undefined; the data set or the filter left nothing")
    value = sum(values) / n
    return Metric(value, *_bootstrap(np.mean, value, np.asarray(values, dtype=float)), n, unit)


def median(values: Sequence[float], unit: Unit) -> Metric:
    """The median, with an interval as :func:`mean` has.

    Raises:
        ConfigError: there are no values.
    """
    if not len(values):
        raise ConfigError("a median over zero rows is undefined; the data set or the filter left nothing")
    value = float(np.median(values))
    return Metric(value, *_bootstrap(np.median, value, np.asarray(values, dtype=float)), len(values), unit)


def ratio(pairs: Sequence[tuple[float, float]]) -> Metric:
    """Sum of the first over the sum of the second, with a percentile bootstrap interval over pairs.

    Raises:
        ConfigError: no pairs, or nothing to divide by.
    """
    values = np.asarray(pairs, dtype=float).reshape(-1, 2)
    if not len(values) or values[:, 1].sum() <= 0:
        raise ConfigError("a ratio over zero rows is undefined; the data set or the filter left nothing")
    top, bottom = values.T
    value = float(top.sum() / bottom.sum())
    return Metric(value, *_bootstrap(_ratio_of_sums, value, top, bottom), len(values), "ratio")


def _ratio_of_sums(top: np.ndarray, bottom: np.ndarray, axis: int) -> Any:
    return top.sum(axis) / bottom.sum(axis)


def _bootstrap(statistic: Callable[..., Any], value: float, *columns: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of ``statistic`` over rows of ``columns``, (rows,) each; the same on every call.

    ``value``: the statistic of all rows, and of every resample where there is one row.
    """
    if len(columns[0]) == 1:
        return value, value
    from scipy.stats import bootstrap  # it takes a second to import, and not every command has a mean

    low, high = bootstrap(
        columns,
        statistic,
        n_resamples=RESAMPLES,
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(low), float(high)
