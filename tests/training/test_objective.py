"""Random cuts, and the places where decoding would check."""

from __future__ import annotations

import random
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints import random_reminder, tiny_vlm
from safety_reminder.data.training_sets.loading import user
from safety_reminder.guard import GuardedVLM, Probe, SafetyReminder
from safety_reminder.training import TrainingConfig
from safety_reminder.training.objective import draw_cut
from safety_reminder.training.prefixes import Prefixes
from safety_reminder.training.probing.readings import check_places
from safety_reminder.training.samples import Sample, make_samples
from safety_reminder.types import TrainingExample

REFUSAL, CORRECTION = (91, 92, 93, 94, 95, 1), (90, 91, 92, 93, 94, 95, 1)


def sample(length: int = 10, *, safe: bool = True, harmful_prompt: bool = False) -> Sample:
    example = TrainingExample(user("p"), safe, "a", "a", harmful_prompt=harmful_prompt)
    return Sample(example, tuple(range(length)), REFUSAL, CORRECTION, "key")


@settings(max_examples=300, deadline=None)
@given(
    length=st.integers(0, 30),
    safe=st.booleans(),
    harmful_prompt=st.booleans(),
    seed=st.integers(0, 999),
    empty_prob=st.floats(0, 1),
    target_tokens=st.integers(1, 12),
    repeat_prob=st.sampled_from([0.0, 0.5]),
    correction_prob=st.sampled_from([0.0, 0.5]),
)
def test_a_cut_leaves_something_to_predict(
    length, safe, harmful_prompt, seed, empty_prob, target_tokens, repeat_prob, correction_prob
):
    length = max(length, 1 + harmful_prompt) if safe else length
    row = sample(length, safe=safe, harmful_prompt=harmful_prompt)
    config = TrainingConfig(
        empty_prob=empty_prob, target_tokens=target_tokens, repeat_prob=repeat_prob, correction_prob=correction_prob
    )
    cut = draw_cut(row, random.Random(seed), config)
    assert 0 <= cut.tokens < max(1, length)
    runs = [run for run in cut.script if run is not None]
    assert all(runs)
    assert len(cut.learn) == len(runs)
    assert cut.learn[-1]
    assert len(cut.unsafe) == len(cut.script) - len(runs) >= 1
    if safe:
        assert cut.script == [None, row.answer[cut.tokens : cut.tokens + target_tokens]]
        assert cut.unsafe == (False,)
    else:
        assert tuple(chain(*runs)) == (CORRECTION if cut.tokens else REFUSAL)
        # Where a reminder comes after a part of the refusal, the text is safe; in front of it, it is not.
        follows_text = [bool(i and cut.script[i - 1] is not None) for i, part in enumerate(cut.script) if part is None]
        assert cut.unsafe == tuple(not b for b in follows_text)


def cuts(row: Sample, *, empty_prob: float = 1 / 3, count: int = 2000, **options: Any) -> list[int]:
    rng = random.Random(0)
    config = TrainingConfig(empty_prob=empty_prob, **options)
    return [draw_cut(row, rng, config).tokens for _ in range(count)]


@pytest.mark.parametrize("safe", [True, False])
def test_an_answer_is_cut_to_nothing_as_often_as_asked_and_elsewhere_evenly(safe):
    drawn = cuts(sample(safe=safe))
    assert drawn.count(0) / len(drawn) == pytest.approx(1 / 3, abs=0.04)
    for tokens in range(1, 10):
        assert drawn.count(tokens) / len(drawn) == pytest.approx(2 / 27, abs=0.025)


def test_the_extremes_of_empty_prob_are_always_and_never():
    assert set(cuts(sample(safe=False), empty_prob=1.0)) == {0}
    assert 0 not in cuts(sample(safe=False), empty_prob=0.0)


def test_other_cuts_keep_the_least_that_was_asked_for():
    assert min(cuts(sample(safe=False), empty_prob=0.0, min_tokens=6)) == 6


def test_cuts_keep_as_many_characters_as_asked_for_or_all_but_the_last_token():
    def made(answer: str, **options: Any) -> Sample:
        example = TrainingExample(user("p"), False, "N", answer)
        return make_samples(tiny_vlm(), [example], TrainingConfig(**options))[0]

    row = made("k z k z k z k z k z k z k z k z", min_chars=20)
    kept = set(cuts(row, empty_prob=0.0, min_chars=20))
    texts = {n: tiny_vlm().tokenizer.decode(row.answer[:n]) for n in range(1, len(row.answer))}
    assert kept == {n for n, text in texts.items() if len(text) >= 20}
    assert min(kept) > 1
    short = made("k z", min_chars=20)
    assert set(cuts(short, empty_prob=0.0, min_chars=20)) == {len(short.answer) - 1}
    assert made("k z").least == 1


def test_a_refusal_of_a_harmful_prompt_is_never_cut_to_its_unsafe_beginning():
    assert min(cuts(sample(harmful_prompt=True))) == 4
    assert set(cuts(sample(3, harmful_prompt=True))) == {2}


