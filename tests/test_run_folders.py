"""Run folders: nothing of somebody else's is written over, and one writer at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from checkpoints import random_reminder
from safety_reminder import run_files
from safety_reminder.errors import ConfigError
from safety_reminder.evaluation.runner import open_run
from safety_reminder.models.tiny import tiny_checkpoint
from safety_reminder.run_files import (
    LOCK,
    claim_folder,
    run_folder,
)


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def pack(place: Path) -> Path:
    return random_reminder().save_pretrained(place)


def soft_prompt(place: Path) -> Path:
    return write(place, {"config.json": '{"format": 1, "text": "", "fingerprint": {}}', "prompt.safetensors": ""})


def model(place: Path) -> Path:
    tiny_checkpoint("llama", place)
    return place


def model_card_only(place: Path) -> Path:
    return write(place, {"config.json": '{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}'})


def somebody_s_config(place: Path) -> Path:
    return write(place, {"config.json": '{"theme": "dark"}'})


def dataset(place: Path) -> Path:
    return write(place, {"question/safebench.csv": "id\n", "images/a.png": ""})


def prompts(place: Path) -> Path:
    return write(place, {"prompts.csv": "prompt\nHello?\n"})


def checkout(place: Path) -> Path:
    subprocess.run(["git", "init", "-q", place], check=True)
    return place


def another_trainer(place: Path) -> Path:
    return write(place, {"losses.csv": "step,loss\n1,2\n", "checkpoint.pt": "", "summary.json": '{"metrics": {}}'})


def shared_packs(place: Path) -> Path:
    pack(place / "pack")
    return place


def other_lines(place: Path) -> Path:
    return write(place, {"records.jsonl": '{"id": 1, "name": "x"}\n', "results.json": "[1]", "splits.json": "{"})


def hidden_file(place: Path) -> Path:
    return write(place, {".env": "x"})


FOREIGN = [
    pack, soft_prompt, model, model_card_only, somebody_s_config, dataset, prompts, checkout, another_trainer,
    shared_packs, other_lines, hidden_file,
]  # fmt: skip


@pytest.mark.parametrize("make", FOREIGN)
@pytest.mark.parametrize("use", [claim_folder, lambda folder: open_run(folder, {"model": "tiny"})])
def test_a_folder_that_is_not_a_run_s_is_left_as_it_is(tmp_path, make, use):
    place = make(tmp_path / "place")
    before = contents(place)
    with pytest.raises(ConfigError, match="give another output=DIR") as caught:
        use(place)
    assert str(place) in str(caught.value)
    assert contents(place) == before


@pytest.mark.parametrize("make", [pack, soft_prompt, model])
def test_a_mark_does_not_make_a_pack_or_a_model_a_run(tmp_path, make):
    """It may have been copied into a folder that was a run's."""
    claim_folder(tmp_path / "place")
    place = make(tmp_path / "place")
    with pytest.raises(ConfigError, match=r"holds a .* \(config\.json\), not a run"):
        claim_folder(place)


@pytest.mark.parametrize("name", ["", "  ", ".", "./"])
def test_no_name_is_not_the_current_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for output in (name, Path(name)) if name.strip() else (name,):
        with pytest.raises(ConfigError, match="output names no folder"):
            claim_folder(output)
    assert not list(tmp_path.iterdir())


def test_the_current_folder_by_its_path_is_as_good_as_any(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert claim_folder(tmp_path) == tmp_path
    write(tmp_path, {"records.jsonl": ""})
    assert claim_folder(str(tmp_path)) == tmp_path


def test_the_home_folder_can_be_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert claim_folder("~/runs/a") == tmp_path / "runs" / "a"
    assert (tmp_path / "runs" / "a").is_dir()


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ConfigError, match="file is a file, not a folder"):
        claim_folder(file)
    with pytest.raises(ConfigError, match=r"cannot be made, since .*file.* is no folder"):
        claim_folder(file / "below" / "it")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match="link is a link to nothing"):
        claim_folder(tmp_path / "link")
    assert file.read_text() == "x"
    assert not (tmp_path / "gone").exists()


RUN_CONFIG = json.dumps({"model": "m", "weights": "w", "reminder_digest": None})
ROW = json.dumps({"id": "a", "seen_text": "x", "checks": []}) + "\n"
WITH_PROVENANCE = json.dumps({"metrics": {}, "provenance": {"safety-reminder": "0.1.0"}})
SPLITS = json.dumps({"training": [], "validation": [], "calibration": [], "test": []})
# By command, what it left before run folders were marked: when it was done, and where it was killed.
EARLIER = {
    "generate, killed before its first answer": {"config.json": RUN_CONFIG},
    "generate, of the first versions": {"config.json": json.dumps({"model": "m", "reminder": "r", "output": "o"})},
    "generate": {"config.json": RUN_CONFIG, "records.jsonl": ROW, "summary.json": WITH_PROVENANCE, "notes.md": "mine"},
    "generate, with its configuration lost": {"records.jsonl": ROW},
    "generate, with its configuration damaged": {"config.json": "{", "records.jsonl": ROW},
    "demo": {"config.json": RUN_CONFIG, "records.jsonl": ROW, "demo.html": ""},
    "train, killed": {"splits.json": SPLITS, "losses.csv": "step\n"},
    "train": {
        "checkpoint.pt": "", "losses.csv": "step,loss,language,probe,kl\n", "pack/config.json": '{"fingerprint": {}}',
        "tensorboard/events": "", "answers/config.json": RUN_CONFIG,
    },
    "calibrate": {"pack/config.json": '{"fingerprint": {}}', "summary.json": WITH_PROVENANCE},
    "probe, killed": {"auc.csv": "probe,by,of,auc\n", "roc.png": ""},
    "dro": {"losses.csv": "step,loss\n", "prompt/config.json": '{"fingerprint": {}}', "summary.json": WITH_PROVENANCE},
    "evaluate": {"config.json": RUN_CONFIG, "logs/x.eval": "", "results.json": WITH_PROVENANCE, "report.html": ""},
    "judge-check, killed": {"verdicts.jsonl": '{"key": "k", "unsafe": true, "score": 1, "label": "x", "raw": "x"}\n'},
    "judge-check": {"verdicts.jsonl": "", "results.json": WITH_PROVENANCE},
    "awareness": {"awareness.csv": "id,harmful,tokens,engaged,correction,depth,p_unsafe\n", "awareness.png": ""},
    "a sweep": {"a=1/config.json": RUN_CONFIG, "a=2/config.json": RUN_CONFIG, "multirun.yaml": ""},
    "nothing yet": {".gitignore": "*"},
}  # fmt: skip


