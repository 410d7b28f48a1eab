"""FigStep's loader, on folders laid out as upstream lays them out."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from benchmark_files import path_of
from safety_reminder.data import DATASETS, load_dataset
from safety_reminder.errors import ConfigError, DataError

HEADER = ("dataset", "category_id", "task_id", "category_name", "question", "instruction")
ROWS = [
    ("ForbidQI", "1", "1", "Illegal Activity", "Filler?", "Steps of filler one."),
    ("ForbidQI", "1", "2", "Illegal Activity", "Filler?", "Steps of filler two."),
    ("ForbidQI", "2", "1", "Hate Speech", "Filler?", "Steps of filler three."),
    ("ForbidQI", "5", "1", "Fraud", "Filler?", 'Steps of "filler", four.'),
]


def lay_out(
    data: Path, *, subset: str = "SafeBench", file: str = "safebench.csv", questions: str = "question", rows=ROWS
) -> Path:
    (data / questions).mkdir(parents=True, exist_ok=True)
    with (data / questions / file).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([HEADER, *rows])
    folder = data / "images" / subset
    folder.mkdir(parents=True)
    for row in rows:
        Image.new("RGB", (4, 4), "white").save(folder / f"query_ForbidQI_{row[1]}_{row[2]}_6.png")
    return data


@pytest.mark.parametrize("questions", ["question", "questions"])
@pytest.mark.parametrize("file", ["SafeBench.csv", "safebench.csv"])
def test_both_of_upstreams_spellings_are_read(tmp_path, questions, file):
    lay_out(tmp_path, file=file, questions=questions)
    assert len(load_dataset("figstep", tmp_path)) == 4


def test_an_example_is_its_row_and_its_image(tmp_path):
    example = load_dataset("figstep", lay_out(tmp_path))[3]
    assert (example.id, example.category, example.instruction) == ("SafeBench/5-1", "Fraud", ROWS[3][5])
    assert example.harmful
    assert example.image == tmp_path / "images/SafeBench/query_ForbidQI_5_1_6.png"
    assert example.prompt.startswith("The image shows a list numbered 1, 2, and 3")
    assert [part["type"] for part in example.messages()[0]["content"]] == ["image", "text"]


def test_the_folder_above_data_will_do(tmp_path):
    lay_out(tmp_path / "data")
    assert load_dataset("figstep", tmp_path) == load_dataset("figstep", str(tmp_path / "data"))


@pytest.mark.parametrize("file", ["SafeBench-Tiny.csv", "safebench-tiny.csv", "SafeBench_Tiny.csv"])
def test_the_tiny_subset_is_taken_where_it_is_the_only_one(tmp_path, file):
    lay_out(tmp_path, subset="SafeBench-Tiny", file=file, rows=ROWS[:2])
    examples = load_dataset("figstep", tmp_path)
    assert [e.id for e in examples] == ["SafeBench-Tiny/1-1", "SafeBench-Tiny/1-2"]
    assert all(path_of(e).parent.name == "SafeBench-Tiny" for e in examples)


def test_of_both_subsets_the_larger_is_the_default(tmp_path):
    lay_out(tmp_path)
    lay_out(tmp_path, subset="SafeBench-Tiny", file="SafeBench-Tiny.csv", rows=ROWS[:1])
    assert len(load_dataset("figstep", tmp_path)) == 4
    assert len(load_dataset("figstep", tmp_path, subset="SafeBench-Tiny")) == 1


@pytest.mark.parametrize(
    ("topics", "ids"),
    [
        (["Fraud"], ["5-1"]),
        (["fraud", " HATE speech "], ["2-1", "5-1"]),
        ("Illegal Activity", ["1-1", "1-2"]),
        ([], ["1-1", "1-2", "2-1", "5-1"]),
    ],
)
def test_topics_select_in_any_case(tmp_path, topics, ids):
    examples = load_dataset("figstep", lay_out(tmp_path), topics=topics)
    assert [e.id for e in examples] == [f"SafeBench/{i}" for i in ids]


@pytest.mark.parametrize(
    ("task_ids", "ids"),
    [(1, ["1-1", "2-1", "5-1"]), ("2", ["1-2"]), ([2, "5-1"], ["1-2", "5-1"]), (["1-1"], ["1-1"]), ([], None)],
)
def test_tasks_are_chosen_by_number_or_by_topic_and_number(tmp_path, task_ids, ids):
    examples = load_dataset("figstep", lay_out(tmp_path), task_ids=task_ids)
    assert [e.id for e in examples] == [f"SafeBench/{i}" for i in ids or ("1-1", "1-2", "2-1", "5-1")]


def test_so_many_of_each_category_are_taken_the_first_or_at_random(tmp_path):
    rows = [("ForbidQI", str(c), str(t), f"Topic {c}", "Filler?", "Steps.") for c in (1, 2, 3) for t in range(1, 7 - c)]
    whole = load_dataset("figstep", lay_out(tmp_path, rows=rows))
    assert [e.id[-3:] for e in load_dataset("figstep", tmp_path, per_category=2)] == [
        f"{c}-{t}" for c in (1, 2, 3) for t in (1, 2)
    ]
    samples = [load_dataset("figstep", tmp_path, per_category=4, seed=seed) for seed in range(6)]
    assert all(
        [e.category for e in sample].count(f"Topic {c}") == min(4, 6 - c) for sample in samples for c in (1, 2, 3)
    )
    assert all(sorted(sample, key=whole.index) == sample for sample in samples)
    assert len({tuple(e.id for e in sample) for sample in samples}) > 1
    assert len(load_dataset("figstep", tmp_path, per_category=4, seed=1, limit=5)) == 5
    with pytest.raises(ConfigError, match=r"dataset\.per_category must be a whole number from 1, got 0"):
        load_dataset("figstep", tmp_path, per_category=0)


def test_a_limit_takes_the_first_and_with_a_seed_a_sample_in_order(tmp_path):
    lay_out(tmp_path)
    whole = load_dataset("figstep", tmp_path)
    assert load_dataset("figstep", tmp_path, limit=2) == whole[:2]
    assert load_dataset("figstep", tmp_path, limit=9) == load_dataset("figstep", tmp_path, limit=4, seed=1) == whole
    samples = [load_dataset("figstep", tmp_path, limit=2, seed=seed) for seed in range(8)]
    assert samples == [load_dataset("figstep", tmp_path, limit=2, seed=seed) for seed in range(8)]
    assert all(whole.index(a) < whole.index(b) for a, b in samples)
    assert len({tuple(e.id for e in sample) for sample in samples}) > 1


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "2"])
def test_a_limit_that_is_no_count_is_refused(tmp_path, limit):
    with pytest.raises(ConfigError, match=r"dataset\.limit must be a whole number from 1"):
        load_dataset("figstep", tmp_path, limit=limit)


def test_a_root_that_is_missing_says_what_to_give(tmp_path):
    with pytest.raises(DataError, match=r"needs dataset\.root=DIR"):
        load_dataset("figstep", "")
    with pytest.raises(DataError, match=r"no folder .*gone; give dataset\.root=DIR"):
        load_dataset("figstep", tmp_path / "gone")


def test_a_folder_without_questions_is_named(tmp_path):
    with pytest.raises(DataError, match="neither question/ nor questions/"):
        load_dataset("figstep", tmp_path)


def test_the_csv_files_that_were_looked_for_are_named(tmp_path):
    (tmp_path / "question").mkdir()
    with pytest.raises(DataError, match=r"none of: SafeBench\.csv, SafeBench-Tiny\.csv"):
        load_dataset("figstep", tmp_path)
    lay_out(tmp_path)
    with pytest.raises(DataError, match=r"none of: SafeBench-Tiny\.csv"):
        load_dataset("figstep", tmp_path, subset="SafeBench-Tiny")


def test_an_image_that_is_missing_is_named(tmp_path):
    lay_out(tmp_path)
    (tmp_path / "images/SafeBench/query_ForbidQI_2_1_6.png").unlink()
    with pytest.raises(DataError, match=r"expected .*images/SafeBench/query_ForbidQI_2_1_6\.png"):
        load_dataset("figstep", tmp_path)


@pytest.mark.parametrize("text", ["", "category_id,task_id\n1,1\n", "category_id,task_id,category_name,instruction\n"])
def test_a_csv_of_another_kind_is_refused(tmp_path, text):
    lay_out(tmp_path)
    (tmp_path / "question/safebench.csv").write_text(text)
    with pytest.raises(DataError, match="the columns category_id, category_name, instruction, task_id"):
        load_dataset("figstep", tmp_path)


def test_topics_of_which_there_are_none_are_an_error_and_not_an_empty_run(tmp_path):
    with pytest.raises(DataError, match="leaves no examples"):
        load_dataset("figstep", lay_out(tmp_path), topics=["Malware Generation"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": "SafeBench-Tidy"}, "unknown FigStep subset 'SafeBench-Tidy'; did you mean 'SafeBench-Tiny'"),
        ({"topics": ["Frauds"]}, "unknown FigStep topic 'Frauds'; did you mean 'Fraud'"),
        ({"task_ids": [1, 9]}, "no FigStep task '9'; give a number from 1 to 2, or topic and number as in 1-1"),
        ({"task_ids": "3-1"}, "no FigStep task '3-1'"),
        ({"topic": "Fraud"}, "unknown option of dataset=figstep 'topic'; did you mean 'topics'"),
    ],
)
def test_unknown_names_come_with_the_nearest_known_one(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        load_dataset("figstep", lay_out(tmp_path), **options)


def test_an_unknown_data_set_names_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="unknown dataset 'figstop'; did you mean 'figstep'") as caught:
        load_dataset("figstop", tmp_path)
    assert all(name in str(caught.value) for name in DATASETS)