@pytest.mark.parametrize(("option", "script_length"), [("repeat_prob", 4), ("correction_prob", 3)])
def test_reminders_in_the_middle_of_a_refusal_come_as_often_as_asked(option, script_length):
    rng, config = random.Random(0), TrainingConfig(empty_prob=0.0).with_changes(**{option: 0.25})
    drawn = [draw_cut(sample(safe=False), rng, config) for _ in range(2000)]
    assert sum(len(cut.script) == script_length for cut in drawn) / 2000 == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("safe", [True, False])
def test_after_an_unheeded_reminder_the_second_reads_the_same_and_only_what_is_wanted_is_learnt(safe):
    rng, row = random.Random(0), sample(12, safe=safe)
    config = TrainingConfig(unheeded_prob=0.25, target_tokens=6)
    drawn = [draw_cut(row, rng, config) for _ in range(2000)]
    twice = [cut for cut in drawn if len(cut.script) == 4]
    possible = [cut for cut in drawn if cut.tokens < 11]  # one token cannot be parted
    assert len(twice) / len(possible) == pytest.approx(0.25, abs=0.03)
    for cut in twice:
        _, went_on, _, follows = cut.script
        assert went_on is not None
        assert went_on == row.answer[cut.tokens : cut.tokens + len(went_on)]
        assert cut.unsafe == (not safe, not safe)
        assert cut.learn == (safe, True)
        end = cut.tokens + len(went_on)
        assert follows == (row.answer[end : cut.tokens + 6] if safe else CORRECTION)


@pytest.mark.parametrize(
    ("length", "ends", "declines", "places"),
    [
        (40, False, False, [0, 16, 32, 40]),
        (32, False, False, [0, 16, 32]),
        (40, True, False, [0, 16, 32, 39]),
        (33, True, False, [0, 16, 32]),
        (5, True, False, [0, 4]),
        (0, False, False, [0]),
        (40, True, True, [16, 32, 39]),
        (40, False, True, [16, 32, 40]),
        (12, True, True, [11]),
        (12, False, True, [12]),
    ],
)
def test_the_probe_is_read_where_decoding_checks(length, ends, declines, places):
    example = TrainingExample(user("p"), True, "a", harmful_prompt=declines)
    answer = [7] * (length - ends) + [1] * ends
    assert check_places(example, answer, 16, {1}) == places


@pytest.mark.parametrize("interval", [1, 5, 16])
def test_training_reads_the_probe_after_the_tokens_after_which_decoding_did(interval):
    vlm = tiny_vlm()
    silent = SafetyReminder(random_reminder().vectors, Probe(torch.zeros(vlm.hidden_size), -20.0))
    guarded = GuardedVLM(vlm, silent, interval=interval, prompt_check=True)
    for length in (1, 16, 23):
        response = guarded.generate([{"role": "user", "content": "Hello?"}], max_new_tokens=length, do_sample=False)
        places = check_places(TrainingExample(user("Hello?"), True, "a"), response.token_ids, interval, vlm.eos_ids)
        assert [check.token_index for check in response.checks] == places


class Unread(Prefixes):
    """Without a model: a sample in place of its prefix. ``found``: what was looked up, in order."""

    def __init__(self, **options: Any) -> None:
        nothing: Any = None
        super().__init__(nothing, TrainingConfig(**options), Path())
        self.found: list[Sample] = []

    def of(self, sample: Sample) -> Any:
        self.found.append(sample)
        return sample


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=12), rows=st.integers(1, 8), seed=st.integers(0, 999))
def test_passes_hold_every_cut_once_and_short_scripts_apart_from_long_ones(counts, rows, seed):
    rng = random.Random(seed)
    config = TrainingConfig(unheeded_prob=0.5, min_tokens=1)
    drawn = []
    for number, count in enumerate(counts):
        row = sample(12 + number, safe=bool(number % 2))
        drawn.append((row, [draw_cut(row, rng, config) for _ in range(count)]))
    prefixes = Unread(micro_batch_size=rows, k=3)
    passes = list(prefixes.batches(drawn))
    assert prefixes.found == [row for row, _ in drawn]
    places = [(row, *place) for samples, found in passes for row, place in zip(samples, found, strict=True)]
    assert all(prefix is row for row, prefix, _ in places)
    assert sorted((id(row), id(cut)) for row, _, cut in places) == sorted(
        (id(row), id(cut)) for row, cuts in drawn for cut in cuts
    )
    for samples, _ in passes:
        assert 0 < len(samples) <= rows
    if len(drawn) <= rows:  # else their prefixes would not be held all at a time
        widths = [[sum(3 if part is None else len(part) for part in cut.script) for _, cut in p] for _, p in passes]
        assert all(max(a) <= min(b) for a, b in pairwise(widths))
        assert all(len(p) == rows for p in widths[:-1])