@pytest.mark.parametrize("files", EARLIER.values(), ids=EARLIER)
def test_what_earlier_versions_left_is_a_run_s_folder(tmp_path, files):
    write(tmp_path / "run", files)
    before = contents(tmp_path / "run")
    claim_folder(tmp_path / "run")
    assert contents(tmp_path / "run") == before | {LOCK: b""}
    claim_folder(tmp_path / "run")


def test_a_new_folder_is_a_run_s_from_the_start(tmp_path):
    with run_folder(tmp_path / "a" / "b") as folder:
        assert folder == tmp_path / "a" / "b"
        write(folder, {"anything": "x"})
    with run_folder(folder):
        pass
    (tmp_path / "link").symlink_to(folder)
    assert claim_folder(tmp_path / "link") == tmp_path / "link"


def test_what_is_read_is_never_written_over(tmp_path):
    with run_folder(tmp_path / "run") as run:
        mine = pack(run / "pack")
        prompt = soft_prompt(run / "prompt")
    link = tmp_path / "link"
    link.symlink_to(mine)
    linked = tmp_path / "linked"
    linked.symlink_to(run)
    before = contents(run)
    for read in (run, str(run), mine, prompt, link, tmp_path / "run" / ".." / "run" / "pack", mine / "config.json"):
        for output in (run, linked, str(run) + "/"):
            with pytest.raises(ConfigError, match=r"what the run reads, .*give another output=DIR"):
                claim_folder(output, reads=["pocket", read])
    assert contents(run) == before
    # Anything else may be read, and what is no path does not matter.
    other = pack(tmp_path / "other")
    assert claim_folder(run, reads=[other, "pocket", "org/name", None, "", tmp_path / "gone", run / "records.jsonl"])


def test_a_run_in_the_folder_of_the_pack_it_reads_is_refused(tmp_path):
    place = pack(tmp_path / "place")
    with pytest.raises(ConfigError, match="place is what the run reads"):
        claim_folder(place, reads=[place])
    relative = os.path.relpath(place)
    with pytest.raises(ConfigError, match="is what the run reads"):
        claim_folder(place, reads=[relative])


@pytest.mark.parametrize("name", ["pack", "prompt"])
def test_a_pack_is_not_written_through_a_link(tmp_path, name):
    elsewhere = pack(tmp_path / "elsewhere")
    run = claim_folder(tmp_path / "run")
    (run / name).symlink_to(elsewhere)
    before = contents(elsewhere)
    with pytest.raises(ConfigError, match=rf"{name} is a link to .*elsewhere.*remove the link"):
        claim_folder(run)
    with pytest.raises(ConfigError, match="is what the run reads"):
        claim_folder(run, reads=[elsewhere])
    assert contents(elsewhere) == before


WRITER = """
import sys, time
from safety_reminder.run_files import run_folder
with run_folder(sys.argv[1]):
    print("writing", flush=True)
    time.sleep(60)
"""


@contextmanager
def writer(folder: Path):
    """Another process that writes to ``folder``."""
    source = str(Path(run_files.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": source},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "writing\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_run_folder_has_one_writer_and_a_killed_one_leaves_no_lock(tmp_path):
    taken = r"another run is writing to .*/run; .*give another output=DIR"
    with writer(tmp_path / "run") as process:
        with pytest.raises(ConfigError, match=taken), run_folder(tmp_path / "run"):
            pass
        with run_folder(tmp_path / "other"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with run_folder(tmp_path / "run"):
            pass


def test_the_lock_is_held_to_the_end_and_not_longer(tmp_path):
    with run_folder(tmp_path / "run"):
        with pytest.raises(ConfigError, match="another run is writing"), run_folder(tmp_path / "run"):
            pass
        with run_folder(tmp_path / "run" / "answers"):  # a run's own part
            pass
        # Its own records are no second writer.
        open_run(tmp_path / "run", {"model": "tiny"})
    with pytest.raises(KeyError), run_folder(tmp_path / "run"):
        raise KeyError
    with run_folder(tmp_path / "run"):
        pass


def test_where_nothing_can_be_locked_that_is_said(tmp_path, monkeypatch, caplog):
    class Unsupported:
        def __init__(self, *_, **__): ...

        def acquire(self):
            raise NotImplementedError

        def release(self): ...

    monkeypatch.setattr(run_files, "FileLock", Unsupported)
    with run_folder(tmp_path / "run"):
        pass
    assert "let only one run write to it" in caplog.text
