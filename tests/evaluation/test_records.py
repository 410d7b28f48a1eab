"""Records on disk: nothing that was written is lost, and nothing half-written is read."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re

import pytest
from PIL import Image

from helpers import full_disk
from safety_reminder.commands.console import outcome
from safety_reminder.errors import DataError, MessageError
from safety_reminder.evaluation.records import (
    RecordFile,
    from_json,
    image_hash,
    make_record,
    response_from_json,
    to_json,
)
from safety_reminder.types import Check, Example, Intervention, Record, Response

RESPONSE = Response(
    text="Fine — ünïcode,\u2028a separator,\x85 and a\nline",
    token_ids=(5, 6),
    seen_text="Fine",
    checks=(Check(4, 0.25, False, "periodic"),),
    interventions=(Intervention(4, math.nan, "stop", 2),),
    leaked_tokens=1,
    finish_reason="guard",
    tail_start=3,
    prompt_tokens=7,
    seconds=0.5,
)


def record(name: str, *, guard: bool = True) -> Record:
    return make_record(
        Example(name, "Hello?", category="c"), RESPONSE, guard=guard, batch=[name], verdicts={"refusal": "none"}
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.jsonl"


def test_a_record_has_everything_of_its_response():
    made = record("a")
    for field in dataclasses.fields(Response):
        assert getattr(made, field.name) == getattr(RESPONSE, field.name), field.name


# As versions before this one wrote it.
LINE = (
    r'{"id": "a", "prompt": "Hello?", "harmful": true, "category": "c", "image_sha256": null, "prompt_tokens": 7, '
    r'"text": "Fine — ünïcode,\u2028a", "seen_text": "Fine", "token_ids": [5, 6], "checks": [{"token_index": 4, '
    r'"p_unsafe": 0.25, "unsafe": false, "kind": "periodic", "row": 0}, {"token_index": 6, "p_unsafe": null, '
    r'"unsafe": true, "kind": "final", "row": 0}], "interventions": [{"token_index": 4, "p_unsafe": null, '
    r'"policy": "stop", "dropped": 2, "row": 0}], "leaked_tokens": 1, "tail_start": 3, "finish_reason": "guard", '
    r'"seconds": 0.5, "guard": true, "batch": ["a", "b"], "extra_tokens": 0, "verdicts": {"refusal": "none", '
    r'"refusal_position": null, "judges": {"yes_no": {"kind": "harm", "value": null, "votes": {"x": true}}}}}'
).replace(r"\u2028", "\u2028")


def test_a_line_that_was_written_before_is_read_and_written_alike(path):
    path.write_text(LINE + "\n", encoding="utf-8")
    [found] = RecordFile(path).records
    assert found.token_ids == (5, 6)
    assert found.batch == ("a", "b")
    assert found.checks[0] == Check(4, 0.25, False, "periodic")
    assert math.isnan(found.checks[1].p_unsafe)
    assert found.interventions[0].policy == "stop"
    again = path.with_name("again.jsonl")
    RecordFile(again).append(found)
    added = {"instruction": "", "context_sha256": None, "prefill": "", "inert_tokens": 0, "advice": False}  # since then
    assert json.loads(again.read_text("utf-8")) == json.loads(LINE) | added
    assert RecordFile(again).records == [found]


def test_a_record_says_what_was_asked_in_words():
    def made(**fields) -> Record:
        return make_record(Example("a", "See the image.", **fields), RESPONSE, guard=True, batch=["a"], verdicts={})

    assert made().instruction == "See the image."
    assert made(instruction="Name a river.").instruction == "Name a river."


def test_a_response_comes_back_from_its_json():
    made = to_json(RESPONSE)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert repr(response_from_json(made)) == repr(RESPONSE)
    # A log may hold the words that Python writes for what JSON cannot say.
    made["interventions"][0]["p_unsafe"] = math.nan
    assert repr(response_from_json(made)) == repr(RESPONSE)


WRONG = {
    "no 'text'": lambda row: row.pop("text"),
    "unknown 'surprise'": lambda row: row.update(surprise=1),
    "no 'kind', unknown 'sort' at checks[1]": lambda row: row["checks"][1].update(sort=row["checks"][1].pop("kind")),
    "unknown 'x' at interventions[0]": lambda row: row["interventions"][0].update(x=1),
    "harmful is 'yes', not true or false": lambda row: row.update(harmful="yes"),
    "harmful is 1, not true or false": lambda row: row.update(harmful=1),
    "id is 7, not a text": lambda row: row.update(id=7),
    "text is None, not a text": lambda row: row.update(text=None),
    "image_sha256 is 7, not a text": lambda row: row.update(image_sha256=7),
    "token_ids[1] is 'b', not a whole number": lambda row: row.update(token_ids=[1, "b"]),
    "token_ids[0] is True, not a whole number": lambda row: row.update(token_ids=[True]),
    "token_ids is 'ab', not a list": lambda row: row.update(token_ids="ab"),
    "leaked_tokens is 1.5, not a whole number": lambda row: row.update(leaked_tokens=1.5),
    "seconds is None, not a number": lambda row: row.update(seconds=None),
    "seconds is False, not a number": lambda row: row.update(seconds=False),
    "checks[0] is not an object": lambda row: row.update(checks=[3]),
    "checks[0].p_unsafe is 'high', not a number": lambda row: row["checks"][0].update(p_unsafe="high"),
    "seconds is 1000": lambda row: row.update(seconds=10**400),
    "checks[0].p_unsafe is 7, not a number": lambda row: row["checks"][0].update(p_unsafe=7),
    "checks[0].p_unsafe is -0.1, not a number": lambda row: row["checks"][0].update(p_unsafe=-0.1),
    "checks[0].kind is 'odd', not one of prompt, periodic, final": lambda row: row["checks"][0].update(kind="odd"),
    "verdicts is [], not an object": lambda row: row.update(verdicts=[]),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_row_that_is_no_record_is_one_error_with_file_and_line(path, message):
    row = json.loads(LINE)
    WRONG[message](row)
    with pytest.raises(DataError, match=re.escape(message)):
        from_json(row)
    path.write_text(f"{LINE}\n{json.dumps(row | {'id': row['id'] if row['id'] != 'a' else 'b'})}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"records\.jsonl, line 2: .*give another output folder") as caught:
        RecordFile(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_second_record_of_an_example_is_an_error_that_names_line_and_id(path):
    lines = [LINE, LINE.replace('"guard": true', '"guard": false'), LINE.replace('"id": "a"', '"id": "b"')]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert [(r.id, r.guard) for r in RecordFile(path).records] == [("a", True), ("a", False), ("b", True)]
    path.write_text("\n".join([*lines, lines[1]]) + "\n", encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(DataError, match="line 4: a second unguarded record of 'a', which has one on line 2"):
        RecordFile(path)
    assert path.read_bytes() == before


def test_a_second_record_of_an_example_is_not_appended(path):
    file = RecordFile(path)
    file.append(record("a"))
    before = path.read_bytes()
    with pytest.raises(DataError, match="a second guarded record of 'a'"):
        file.append(record("a"))
    assert path.read_bytes() == before
    assert len(file.records) == 1


def test_a_record_that_could_not_be_written_is_not_among_those_that_are_there(path, monkeypatch):
    file = RecordFile(path)
    file.append(record("a"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space"):
            file.append(record("b"))
    assert file.done(guard=True) == {"a"}
    file.append(record("b"))
    assert [r.id for r in RecordFile(path).records] == ["a", "b"]


def test_what_was_appended_is_read_back(path):
    file = RecordFile(path)
    for name in ("a", "b"):
        file.append(record(name))
    again = RecordFile(path)
    assert [repr(r) for r in again.records] == [repr(r) for r in file.records]
    assert len(path.read_text(encoding="utf-8").split("\n")) == 3
    assert math.isnan(again.records[0].interventions[0].p_unsafe)


def test_the_file_is_json_without_words_of_its_own(path):
    def refuse(word):
        raise AssertionError(word)

    RecordFile(path).append(record("a"))
    [line] = path.read_text(encoding="utf-8").split("\n")[:-1]
    assert json.loads(line, parse_constant=refuse)["interventions"][0]["p_unsafe"] is None


def test_an_intervention_without_a_check_can_be_told():
    unchecked = dataclasses.replace(record("a"), checks=())
    assert outcome(unchecked) == "answered; intervened (p_unsafe nan), 1 tokens leaked"


def test_a_last_line_that_was_cut_off_is_dropped_and_written_anew(path):
    file = RecordFile(path)
    file.append(record("a"))
    file.append(record("b"))
    data = path.read_bytes()
    for cut in (1, 5, len(data) // 3):
        path.write_bytes(data[:-cut])
        again = RecordFile(path)
        assert again.done(guard=True) == {"a"}
        again.append(record("b"))
        assert path.read_bytes() == data


def test_a_cut_in_the_middle_of_a_character_is_survived(path):
    file = RecordFile(path)
    file.append(record("a"))
    whole = path.read_bytes()
    file.append(record("b"))
    cut = path.read_bytes().rfind("ü".encode()) + 1
    path.write_bytes(path.read_bytes()[:cut])
    assert [r.id for r in RecordFile(path).records] == ["a"]
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[1, 2]",
        b'{"id": "a"}',
        b"\xff\xfe",
        b"",
        b'{"id":' * 9999,
        b'{"id": "a", "id": "b"}',
        b'"\\ud800"',
    ],
)  # fmt: skip
def test_foreign_lines_are_an_error_that_names_the_line(path, line):
    RecordFile(path).append(record("a"))
    with path.open("ab") as file:
        file.write(line + b"\n")
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"records\.jsonl, line 2: .*give another output folder"):
        RecordFile(path)
    assert path.read_bytes() == before


def test_records_of_another_version_are_an_error(path):
    row = to_json(record("a")) | {"surprise": 1}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="not a record of this version"):
        RecordFile(path)


def test_guarded_and_unguarded_records_are_told_apart(path):
    file = RecordFile(path)
    file.append(record("a", guard=True))
    file.append(record("b", guard=False))
    assert (file.done(guard=True), file.done(guard=False)) == ({"a"}, {"b"})


def test_the_image_hash_tells_images_apart(tmp_path):
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    red.save(tmp_path / "red.png")
    assert image_hash(None) is None
    assert image_hash(red) == image_hash(red.copy()) != image_hash(blue)
    assert len(image_hash(tmp_path / "red.png") or "") == 64


def test_an_unreadable_image_is_named(tmp_path):
    with pytest.raises(MessageError, match=r"gone\.png"):
        image_hash(tmp_path / "gone.png")
