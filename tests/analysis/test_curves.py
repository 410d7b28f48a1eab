"""Curves and delays against cases worked out by hand."""

from __future__ import annotations

import pytest

from safety_reminder.analysis.curves import (
    Delay,
    Outcome,
    Point,
    Track,
    correction_delay,
    correction_rate,
    curve,
    curves,
)
from safety_reminder.errors import ConfigError


def track(name: str, *p_unsafe: float, harmful: bool = True, log_odds: tuple[float | None, ...] = ()) -> Track:
    """Measured every 8 tokens."""
    odds = [*log_odds, *[None] * (len(p_unsafe) - len(log_odds))]
    points = [Point(8 * i, p, -5.0, -4.0, o, o) for i, (p, o) in enumerate(zip(p_unsafe, odds, strict=True))]
    return Track(Outcome(name, harmful, 8 * len(p_unsafe), True, None), tuple(points))


def outcome(correction: int | None, *, engaged: bool = True) -> Outcome:
    return Outcome("a", True, 99, engaged, correction)


def test_a_curve_is_the_mean_over_the_answers_that_reach_a_depth():
    found = curve([track("a", 0.1, 0.2, 0.9), track("b", 0.3), track("c", 0.5, 0.6)], "p_unsafe")
    assert list(found) == [0, 8, 16]
    assert [found[d].n for d in found] == [3, 2, 1]
    assert [found[d].value for d in found] == pytest.approx([0.3, 0.4, 0.9])
    # Resampling two answers, a quarter of the draws is twice the lower one, and a quarter twice the higher one.
    assert (found[8].low, found[8].high) == pytest.approx((0.2, 0.6))
    assert (found[16].low, found[16].high) == pytest.approx((0.9, 0.9))
    assert 0.1 <= found[0].low < 0.3 < found[0].high <= 0.5


def test_what_could_not_be_measured_is_left_out_of_its_curve_alone():
    tracks = [track("a", 0.1, 0.2, log_odds=(-3.0,)), track("b", 0.3, 0.4, log_odds=(-5.0, -1.0))]
    found = curve(tracks, "refusal_log_odds")
    assert {depth: (m.value, m.n) for depth, m in found.items()} == {0: (-4.0, 2), 8: (-1.0, 1)}
    assert curve(tracks, "p_unsafe")[8].n == 2


def test_harmful_and_harmless_answers_have_curves_of_their_own():
    found = curves([track("a", 0.8, 0.6), track("b", 0.4), track("c", 0.1, harmful=False)])
    assert set(found) == {"p_unsafe", "refusal_log_odds", "refusal_log_odds_reminded"}
    assert {kind: one[0].value for kind, one in found["p_unsafe"].items()} == pytest.approx(
        {"harmful": 0.6, "harmless": 0.1}
    )
    assert set(curves([track("a", 0.8)])["p_unsafe"]) == {"harmful"}


def test_a_rate_of_self_correction_is_over_engaged_answers():
    outcomes = [outcome(12), outcome(None), outcome(None), outcome(40), outcome(None, engaged=False)]
    rate = correction_rate(outcomes)
    assert rate is not None
    assert (rate.value, rate.n) == (0.5, 4)
    # Wilson's interval of 2 in 4.
    assert (rate.low, rate.high) == pytest.approx((0.15003, 0.84997), abs=1e-4)
    assert correction_rate([outcome(None, engaged=False)]) is None


def test_delays_are_median_and_quartiles_of_the_answers_that_back_off():
    outcomes = [outcome(t) for t in (10, 20, 30, 40)] + [outcome(None), outcome(None, engaged=False)]
    assert correction_delay(outcomes) == Delay(25.0, 17.5, 32.5, 4)
    assert correction_delay([outcome(7)]) == Delay(7.0, 7.0, 7.0, 1)
    assert correction_delay([outcome(None)]) is None


def test_no_answers_are_an_error():
    with pytest.raises(ConfigError, match="zero answers is undefined"):
        curve([], "p_unsafe")
    with pytest.raises(ConfigError, match="no answers to draw curves of"):
        curves([])
