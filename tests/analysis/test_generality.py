"""One topic left out at a time: what is fitted, calibrated and tested on which rows, on states made for it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from safety_reminder.analysis.generality import (
    Fold,
    Read,
    TooFew,
    as_csv,
    as_table,
    parts_without,
    summarise,
    without,
)
from safety_reminder.data.training_sets.loading import user
from safety_reminder.errors import ConfigError
from safety_reminder.guard import Probe
from safety_reminder.training import TrainingConfig
from safety_reminder.training.leave_out import AT_RANDOM, folds_of
from safety_reminder.training.probing.readings import Readings
from safety_reminder.training.samples import Sample, key, seen_as
from safety_reminder.types import TrainingExample

CONFIG = TrainingConfig(calibration=0.3, test=0.2, false_alarm_budget=0.1)


@pytest.fixture(autouse=True)
def quick_probe(monkeypatch):
    """From one mean to the other: the search for a regularisation would take most of these tests' time."""

    def fit(hidden, unsafe, groups, **options) -> tuple[Probe, dict]:
        return Probe(hidden[unsafe].mean(0) - hidden[~unsafe].mean(0), 0.0), options

    monkeypatch.setattr("safety_reminder.analysis.generality.fit_probe", fit)


def sample(number: int, topic: str, safe: bool, **changes) -> Sample:
    text = f"{topic} {safe} {number}?"
    example = TrainingExample(user(text), safe, "k", topic=topic, source="s", **changes)
    return Sample(example, (5,), (5,), (5,), key(example))


@pytest.fixture(scope="module")
def rows() -> Read:
    """Three topics whose first coordinate tells harm, and `inverse`, in which it tells the opposite. Two checks each,
    the second of which is clearer; and a state beyond the checks, which would spoil every score."""
    samples = [sample(n, t, safe) for t in ("a", "b", "c", "inverse") for safe in (True, False) for n in range(14)]
    samples += [sample(n, "refused", True, harmful_prompt=True) for n in range(4)]
    noise = torch.Generator().manual_seed(0)
    hidden, unsafe, groups, tokens, further = [], [], [], [], []
    for number, row in enumerate(samples):
        sign = (-1 if row.example.safe else 1) * (-1 if row.example.topic == "inverse" else 1)
        for place, size in ((0, 1.0), (16, 3.0), (8, -40.0)):
            hidden.append(torch.randn(6, generator=noise) + sign * size * torch.eye(6)[0])
            unsafe.append(not row.example.safe)
            groups.append(number)
            tokens.append(place)
            further.append(place == 8)
    states = Readings(
        torch.stack(hidden), torch.tensor(unsafe), torch.tensor(groups), torch.tensor(tokens),
        tuple(s.example.source for s in samples), torch.tensor(further),
    )  # fmt: skip
    return Read(samples, states)


def test_the_parts_hold_nothing_of_what_is_left_out(rows):
    parts, left = parts_without(rows.samples, "topic", "b", CONFIG)
    assert {s.example.topic for s in left} == {"b"}
    assert len(left) == 28
    assert all(s.example.topic != "b" for part in parts.values() for s in part)
    assert all(parts[name] for name in ("training", "calibration", "test"))
    parts, left = parts_without(rows.samples, "topic", AT_RANDOM, CONFIG)
    assert len({s.example.topic for s in left}) > 2
    assert not {s.key for s in left} & {s.key for s in parts["training"] + parts["calibration"]}


def some(rows: Read, keep: Callable[[TrainingExample], bool]) -> Read:
    """Those that ``keep`` says, and of these the checks."""
    kept = [n for n, s in enumerate(rows.samples) if keep(s.example)]
    number = {old: new for new, old in enumerate(kept)}
    states = rows.readings.checks.select(torch.isin(rows.readings.checks.groups, torch.tensor(kept)))
    groups = torch.tensor([number[group] for group in states.groups.tolist()])
    return Read([rows.samples[n] for n in kept], replace(states, groups=groups))


