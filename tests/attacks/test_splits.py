"""Requests that an attack learns from are none that it is measured on."""

from __future__ import annotations

import pytest

from safety_reminder.attacks.options import SplitConfig
from safety_reminder.attacks.splits import divide, without
from safety_reminder.errors import ConfigError
from safety_reminder.types import Example

ROWS = [Example(str(n), f"Request {n}") for n in range(20)]


def split(**sizes) -> SplitConfig:
    return SplitConfig.parse(sizes, "split")


@pytest.mark.parametrize("sizes", [{}, {"train": 10, "validation": 5, "test": 5}, {"train": 3, "test": 0.5}])
def test_no_request_is_in_two_parts(sizes):
    parts = divide(ROWS, split(**sizes))
    ids = [e.id for part in parts.named.values() for e in part]
    assert len(set(ids)) == len(ids) <= 20


def test_sizes_are_shares_or_numbers():
    parts = divide(ROWS, split(train=0.5, validation=3, test=0.2))
    assert [len(part) for part in parts.named.values()] == [10, 3, 4]
    assert len(divide(ROWS, split(train=2, validation=0, test=0)).train) == 2
    assert len(divide(ROWS, split(train=1.0, validation=0, test=0)).train) == 20


@pytest.mark.parametrize("count", range(1, 60))
def test_the_shares_fit_data_of_any_size(count):
    parts = divide([Example(str(n), str(n)) for n in range(count)], split())
    assert sum(map(len, parts.named.values())) <= count
    assert abs(len(parts.train) - 0.6 * count) <= 1


def test_the_split_is_that_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.model_selection")
    rest, test = sklearn.train_test_split(ROWS, test_size=5, random_state=42)
    train, validation = sklearn.train_test_split(rest, test_size=5, random_state=42)
    parts = divide(ROWS, split(train=10, validation=5, test=5))
    assert (parts.train, parts.validation, parts.test) == (train, validation, test)


def test_more_than_there_is_cannot_be_split():
    with pytest.raises(ConfigError, match="more than the 20 requests there are: train 18, validation 4"):
        divide(ROWS, split(train=18))
    with pytest.raises(ConfigError, match="shares of more than all requests"):
        split(train=0.9)


def test_what_is_tested_on_is_left_out_however_it_is_written():
    tested = [Example("t", "see", instruction="Request  3!"), Example("u", "request 5")]
    assert [e.id for e in without(ROWS, tested)] == [e.id for e in ROWS if e.id not in ("3", "5")]
    assert without([Example("a", "x", instruction="Request 5.")], tested) == []
