"""Shares, means and ratios: their intervals against published and hand-made values, and how they are shown."""

from __future__ import annotations

import math

import numpy as np
import pytest

from safety_reminder.commands import console
from safety_reminder.errors import ConfigError
from safety_reminder.evaluation.pages import report
from safety_reminder.evaluation.statistics import Metric, mean, proportion, ratio, shown


def as_tuple(metric) -> tuple[float, float, float, int]:
    return metric.value, metric.low, metric.high, metric.n


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # these four: Newcombe (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_shares_have_wilson_intervals(hits, n, low, high):
    assert as_tuple(proportion(hits, n)) == (
        pytest.approx(hits / n),
        pytest.approx(low, abs=6e-5),
        pytest.approx(high, abs=6e-5),
        n,
    )


@pytest.mark.parametrize("metric", [lambda: proportion(0, 0), lambda: mean([], "score")])
def test_a_metric_over_zero_rows_is_an_error_and_not_zero(metric):
    with pytest.raises(ConfigError, match="left nothing"):
        metric()


def test_a_mean_of_many_has_about_the_normal_interval():
    values = [float(i % 7) for i in range(700)]
    half = 1.959964 * 2 / math.sqrt(700)  # of 0 to 6, evenly: variance 4
    assert as_tuple(mean(values, "score")) == pytest.approx((3.0, 3.0 - half, 3.0 + half, 700), abs=0.02)


def test_a_mean_s_interval_stays_among_the_values():
    found = mean([0.0] * 19 + [16.0], "tokens")
    assert found.low == 0.0
    assert 0.8 < found.high <= 16.0


@pytest.mark.parametrize("pairs", [[], [(1.0, 0.0)]])
def test_a_ratio_over_nothing_is_an_error(pairs):
    with pytest.raises(ConfigError, match="zero rows"):
        ratio(pairs)


def drawn_by_hand(rows):
    """Percentiles of 2000 resamples, as this package drew them before it left that to SciPy."""
    rows = np.asarray(rows, dtype=float)
    return rows[np.random.default_rng(0).integers(len(rows), size=(2000, len(rows)))]


@pytest.mark.parametrize("n", [1, 2, 3, 40, 700])
def test_the_bootstrap_draws_what_it_has_always_drawn(n):
    rows = np.random.default_rng(n).exponential(size=(n, 2))
    found, both = mean(rows[:, 0].tolist(), "score"), ratio(rows.tolist())
    assert [found.low, found.high] == pytest.approx(np.percentile(drawn_by_hand(rows[:, 0]).mean(1), (2.5, 97.5)))
    sums = drawn_by_hand(rows).sum(1)
    assert [both.low, both.high] == pytest.approx(np.percentile(sums[:, 0] / sums[:, 1], (2.5, 97.5)))


def test_equal_values_have_an_interval_without_width():
    assert as_tuple(mean([2.0] * 5, "tokens")) == (2.0, 2.0, 2.0, 5)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (Metric(0.25, 0.1, 0.5, 8, "share"), ("25.0 %", "[10.0, 50.0]", "n = 8")),
        (Metric(0.25, 0.1, 0.5, 8, "score"), ("0.25", "[0.10, 0.50]", "n = 8")),
        (Metric(1.25, 1.0, 1.5, 8, "ratio"), ("1.25", "[1.00, 1.50]", "n = 8")),
        (Metric(12.34, 8.0, 16.0, 8, "tokens"), ("12.3", "[8.0, 16.0]", "n = 8")),
        (Metric(12.34, 8.0, 16.0, 8, "seconds"), ("12.34 s", "[8.00, 16.00]", "n = 8")),
        # Of one value a bootstrap says nothing. Wilson's interval says how little is known of one row.
        (mean([0.89], "ratio"), ("0.89", "", "n = 1")),
        (proportion(1, 1), ("100.0 %", "[20.7, 100.0]", "n = 1")),
    ],
)
def test_a_metric_is_shown_by_its_unit(metric, expected):
    assert shown(metric) == expected


@pytest.mark.parametrize("name", ["utility:mmvet", "utility:exact_match_rate", "accuracy", "leaked_tokens"])
@pytest.mark.parametrize("metric", [Metric(0.25, 0.1, 0.5, 8, "score"), mean([0.25], "score")])
def test_the_terminal_and_the_tables_show_a_metric_alike_whatever_its_name(name, metric, tmp_path, capsys):
    """By the judge's name, a utility was once 25 % and once 0.25."""
    console.print_metrics({name: metric})
    value, interval, n = shown(metric)
    assert capsys.readouterr().out.split() == [name, *" ".join((value, interval, n)).split()]
    tables = {"none": {report.ALL: {name: metric, "utility:a_match_rate": metric}}}
    text = report.write_markdown(tmp_path / "results.md", tables)
    assert f"| none | {value} {interval}".rstrip() in text


def test_metrics_stand_in_columns(capsys):
    console.print_metrics({"a": Metric(0.25, 0.1, 0.5, 8, "share"), "longer": mean([1.5], "ratio")})
    first, second = capsys.readouterr().out.splitlines()
    assert first.index("n = 8") == second.index("n = 1")
