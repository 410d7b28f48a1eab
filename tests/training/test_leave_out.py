"""Rows of a topic, a source or an attack that nothing is learned from."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from checkpoints import random_reminder, tiny_vlm
from safety_reminder.data.training_sets.loading import read_training_file, user
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.training import TrainingConfig, refit
from safety_reminder.training.samples import Sample, key, seen_as, split, tell_what_is_left_out
from safety_reminder.types import TrainingExample

CONFIG = TrainingConfig(validation=0.2, calibration=0.2, test=0.2, interval=4, prefix_cache_gb=0.0)


def rows() -> list[TrainingExample]:
    made = []
    for n in range(12):
        topic, attack = ("Fraud", "Hate Speech")[n % 2], ("text", "prefill", "pgd")[n % 3]
        made.append(TrainingExample(user(f"Good {n}?"), True, "k" * 6, source="good", topic=topic, attack="text"))
        made.append(TrainingExample(user(f"Bad {n}?"), False, "N", "zzzz", source="bad", topic=topic, attack=attack))
    return made


def samples(examples: list[TrainingExample] | None = None) -> list[Sample]:
    return [Sample(e, (5,), (5,), (5,), key(e)) for e in examples or rows()]


def has(sample: Sample, entry: str) -> bool:
    label, _, value = entry.partition(":")
    return getattr(sample.example, label) == value


@pytest.mark.parametrize(
    "leave_out", ["topic:Fraud", "attack:pgd", "topic: Hate Speech", ["topic:Fraud", "attack:prefill"]]
)
def test_what_is_left_out_is_tested_on_and_nowhere_else(leave_out):
    config = CONFIG.with_changes(leave_out=leave_out)
    parts = split(samples(), config)
    entries = [entry.replace(": ", ":") for entry in config.left_out]
    wanted = [s.example for s in samples() if any(has(s, entry) for entry in entries)]
    tested = [s for s in parts["test"] if any(has(s, entry) for entry in entries)]
    assert [s.example for s in tested] == wanted
    for part in ("training", "validation", "calibration"):
        assert parts[part]
        assert not any(has(s, entry) for s in parts[part] for entry in entries)
    # Of a kind that it has none of, the test part has rows of others; of the other kind it has none.
    assert {s.example.safe for s in parts["test"]} == {True, False}
    beside = {s.example.safe for s in parts["test"] if s not in tested}
    assert beside == ({True} if leave_out == "attack:pgd" else set())


def test_a_prompt_that_is_also_left_out_is_in_no_part_and_a_warning_says_so(caplog):
    examples = [*rows(), TrainingExample(user("Bad 1?"), False, "N", "yyyy", topic="Fraud", attack="text")]
    all_samples = samples(examples)
    parts = split(all_samples, CONFIG.with_changes(leave_out="topic:Hate Speech"))
    assert examples[-1] not in [s.example for part in parts.values() for s in part]
    with caplog.at_level(logging.WARNING):
        tell_what_is_left_out(all_samples, parts, seen=[seen_as(parts["test"][0].key)])
    assert [r.getMessage() for r in caplog.records] == [
        "1 rows ask what rows that are left out ask, and are in no part",
        f"the reminder's vectors saw 1 of the {len(parts['test'])} test rows; the probe did not",
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("topic:Frauds", "unknown topic 'Frauds'; did you mean 'Fraud'\\? known: Fraud, Hate Speech"),
        ("attack:gcg", "unknown attack 'gcg'; .*known: pgd, prefill, text"),
        ("source:elsewhere", "unknown source 'elsewhere'; .*known: bad, good"),
    ],
)
def test_a_value_that_no_row_has_is_an_error_with_the_known_ones(entry, message):
    with pytest.raises(ConfigError, match=message):
        split(samples(), CONFIG.with_changes(leave_out=["topic:Fraud", entry]))


def test_rows_that_say_nothing_and_entries_of_another_form_are_refused():
    unnamed = [replace(e, topic="") for e in rows()]
    with pytest.raises(ConfigError, match="no row says its topic; rows need a field 'topic'"):
        split(samples(unnamed), CONFIG.with_changes(leave_out="topic:Fraud"))
    for entry in ("Fraud", "topic:", "topics:Fraud", ["topic:Fraud", "x"]):
        with pytest.raises(ConfigError, match="leave_out must be of topic:VALUE, source:VALUE, attack:VALUE"):
            TrainingConfig.parse({"leave_out": entry}, "training")
    with pytest.raises(ConfigError, match=r"are of one kind; training\.test above 0"):
        split(samples(), CONFIG.with_changes(leave_out="attack:pgd", test=0))


def test_the_labels_of_a_file_are_read_strictly(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "safe": true, "chosen": "b", "topic": "Fraud", "attack": "text"}\n')
    [row] = read_training_file(path)
    assert (row.topic, row.attack, row.source) == ("Fraud", "text", "rows")
    for cell in ('"topic": ["Fraud"]', '"attack": 3'):
        path.write_text(f'{{"prompt": "a", "safe": true, "chosen": "b", {cell}}}\n')
        with pytest.raises(DataError, match=r"row 1: (topic|attack) must be a text"):
            read_training_file(path)


def test_a_threshold_is_set_without_them_and_its_false_alarms_on_them_are_counted(tmp_path):
    vlm, reminder = tiny_vlm(), replace(random_reminder(), interval=4)
    config = CONFIG.with_changes(leave_out="topic:Fraud", false_alarm_budget=0.2)
    pack = refit.calibrate(vlm, reminder, rows(), config, tmp_path / "a")
    others = [e for e in rows() if e.topic != "Fraud"]
    same = refit.calibrate(vlm, reminder, others, config.with_changes(leave_out=None), tmp_path / "b")
    assert pack.threshold == same.threshold
    assert pack.calibration["left_out"]["n"] == 6
    assert "left_out" not in same.calibration
    # A value that only unsafe rows have is known, and leaves all responses.
    whole = refit.calibrate(vlm, reminder, rows(), config.with_changes(leave_out="attack:pgd"), tmp_path / "c")
    assert whole.calibration["n"] == 12
    with pytest.raises(DataError, match="leave_out leaves no safe responses"):
        refit.calibrate(vlm, reminder, rows(), config.with_changes(leave_out="attack:text"), tmp_path / "d")
