"""Distinct-n, by hand."""

from __future__ import annotations

import pytest

from safety_reminder.evaluation.diversity import ORDERS, distinct


def value(texts: list[str], n: int) -> float | None:
    metric = distinct(texts, n)
    return None if metric is None else metric.value


def test_it_is_the_share_of_different_ngrams():
    texts = ["The cat, the dog.", "the CAT"]
    assert value(texts, 1) == 3 / 6
    assert value(texts, 2) == 3 / 4  # the cat, cat the, the dog
    assert value(texts, 4) == 1
    assert value(texts, 5) is None
    assert value(["don't", "don’t"], 1) == 1 / 2
    assert value(["今天天气", "今天"], 1) == 3 / 6  # no spaces: character by character


def test_of_refusals_all_alike_it_falls_with_their_number_and_its_interval_is_narrow():
    for n in ORDERS:
        alike = distinct(["I cannot help with that"] * 20, n)
        assert alike is not None
        assert alike.value == pytest.approx(1 / 20)
        assert alike.low <= alike.value <= alike.high < 0.1
        assert alike.n == 20


def test_varied_answers_are_more_distinct_and_one_answer_has_an_interval_of_no_width():
    varied = distinct([f"{i} is {i + 50}" + (" or so" if i % 3 else "") for i in range(20)], 1)
    assert varied is not None
    assert varied.low < varied.value < varied.high
    assert varied.value > 0.4
    alone = distinct(["one two three"], 1)
    assert alone is not None
    assert alone.low == alone.value == alone.high == 1
    assert distinct(["", "?"], 1) is None
