"""What a reminder turns: where it is put in, what is counted, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from checkpoints import random_reminder, tiny_vlm
from safety_reminder.data.training_sets.loading import user
from safety_reminder.models.scoring import go_on
from safety_reminder.training import TrainingConfig, turns
from safety_reminder.training.prefixes import Prefixes
from safety_reminder.training.probing.readings import check_places
from safety_reminder.training.samples import Sample, make_samples
from safety_reminder.training.turns import Beginning, advice, as_metrics, bucket, chosen_rows, measure, places, rates
from safety_reminder.types import TrainingExample


@given(length=st.integers(0, 200), interval=st.integers(1, 40), ends=st.booleans())
def test_an_answer_counts_once_in_each_bucket_at_a_place_where_decoding_checks(length, interval, ends):
    answer = [7] * length + [1] * ends
    found = places(answer, interval, {1})
    assert found[0] == 0
    assert set(found) <= set(check_places(TrainingExample(user("p"), True, "a"), answer, interval, {1}))
    buckets = [bucket(tokens, interval) for tokens in found]
    assert len(set(buckets)) == len(buckets)
    assert found[-1] == length  # the whole answer, in the last of them


def test_buckets_are_the_bare_prompt_an_interval_and_then_twice_as_long_each():
    assert [bucket(n, 16) for n in (0, 1, 16, 17, 32, 33, 64, 65)] == [
        "0", "1-16", "1-16", "17-32", "17-32", "33-64", "33-64", "65-128",
    ]  # fmt: skip


def rows(count: int = 5) -> list[Sample]:
    examples = [
        TrainingExample(user(f"Question {i}?"), bool(i % 2), "kkkk" * i + "k", "" if i % 2 else "zzz" * i)
        for i in range(count)
    ]
    examples.append(TrainingExample(user("Bad?"), True, "NNN", harmful_prompt=True))
    return make_samples(tiny_vlm(), examples, TrainingConfig(answer_tokens=12))


def test_rows_are_taken_of_each_kind_and_refusals_of_neither():
    chosen = chosen_rows(rows(), 2)
    assert [sample.example.safe for sample in chosen] == [False, False, True, True]
    assert not any(sample.example.harmful_prompt for sample in chosen)
    assert [s.key for s in chosen] == [s.key for s in chosen_rows(rows()[::-1], 2)]  # whatever their order was


@pytest.mark.parametrize("at_once", [1, 99])
def test_what_the_model_writes_after_the_reminder_is_judged_however_many_share_a_pass(at_once, monkeypatch):
    monkeypatch.setattr(turns, "WRITTEN", 4)
    vlm, vectors, seen = tiny_vlm(), random_reminder().vectors, []
    prefixes = Prefixes(vlm, TrainingConfig(micro_batch_size=at_once, k=2), Path())
    chosen = chosen_rows(rows(4), 9)

    def refuses(text: str) -> bool:
        seen.append(text)
        return len(text) % 2 == 0

    found = measure(prefixes, chosen, vectors, 5, refuses)
    assert len(found) == sum(len(places(sample.answer, 5, vlm.eos_ids)) for sample in chosen)
    of_key = {sample.key: sample for sample in chosen}
    for one in found:
        sample = of_key[one.key]
        assert one.harmful is not sample.example.safe
        [tokens] = go_on(vlm.model, [(prefixes.of(sample), one.tokens)], vectors, turns.WRITTEN)
        end = next((i for i, token in enumerate(tokens) if token in vlm.eos_ids), len(tokens))
        text = vlm.tokenizer.decode(tokens[:end], skip_special_tokens=True)
        assert one.turned is (bool(text.strip()) and len(text) % 2 == 0)
        assert text in seen or not text.strip()
    assert len({one.turned for one in found}) == 2


def test_an_answer_that_only_ends_has_not_turned(monkeypatch):
    vlm = tiny_vlm()
    [end, *_] = vlm.eos_ids
    monkeypatch.setattr(turns, "go_on", lambda model, cuts, *rest: [[end, 40, 41]] * len(cuts))
    prefixes = Prefixes(vlm, TrainingConfig(), Path())
    assert not any(one.turned for one in measure(prefixes, rows(2), torch.zeros(2, 32), 5, lambda text: True))


def beginnings(hits: list[list[bool]], *, harmful: bool = True) -> list[Beginning]:
    """Of each answer, whether it turned after 0, 4, 8, ... tokens."""
    return [Beginning(str(key), harmful, 4 * n, hit) for key, row in enumerate(hits) for n, hit in enumerate(row)]


def test_intervals_draw_whole_rows_so_that_more_beginnings_of_one_answer_do_not_narrow_them():
    single = rates(beginnings([[True], [False], [True], [True]]), 4)["harmful"]["all"]
    repeated = rates(beginnings([[hit] * 5 for hit in (True, False, True, True)]), 4)["harmful"]["all"]
    assert repeated["n"] == 20
    assert single["n"] == 4
    for name in ("value", "low", "high"):
        assert single[name] == pytest.approx(repeated[name])
    assert single["low"] < single["value"] == 0.75 < single["high"]


@pytest.mark.parametrize(("hit", "value"), [(False, 0.0), (True, 1.0)])
def test_where_all_turn_or_none_the_interval_still_says_how_little_few_rows_tell(hit, value):
    few = rates(beginnings([[hit, hit]] * 4, harmful=False), 4)["harmless"]["all"]
    many = rates(beginnings([[hit, hit]] * 40, harmful=False), 4)["harmless"]["all"]
    assert few["value"] == many["value"] == value
    assert 0 < many["high"] - many["low"] < few["high"] - few["low"] < 1


def test_rates_are_told_apart_by_kind_and_tokens_and_named_as_metrics():
    found = rates(beginnings([[True, False]] * 3) + beginnings([[False]] * 2, harmful=False), 4)
    assert {kind: list(table) for kind, table in found.items()} == {
        "harmful": ["all", "0", "1-4"],
        "harmless": ["all", "0"],
    }
    assert found["harmful"]["0"]["value"] == 1.0
    assert found["harmful"]["1-4"]["value"] == 0.0
    metrics = as_metrics(found)
    assert metrics["turned_harmful"] == found["harmful"]["all"]
    assert metrics["turned_harmful_after_1-4_tokens"] == found["harmful"]["1-4"]
    assert all(metric.keys() == {"value", "low", "high", "n"} for metric in metrics.values())


def table(bare: float, later: float, harmless: float) -> turns.Rates:
    rate = lambda value: {"value": value, "low": value, "high": value, "n": 10}  # noqa: E731
    return {"harmful": {"all": rate(later), "0": rate(bare), "1-16": rate(later)}, "harmless": {"all": rate(harmless)}}


@pytest.mark.parametrize(
    ("found", "policy", "named"),
    [
        (table(0.9, 0.9, 0.02), "rewind", []),
        (table(0.0, 0.9, 0.02), "rewind", ["training.empty_prob (now 0.50)"]),
        (table(0.0, 0.9, 0.02), "restart", ["training.empty_prob (now 0.50)"]),
        (table(0.0, 0.9, 0.02), "continue", []),
        (table(0.9, 0.2, 0.02), "continue", ["on fewer tokens (training.target_tokens, now 32)"]),
        (table(0.9, 0.9, 0.2), "rewind", ["give more harmless rows"]),
        (table(0.0, 0.0, 0.9), "rewind", ["training.empty_prob", "training.learning_rate", "harmless rows"]),
        (table(0.0, 0.0, 0.9), "stop", []),
        ({}, "rewind", []),
    ],
)
def test_low_rates_come_with_what_to_change(found, policy, named):
    lines = advice(found, TrainingConfig(policy=policy, target_tokens=32))
    assert len(lines) == len(named)
    for line, name in zip(lines, named, strict=True):
        assert name in line
        assert "\n" not in line
