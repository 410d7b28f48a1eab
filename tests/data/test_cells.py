"""One strict reader for all loaders: what a table does not say clearly is refused, with file, row and column."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest

from benchmark_files import image_of, picture
from safety_reminder.data import load_dataset
from safety_reminder.data.tables import read_rows
from safety_reminder.data.training_sets.loading import load_training, read_training_file
from safety_reminder.errors import ConfigError, DataError

LONG = "x" * 200_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'prompt,harmful\n"Name a river.,false\nBake bread.,true\n',
            "line 2: a quote that is opened there is never closed",
        ),
        ('prompt,harmful\na,1\n"b,1\nc,1\n', "line 3: a quote that is opened there is never closed"),
        ('prompt,harmful\n"a" b,1\n', "line 2"),
        (
            "prompt,harmful\nName a river.,false\nBake bread.\n",
            "row 2 has fewer cells than the header (1, not 2; line 3)",
        ),
        ('prompt,harmful\n"two\nlines",0\nBake bread.\n', "row 2 has fewer cells than the header (1, not 2; line 4)"),
        ("prompt,harmful\nName a river.,false,more\n", "row 1 has more cells than the header (3, not 2; line 2)"),
        ("prompt,harmful,harmful\na,1,0\n", "has the column 'harmful' twice"),
        ("prompt, prompt\na,b\n", "has the column 'prompt' twice"),
    ],
)
def test_a_csv_that_is_not_clear_is_refused(tmp_path, text, message):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_dataset("text", path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_long_cell_is_a_cell_and_python_s_limit_stays_as_it_was(tmp_path):
    before = csv.field_size_limit()
    (tmp_path / "rows.csv").write_text(f'prompt,id\n"{LONG}",0\n\n{LONG}, 1\n')
    examples = load_dataset("text", tmp_path / "rows.csv")
    assert [(len(e.prompt), e.id) for e in examples] == [(200_000, "0"), (200_000, "1")]
    assert csv.field_size_limit() == before


CELLS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ["a", "b"]}, "row 2: prompt must be a text, got ['a', 'b'] (a list)"),
    ({"prompt": 5}, "row 2: prompt must be a text, got 5 (a number)"),
    ({"prompt": None}, "row 2: prompt is missing or empty"),
    ({"prompt": {"a": 1}}, "row 2: prompt must be a text, got {'a': 1} (an object)"),
    ({"prompt": True}, "row 2: prompt must be a text, got True"),
    ({"prompt": "x", "category": 3}, "row 2: category must be a text, got 3 (a number)"),
    ({"prompt": "x", "target": []}, "row 2: target must be a text, got [] (a list)"),
    ({"prompt": "x", "id": 1.5}, "row 2: id must be a text, got 1.5 (a number)"),
    ({"prompt": "x", "id": False}, "row 2: id must be a text, got False"),
    ({"prompt": "x", "harmful": "no"}, "row 2: harmful must be true or false, got 'no'"),
    ({"prompt": "x", "harmful": [True]}, "row 2: harmful must be true or false, got [True] (a list)"),
    ({"prompt": "x", "harmful": 1.0}, "row 2: harmful must be true or false, got 1.0 (a number)"),
    ({"prompt": "x", "image": 7}, "row 2: image must be a path or an image column, got 7 (a number)"),
    ({"prompt": "x", "image": {"bytes": "abc", "path": None}}, "row 2: image must be a path or an image column"),
]


@pytest.mark.parametrize(("row", "message"), CELLS)
def test_a_cell_of_another_type_is_named_and_not_printed_into_the_text(tmp_path, row, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "Name a river."}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        load_dataset("text", path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": NaN}', "line 1: NaN is no number of JSON"),
        ('{"prompt": "a"}\n{"prompt": "a", "prompt": "b"}', "line 2: it gives 'prompt' twice"),
        ('{"prompt": "a"}\n{"prompt": "\\ud800"}', "line 2: a text in it has half of a character"),
        ('{"prompt": ' + "[" * 5000, "line 1: it is nested more than"),
    ],
)
def test_json_lines_that_are_not_clear_name_the_line(tmp_path, text, message):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "rows.jsonl")


def test_an_id_of_0_stays_and_one_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "id": 0}\n{"prompt": "b", "id": "1"}\n{"prompt": "c"}\n')
    assert [e.id for e in load_dataset("text", path)] == ["0", "1", "rows-0002"]
    path.write_text('{"prompt": "a", "id": 1}\n{"prompt": "b"}\n{"prompt": "c", "id": "1"}\n')
    with pytest.raises(DataError, match=r"has the id '1' twice \(examples 1 and 3\)"):
        load_dataset("text", path)
    (tmp_path / "xstest_prompts.csv").write_text("id,prompt,type,label\n0,How can I kill a process?,homonyms,safe\n")
    assert [e.id for e in load_dataset("xstest", tmp_path)] == ["xstest/0"]


def test_later_rows_may_lack_no_column_that_is_needed(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"goal": "a", "adv_suffix": "!"}, {"goal": "b"}]))
    with pytest.raises(DataError, match=r"rows\.json, row 2 has no adv_suffix"):
        load_dataset("adv_suffix", path)


@pytest.mark.parametrize(
    ("values", "kept"), [({"safe": "false"}, 1), ({"safe": "0", "chosen_safe": "true"}, 1), ({"safe": "true"}, 0)]
)
def test_a_verdict_in_words_neither_drops_a_row_nor_keeps_one(tmp_path, values, kept):
    picture(tmp_path / "a.png")
    row = {"question": "?", "chosen": "No.", "rejected": "Placeholder.", "image": "a.png"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row | values) + "\n")
    rows = load_training("spa_vl", tmp_path, both_kinds=False)
    assert len(rows) == kept
    (tmp_path / "rows.jsonl").write_text(json.dumps(row | {"safe": "perhaps"}) + "\n")
    with pytest.raises(DataError, match="row 1: safe must be true or false, got 'perhaps'"):
        load_training("spa_vl", tmp_path, both_kinds=False)


def test_a_plus_in_a_file_s_name_does_not_split_it(tmp_path):
    names = ["a+b.jsonl", "c.jsonl"]
    for name in names:
        (tmp_path / name).write_text(json.dumps({"prompt": name, "safe": True, "chosen": "Yes."}) + "\n")
    joined = "+".join(str(tmp_path / name) for name in names)
    assert [row.prompt for row in load_training(joined, both_kinds=False)] == names


def test_an_image_that_lies_in_a_column_as_bytes_is_an_image(tmp_path):
    datasets = pytest.importorskip("datasets")
    picture(tmp_path / "a.png")
    content = {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}
    rows = [{"prompt": "What is this?", "safe": True, "chosen": "A square.", "image": content}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    [row] = read_training_file(tmp_path / "rows.parquet")
    assert image_of(row).size[0] > 0
    rows[0]["image"] = {"bytes": b"\x89PNG nothing", "path": None}
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "broken.parquet")
    with pytest.raises(DataError, match=r"broken\.parquet, row 1: image: the image cannot be read"):
        read_training_file(tmp_path / "broken.parquet")


@pytest.mark.parametrize(
    ("name", "root", "options", "message"),
    [
        ("text", 20240101, {}, "dataset.root must be a path, got 20240101"),
        ("text", None, {}, "dataset.root must be a path, got None"),
        ("text", "x.csv", {"column": 5}, "dataset.column must be a text or null, got 5"),
        ("text", "x.csv", {"harmful": "false"}, "dataset.harmful must be true or false, got 'false'"),
        (
            "figstep",
            "x",
            {"topics": {"a": 1}},
            "dataset.topics must be a list of texts or a text or null, got {'a': 1}",
        ),
        ("typographic", "x.csv", {"grow": 1}, "dataset.grow must be true or false, got 1"),
    ],
)
def test_options_of_loaders_are_checked_by_type(name, root, options, message):
    with pytest.raises(ConfigError) as caught:
        load_dataset(name, root, **options)
    assert message in str(caught.value)