def test_what_a_probe_was_never_shown_is_what_it_is_tested_on(rows):
    alike = without(some(rows, lambda e: e.topic in "abc"), "topic", "a", CONFIG, prompt_check=True)
    assert (alike.unsafe, alike.harmless, alike.beside, alike.dropped) == (14, 14, "own", 0)
    assert alike.auc is not None
    assert alike.missed is not None
    assert alike.false_alarms is not None
    assert alike.auc.value > 0.95
    assert alike.missed.value < 0.2
    assert alike.false_alarms.value < 0.4
    # Had it been fitted to the opposite, or calibrated on it, this could not be.
    other = without(some(rows, lambda e: True), "topic", "inverse", CONFIG, prompt_check=True)
    assert other.auc is not None
    assert other.false_alarms is not None
    assert other.false_alarms_others is not None
    assert other.auc.value < 0.05
    assert other.false_alarms.value > 0.8
    assert other.false_alarms_others.value < 0.5


def test_states_beyond_the_checks_are_fitted_to_and_never_scored(rows, monkeypatch):
    fitted = []
    monkeypatch.setattr(
        "safety_reminder.analysis.generality.fit_probe",
        lambda hidden, *more, **options: (fitted.append(len(hidden)), (Probe(hidden.new_zeros(6), 0.0), {}))[1],
    )
    fold = without(rows, "topic", "a", CONFIG, prompt_check=True)
    parts, left = parts_without(rows.samples, "topic", "a", CONFIG)
    assert fitted == [3 * len(parts["training"])]
    assert len(rows.of(left).tokens) == 2 * len(left)
    assert fold.threshold == pytest.approx(0.5, abs=1e-3)


def test_a_topic_without_harmless_rows_is_compared_with_those_of_others(rows):
    fewer = some(rows, lambda e: e.topic != "inverse" and not (e.topic == "c" and e.safe))
    fold = without(fewer, "topic", "c", CONFIG, prompt_check=True)
    assert (fold.beside, fold.harmless, fold.false_alarms) == ("others", 0, None)
    assert fold.auc is not None
    assert fold.auc.value > 0.9
    assert "* against harmless rows of others" in as_table([fold])
    refused = without(
        fewer, "topic", "refused", CONFIG, prompt_check=True
    )  # refusals alone are neither harmful nor harmless
    assert (refused.unsafe, refused.harmless, refused.auc, refused.missed) == (0, 0, None, None)


def test_the_vectors_rows_are_fitted_to_and_counted_but_not_calibrated_on(rows):
    seen = [seen_as(s.key) for s in rows.samples if s.example.topic in ("a", "b")]
    parts, left = parts_without(rows.samples, "topic", "a", CONFIG, seen)
    assert all(s.example.topic != "b" for s in parts["calibration"] + parts["test"])
    assert without(rows, "topic", "a", CONFIG, seen=seen, prompt_check=True).seen == len(left)


def test_all_values_come_in_turn_and_a_label_without_two_is_refused(rows):
    topics = [("topic", value) for value in (AT_RANDOM, "a", "b", "c", "inverse", "refused")]
    examples = [s.example for s in rows.samples]
    assert all(folds_of(examples, by) == topics for by in (None, "topic", ["topic"]))
    for by, message in (
        ("attack", "by=attack: the rows have 0 values of 'attack'"),
        (["topic", "source"], "by=source: the rows have 1 values"),
        ("topics", "by must be of topic, source, attack; got 'topics'"),
    ):
        with pytest.raises(ConfigError, match=message):
            folds_of(examples, by)
    few = [s for s in rows.samples if s.example.topic != "b" or not s.example.safe]
    with pytest.raises(TooFew, match=r"without topic 'b', the .* split"):
        parts_without([s for s in few if s.example.topic in ("b", "refused")], "topic", "b", CONFIG)


def test_lines_are_written_read_again_and_summed_up(rows):
    folds = [
        without(rows, "topic", value, CONFIG, prompt_check=True) for value in (AT_RANDOM, "a", "inverse", "refused")
    ]
    assert [Fold.from_json(fold.as_json()) for fold in folds] == folds
    with pytest.raises(ConfigError, match="not a line of the table"):
        Fold.from_json({"by": "topic"})
    table = list(csv.DictReader(io.StringIO(as_csv(folds))))
    assert [row["left_out"] for row in table] == [fold.left_out for fold in folds]
    assert float(table[1]["auc_low"]) <= float(table[1]["auc"]) <= float(table[1]["auc_high"])
    assert table[3]["auc"] == ""
    metrics = summarise(folds)
    median = metrics["leave_one_topic_out_auc_median"]
    middle = sum(fold.auc.value for fold in folds[1:3] if fold.auc) / 2  # the random part is none of the topics
    assert (median.value, median.n) == (pytest.approx(middle), 2)
    assert as_table(folds).splitlines()[0].split()[:2] == ["without", "topic"]
