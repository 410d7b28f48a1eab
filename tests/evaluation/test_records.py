"""Records on disk: nothing that was written is lost, and nothing half-written is read."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess

import pytest
from PIL import Image

from safety_reminder import run_files
from safety_reminder.commands.console import outcome
from safety_reminder.errors import DataError, MessageError
from safety_reminder.evaluation.records import RecordFile, image_hash, make_record
from safety_reminder.run_files import provenance, write_json, write_text
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
    made = record("a").as_json()
    for field in dataclasses.fields(Response):
        stored, original = made[field.name], getattr(RESPONSE, field.name)
        if field.name in ("checks", "interventions"):
            original = [dataclasses.asdict(item) for item in original]
        assert stored == (list(original) if isinstance(original, tuple) else original), field.name


def test_what_was_appended_is_read_back(path):
    file = RecordFile(path)
    for name in ("a", "b"):
        file.append(record(name))
    again = RecordFile(path)
    assert [repr(r) for r in again.records] == [repr(r) for r in file.records]
    assert len(path.read_text(encoding="utf-8").split("\n")) == 3
    assert math.isnan(again.records[0].interventions[0]["p_unsafe"])


def test_the_file_is_json_without_words_of_its_own(path):
    def refuse(word):
        raise AssertionError(word)

    RecordFile(path).append(record("a"))
    [line] = path.read_text(encoding="utf-8").split("\n")[:-1]
    assert json.loads(line, parse_constant=refuse)["interventions"][0]["p_unsafe"] is None


def test_an_intervention_without_a_check_can_be_told():
    unchecked = dataclasses.replace(record("a"), checks=[])
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
    [b"not json", b"[1, 2]", b'{"id": "a"}', b"\xff\xfe", b""],
)
def test_foreign_lines_are_an_error_that_names_the_line(path, line):
    RecordFile(path).append(record("a"))
    with path.open("ab") as file:
        file.write(line + b"\n")
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"records\.jsonl, line 2: .*give another output folder"):
        RecordFile(path)
    assert path.read_bytes() == before


def test_records_of_another_version_are_an_error(path):
    row = record("a").as_json() | {"surprise": 1}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="not a record of this version"):
        RecordFile(path)


def test_guarded_and_unguarded_records_are_told_apart(path):
    file = RecordFile(path)
    file.append(record("a", guard=True))
    file.append(record("b", guard=False))
    assert (file.done(guard=True), file.done(guard=False)) == ({"a"}, {"b"})


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, {"n": 1})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"n": 2})
    assert json.loads(path.read_text()) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_files_can_be_read_by_others(tmp_path):
    write_text(tmp_path / "new" / "page.html", "é")
    assert (tmp_path / "new" / "page.html").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == "é"


def test_the_image_hash_tells_images_apart(tmp_path):
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    red.save(tmp_path / "red.png")
    assert image_hash(None) is None
    assert image_hash(red) == image_hash(red.copy()) != image_hash(blue)
    assert len(image_hash(tmp_path / "red.png")) == 64


def test_an_unreadable_image_is_named(tmp_path):
    with pytest.raises(MessageError, match=r"gone\.png"):
        image_hash(tmp_path / "gone.png")


def test_provenance_names_versions():
    found = provenance()
    assert {"python", "torch", "transformers", "safety-reminder", "git_revision"} <= set(found)
    json.dumps(found)


@pytest.mark.parametrize("tracked", [True, False])
def test_of_a_package_installed_in_somebody_s_repository_there_is_no_revision(tmp_path, monkeypatch, tracked):
    git = lambda *words: subprocess.run(  # noqa: E731
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True, capture_output=True
    )
    git("init")
    (tmp_path / "run_files.py").write_text("")
    (tmp_path / "theirs.py").write_text("")
    git("add", *(["run_files.py"] if tracked else ["theirs.py"]))
    git("commit", "-m", "theirs")
    monkeypatch.setattr(run_files, "__file__", str(tmp_path / "run_files.py"))
    assert (provenance()["git_revision"] is not None) is tracked
