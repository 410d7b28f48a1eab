"""Files whole or not at all, and where a run comes from."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
from contextlib import contextmanager
from dataclasses import asdict

import pytest

from helpers import full_disk
from safety_reminder import run_files
from safety_reminder.config import GuardConfig
from safety_reminder.errors import in_a_line
from safety_reminder.run_files import (
    append_lines,
    differing,
    provenance,
    run_folder,
    whole_lines,
    write_json,
    write_text,
)


@contextmanager
def room_for(bytes_: int):
    """Files of this process may not grow beyond so many bytes: the system stops in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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


def test_a_full_disk_leaves_the_old_file_and_no_scratch_and_names_the_file(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"n": 1})
    with room_for(100), pytest.raises(OSError, match=r"summary\.json") as caught:
        write_text(path, "x" * 1000)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert json.loads(path.read_text()) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_a_disk_that_is_full_only_at_the_end_is_told_of_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"No space left on device: .*summary\.json"):
        write_json(tmp_path / "summary.json", {"n": 1})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_may_not_be_written_names_the_file_and_not_a_scratch_file(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / ".summary.json-abc"))

    monkeypatch.setattr(run_files.tempfile, "mkstemp", refuse)
    with pytest.raises(PermissionError) as caught:
        write_json(tmp_path / "summary.json", {"n": 1})
    assert caught.value.filename == str(tmp_path / "summary.json")


def test_lines_that_do_not_fit_are_not_there_in_part(tmp_path):
    path = tmp_path / "records.jsonl"
    append_lines(path, [{"n": 1}])
    before = path.read_bytes()
    with room_for(100), pytest.raises(OSError, match=r"records\.jsonl") as caught:
        append_lines(path, [{"text": "x" * 50}, {"text": "y" * 500}])
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    append_lines(path, [{"n": 2}])
    assert [json.loads(line) for line in whole_lines(path)] == [{"n": 1}, {"n": 2}]


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


def test_a_full_disk_that_the_system_does_not_name_is_that_of_the_run(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, run_folder(tmp_path / "run"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert in_a_line(caught.value) == f"{tmp_path / 'run'}: No space left on device"
    with pytest.raises(FileNotFoundError) as caught, run_folder(tmp_path / "run"):
        (tmp_path / "gone").read_text()
    assert in_a_line(caught.value) == f"{tmp_path / 'gone'}: No such file or directory"


def test_what_differs_is_named_and_a_null_is_as_good_as_none():
    before = {"model": "a", "guard": {"interval": 4, "deep": {"x": None}}, "rows": [1, None]}
    assert differing(before, before) == []
    assert differing({**before, "seed": None, "guard": {"interval": 4, "threshold": None, "deep": {}}}, before) == []
    assert differing({**before, "seed": 0}, before) == ["seed"]
    assert differing(before, {"model": "a"}) == ["guard", "rows"]
    assert differing({**before, "rows": [1]}, before) == ["rows"]
    assert differing({**before, "guard": {"interval": 5}}, before) == ["guard"]


def test_a_run_from_before_an_option_goes_on_unless_the_option_is_used():
    now = asdict(GuardConfig())
    newer = {"prompt_threshold", "image_threshold", "hold_back_checks"}  # than the first run folders
    before = {name: value for name, value in now.items() if name not in newer}
    assert differing({"guard": now}, {"guard": before}) == []
    for name, value in {"prompt_threshold": 0.5, "image_threshold": 0.5, "hold_back_checks": 2}.items():
        assert differing({"guard": now | {name: value}}, {"guard": before}) == ["guard"]
