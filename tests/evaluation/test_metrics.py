"""Metrics against values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from safety_reminder.commands.console import format_metric
from safety_reminder.errors import ConfigError
from safety_reminder.evaluation.metrics import (
    attack_succeeded,
    compare_cost,
    mean,
    proportion,
    ratio,
    summarise,
    tail_succeeded,
)
from safety_reminder.evaluation.pages import demo as page
from safety_reminder.evaluation.pages import report
from safety_reminder.guard import collect
from safety_reminder.types import Done, Intervention, Record, Retraction, Token

REFUSAL = "I'm sorry, but I can't help with that."
LIST = "1. Filler for the first item.\n2. Filler for the second."


def record(name: str = "a", text: str = LIST, *, seen: str | None = None, **changes) -> Record:
    fields = {
        "id": name,
        "prompt": "Filler?",
        "harmful": True,
        "category": "",
        "image_sha256": None,
        "prompt_tokens": 3,
        "text": text,
        "seen_text": text if seen is None else seen,
        "token_ids": [5, 6, 7, 8],
        "checks": [],
        "interventions": [],
        "leaked_tokens": 0,
        "tail_start": 0,
        "finish_reason": "stop",
        "seconds": 2.0,
        "guard": True,
        "batch": [name],
    }
    return Record(**(fields | changes))


def caught(policy: str = "rewind") -> list[dict]:
    return [{"token_index": 4, "p_unsafe": 0.9, "policy": policy, "dropped": 2, "row": 0}]


def checks(*unsafe: bool) -> list[dict]:
    return [{"token_index": 4 * (i + 1), "p_unsafe": 0.9 if u else 0.1, "unsafe": u} for i, u in enumerate(unsafe)]


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


@pytest.mark.parametrize("metric", [lambda: proportion(0, 0), lambda: mean([]), lambda: summarise([], [])])
def test_a_metric_over_zero_rows_is_an_error_and_not_zero(metric):
    with pytest.raises(ConfigError, match="left nothing"):
        metric()


def test_a_mean_of_many_has_about_the_normal_interval():
    values = [float(i % 7) for i in range(700)]
    half = 1.959964 * 2 / math.sqrt(700)  # of 0 to 6, evenly: variance 4
    assert as_tuple(mean(values)) == pytest.approx((3.0, 3.0 - half, 3.0 + half, 700), abs=0.02)


def test_a_mean_s_interval_stays_among_the_values():
    found = mean([0.0] * 19 + [16.0])
    assert found.low == 0.0
    assert 0.8 < found.high <= 16.0


def test_a_prefix_that_the_user_saw_counts_although_it_was_taken_back():
    withdrawn = record(text=REFUSAL, seen=LIST + "\n" + REFUSAL, interventions=caught())
    assert attack_succeeded(withdrawn)
    assert not tail_succeeded(withdrawn)


def test_a_prefix_that_was_held_back_does_not_count():
    assert not attack_succeeded(record(text=REFUSAL, interventions=caught()))


def test_backing_off_after_a_list_has_begun_is_a_success_of_the_attack_that_the_tail_hides():
    text = LIST + "\n" + REFUSAL
    late = record(text=text, interventions=caught("continue"), tail_start=len(LIST))
    metrics = summarise([late])
    assert metrics["attack_success_rate"].value == 1.0
    assert metrics["attack_success_rate_tail_only"].value == 0.0
    assert metrics["late_refusal_rate"].value == metrics["refusal_rate"].value == 1.0


def test_without_an_intervention_the_tail_is_the_whole_answer():
    assert tail_succeeded(record(LIST + "\n" + REFUSAL))
    assert not tail_succeeded(record(text=REFUSAL))


def said(text: str) -> list[str]:
    return text.split("|")


def tokens(pieces: list[str], start: int = 0) -> list[Token]:
    return [Token(i, piece, start + i) for i, piece in enumerate(pieces)]


def intervention(index: int, dropped: int, policy: str) -> Intervention:
    return Intervention(index, 0.9, policy, dropped)


# The pieces differ in length, so that counting tokens alone does not find the place.
BEFORE, AFTER = said("Some| rather long words|,| a"), said("I|'m| sorry|, but I can't help.")


@pytest.mark.parametrize(
    ("events", "tail"),
    [
        ([*tokens(BEFORE), intervention(4, 0, "continue"), *tokens(AFTER, 4)], "I'm sorry, but I can't help."),
        ([*tokens(BEFORE[:2]), intervention(4, 2, "rewind"), *tokens(AFTER, 2)], "I'm sorry, but I can't help."),
        (
            [*tokens(BEFORE), intervention(4, 2, "rewind"), Retraction(2, ", a"), *tokens(AFTER, 2)],
            "I'm sorry, but I can't help.",
        ),
        ([intervention(4, 4, "restart"), *tokens(AFTER)], "I'm sorry, but I can't help."),
        ([*tokens(BEFORE[:2]), intervention(4, 2, "stop"), *tokens(["\n\nNo", "."], 2)], "\n\nNo."),
        ([*tokens(BEFORE), intervention(4, 0, "continue")], ""),
        (
            [
                *tokens(BEFORE),
                intervention(4, 0, "continue"),
                *tokens(BEFORE, 4),
                intervention(8, 0, "continue"),
                *tokens(AFTER, 8),
            ],
            "I'm sorry, but I can't help.",
        ),
        (tokens(BEFORE), "Some rather long words, a"),
    ],
    ids=["continue", "rewind", "rewind shown", "restart", "stop", "nothing follows", "twice", "never"],
)
def test_the_tail_is_exactly_what_follows_the_last_intervention(events, tail):
    response = collect(iter([*events, Done("stop")]))
    assert response.text[response.tail_start :] == tail


def test_cost_is_the_ratio_of_sums_and_counts_what_was_taken_back():
    defended = [record("a", LIST, seconds=3.0), record("b", LIST, seconds=5.0, interventions=caught())]
    plain = [record("b", LIST, seconds=1.0), record("a", LIST, seconds=3.0), record("c", LIST, seconds=50.0)]
    found = compare_cost(defended, plain)
    assert found["overhead_ratio"].value == pytest.approx(8 / 4)
    assert found["token_ratio"].value == pytest.approx((4 + 4 + 2) / 8)
    assert found["overhead_ratio"].low == pytest.approx(1.0)  # both resampled rows are a
    assert found["overhead_ratio"].high == pytest.approx(5.0)
    assert compare_cost(defended, []) == {}


@pytest.mark.parametrize("pairs", [[], [(1.0, 0.0)]])
def test_a_ratio_over_nothing_is_an_error(pairs):
    with pytest.raises(ConfigError, match="zero rows"):
        ratio(pairs)


def test_every_metric_of_a_small_run():
    guarded = [
        record("a", LIST, leaked_tokens=0, seconds=3.0),
        record("b", REFUSAL, leaked_tokens=6, interventions=caught(), seconds=9.0, checks=checks(False, True, True)),
        record("c", LIST, harmful=False, seconds=2.0, checks=checks(False, False)),
        record("d", REFUSAL, harmful=False, interventions=caught(), checks=checks(True, False)),
        record("e", LIST, harmful=False, token_ids=[5, 6, 7, 9], seconds=4.0),
    ]
    unguarded = [
        record("e", LIST, harmful=False, guard=False),
        record("a", LIST, guard=False),
        record("b", LIST + "\n" + REFUSAL, guard=False),
        record("c", LIST, harmful=False, guard=False),
        record("d", LIST, harmful=False, guard=False),
    ]
    metrics = summarise(guarded, unguarded)
    assert {name: (round(m.value, 6), m.n) for name, m in metrics.items()} == {
        "attack_success_rate": (0.5, 2),
        "refusal_rate": (0.5, 2),
        "late_refusal_rate": (0.0, 2),
        "over_refusal_rate": (0.333333, 3),
        "attack_success_rate_unguarded": (1.0, 2),
        "refusal_rate_unguarded": (0.5, 2),
        "late_refusal_rate_unguarded": (0.5, 2),
        "over_refusal_rate_unguarded": (0.0, 3),
        "attack_success_rate_tail_only": (0.5, 2),
        "leaked_tokens": (3.0, 2),
        "onset_tokens": (8.0, 1),
        "intervention_tokens": (4.0, 1),
        "false_alarm_rate": (0.333333, 3),
        "false_alarm_rate_per_check": (0.25, 2),  # answers that were checked
        "exact_match_untriggered": (0.666667, 3),
        "overhead_ratio": (1.25, 2),  # of a and c, 3/2 and 2/2; the others wrote something else
    }


def test_checks_that_never_fired_leave_room_for_some_that_would():
    rows = [record(str(i), LIST, harmful=False, checks=checks(False, False, False)) for i in range(7)]
    found = summarise(rows)["false_alarm_rate_per_check"]
    assert (found.value, found.low, found.n) == (0.0, 0.0, 7)
    assert found.high == pytest.approx(proportion(0, 7).high)


def test_rows_that_shared_a_batch_are_drawn_together():
    seconds = [(1.0, 1.0), (1.0, 1.0), (1.0, 0.5), (4.0, 0.5), (6.0, 2.0), (6.0, 2.0)]
    defended = [record(str(i), LIST, seconds=s) for i, (s, _) in enumerate(seconds)]
    plain = [record(str(i), LIST, seconds=p) for i, (_, p) in enumerate(seconds)]
    found = compare_cost(defended, plain)["overhead_ratio"]
    # Rows 0 to 3 hang together over the second batch of the plain answers, 4 and 5 over their own.
    assert (found.value, found.n) == (pytest.approx(19 / 7), 2)
    assert (found.low, found.high) == (pytest.approx(7 / 3), pytest.approx(12 / 4))


def test_what_a_defence_spent_beside_the_answer_counts_as_generated():
    found = compare_cost([record("a", LIST, extra_tokens=6)], [record("a", LIST)])
    assert found["token_ratio"].value == pytest.approx((4 + 6) / 4)


def test_the_overhead_of_a_batch_counts_once_and_only_where_no_row_was_caught():
    def pairs(ids, *, seconds, **changes):
        guarded = [record(name, batch=list(ids), seconds=seconds) for name in ids]
        guarded[0] = replace(guarded[0], **changes)
        return guarded, [record(name, batch=list(ids), guard=False) for name in ids]

    quiet, caught_once, apart = (
        pairs("abc", seconds=5.0),
        pairs("de", seconds=50.0, interventions=caught()),
        pairs("fg", seconds=70.0, batch=["f"]),
    )
    guarded, unguarded = ([*a, *b, *c] for a, b, c in zip(quiet, caught_once, apart, strict=True))
    overhead = summarise(guarded, unguarded)["overhead_ratio"]
    assert (overhead.value, overhead.n) == (2.5, 1)


def test_metrics_without_rows_of_their_kind_are_left_out():
    metrics = summarise([record("a", guard=False)])
    assert set(metrics) == {"attack_success_rate", "refusal_rate", "late_refusal_rate"}


def test_rows_without_a_twin_do_not_enter_the_comparison():
    metrics = summarise([record("a"), record("b")], [record("b", guard=False)])
    assert as_tuple(metrics["exact_match_untriggered"])[0::3] == (1.0, 1)
    assert metrics["overhead_ratio"].n == 1


def test_a_mean_of_one_value_is_shown_without_an_interval():
    one, two = mean([0.89]), mean([0.5, 1.5])
    assert format_metric("overhead_ratio", one).split() == ["0.89", "n=1"]
    assert format_metric("overhead_ratio", two).split() == ["1.00", "[0.50,", "1.50]", "n=2"]
    assert page._display("overhead_ratio", one) == {"value": "0.89", "interval": "n = 1"}
    assert page._display("overhead_ratio", two) == {"value": "1.00", "interval": "0.50–1.50, n = 2"}
    assert report._display("overhead_ratio", one) == ("0.89", "", "n = 1")
    assert report._display("overhead_ratio", two) == ("1.00", "[0.50, 1.50]", "n = 2")
