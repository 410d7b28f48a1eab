"""Prompt files of one's own: three formats, and an error that says which file and row."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from safety_reminder.data import load_dataset
from safety_reminder.errors import DataError

ROWS = [
    {"id": "a", "prompt": "Say hello, twice.", "harmful": False, "category": "greeting"},
    {"id": "b", "prompt": 'Two\nlines, "quoted".', "harmful": True, "category": "x"},
]
CSV = 'id,prompt,harmful,category\na,"Say hello, twice.",false,greeting\nb,"Two\nlines, ""quoted"".",true,x\n'


def write(path, text: str):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", CSV),
        ("p.csv", "\ufeff" + CSV.replace("\n", "\r\n").replace("Two\r\n", "Two\n")),
        ("p.json", json.dumps(ROWS)),
        ("p.jsonl", "\n".join(json.dumps(row) for row in ROWS) + "\n\n"),
    ],
)
def test_all_formats_give_the_same_examples(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode())
    examples = load_dataset("text", path)
    assert [(e.id, e.prompt, e.harmful, e.category) for e in examples] == [
        (row["id"], row["prompt"], row["harmful"], row["category"]) for row in ROWS
    ]
    assert all(e.image is None and e.instruction == e.prompt for e in examples)
    assert examples[0].messages() == [{"role": "user", "content": [{"type": "text", "text": "Say hello, twice."}]}]


def test_characters_that_some_take_for_line_ends_are_text(tmp_path):
    prompt = "one\u2028two\x85three"
    path = write(tmp_path / "p.jsonl", json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n")
    assert [e.prompt for e in load_dataset("text", path)] == [prompt]


@pytest.mark.parametrize("column", ["prompt", "instruction", "question", "goal"])
def test_the_usual_columns_are_found(tmp_path, column):
    path = write(tmp_path / "mine.csv", f"other,{column}\nx,Hello?\n")
    example = load_dataset("text", path)[0]
    assert (example.prompt, example.id, example.harmful) == ("Hello?", "mine-0000", True)


def test_a_column_and_a_label_can_be_given(tmp_path):
    path = write(tmp_path / "mine.csv", "prompt,query\nnot this,Hello?\n")
    example = load_dataset("text", path, column="query", harmful=False)[0]
    assert (example.prompt, example.harmful) == ("Hello?", False)


@pytest.mark.parametrize("label", [True, False])
def test_rows_without_a_label_take_the_given_one(tmp_path, label):
    rows = [{"prompt": "x", "harmful": None}, {"prompt": "y"}, {"prompt": "z", "harmful": not label}]
    path = write(tmp_path / "p.json", json.dumps(rows))
    assert [e.harmful for e in load_dataset("text", path, harmful=label)] == [label, label, not label]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "hello", r"p\.txt: expected \.csv, \.json, \.jsonl"),
        ("p.csv", "", "has no rows"),
        ("p.csv", "prompt\n", "has no rows"),
        ("p.json", "[]", "has no rows"),
        ("p.csv", "text,n\nx,1\n", "has no column prompt or instruction or question or goal; it has text, n"),
        ("p.csv", 'prompt\nx\n" "\n', "row 2: prompt is missing or empty"),
        ("p.csv", "prompt,harmful\nx,yes\n", "row 1: harmful must be true or false, got 'yes'"),
        ("p.json", "{", r"p\.json is not valid JSON"),
        ("p.json", '{"prompt": "x"}', "is not a list of objects"),
        ("p.json", '["x"]', "is not a list of objects"),
        ("p.jsonl", '{"prompt": "x"}\n{"pro', r"p\.jsonl is not valid JSONL"),
        ("p.jsonl", '"x"\n', "is not a list of objects"),
    ],
)
def test_files_that_do_not_fit_say_what_is_wrong(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        load_dataset("text", write(tmp_path / name, text))


def test_a_column_that_is_not_there_is_named(tmp_path):
    path = write(tmp_path / "p.csv", "prompt\nx\n")
    with pytest.raises(DataError, match="has no column query; it has prompt"):
        load_dataset("text", path, column="query")


def test_text_that_is_not_utf8_is_an_error_and_not_a_traceback(tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes("prompt\nCrème?\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"not UTF-8 text .* at byte 9"):
        load_dataset("text", path)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file at .*gone\.csv; give dataset\.root=FILE"):
        load_dataset("text", tmp_path / "gone.csv")


def test_rows_may_have_images_and_right_answers(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    path = write(tmp_path / "rows.csv", "prompt,image,target\nWhat is this?,images/a.png,a square\nHello.,,\n")
    with_image, plain = load_dataset("text", path)
    assert (with_image.image, with_image.target) == (tmp_path / "images" / "a.png", "a square")
    assert (plain.image, plain.target) == (None, "")
    write(path, "prompt,image\nWhat is this?,images/b.png\n")
    with pytest.raises(DataError, match=r"row 1: no image at .*b\.png"):
        load_dataset("text", path)


def test_the_beginning_of_the_answer_and_what_is_asked_may_stand_in_columns_of_their_own(tmp_path):
    rows = [
        {"prompt": "A game. Say hello.", "instruction": "Say hello.", "prefill": " Sure!\n\n1. "},
        {"prompt": "Say bye.", "prefill": ""},
        {"prompt": "Say no.", "instruction": None, "prefill": "  "},
    ]
    path = write(tmp_path / "p.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    wrapped, plain, blank = load_dataset("text", path)
    assert (wrapped.prompt, wrapped.instruction, wrapped.prefill) == (
        "A game. Say hello.", "Say hello.", " Sure!\n\n1. ",
    )  # fmt: skip
    assert wrapped.messages()[-1] == {"role": "assistant", "content": " Sure!\n\n1. "}
    assert (plain.instruction, plain.prefill) == ("Say bye.", "")
    assert (blank.instruction, blank.prefill) == ("Say no.", "")
    write(path, json.dumps({"prompt": "x", "prefill": 1}) + "\n")
    with pytest.raises(DataError, match="row 1: prefill must be a text"):
        load_dataset("text", path)
