"""The command's work: a folder with a table, a summary and figures, which can be finished later."""

from __future__ import annotations

import builtins
import csv
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from checkpoints import random_reminder
from safety_reminder.commands.awareness import COMMAND, AwarenessJob, awareness
from safety_reminder.commands.composing import compose
from safety_reminder.errors import ConfigError, DataError, MissingExtraError
from safety_reminder.evaluation import runner as running
from safety_reminder.models.tiny import tiny_checkpoint
from safety_reminder.run_files import LOCK

pytestmark = pytest.mark.plots


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_checkpoint("llama", folder / "llama")
    replace(random_reminder(), interval=4).save_pretrained(folder / "pack")
    rows = ["id,prompt,harmful", "a,Hello?,false", "b,Filler?,true", "c,More filler?,true"]
    (folder / "prompts.csv").write_text("\n".join(rows) + "\n")
    return folder


def job_of(place: Path, output: Path, *overrides: str) -> AwarenessJob:
    """As the command line composes it."""
    options = [
        f"model={place}/llama", f"reminder={place}/pack", "dataset=text", f"dataset.root={place}/prompts.csv",
        "generation.max_new_tokens=22", "device=cpu", f"output={output}", *overrides,
    ]  # fmt: skip
    return compose(COMMAND, options)


@pytest.fixture(scope="module")
def written(place, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("run") / "awareness"
    awareness(job_of(place, output), output)
    return output


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / "awareness.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_records_a_table_a_summary_and_figures(written):
    names = {path.name for path in written.iterdir()}
    assert names == {
        "config.json", "records.jsonl", "awareness.csv", "summary.json", "awareness.png", "awareness.svg", LOCK,
    }  # fmt: skip
    with Image.open(written / "awareness.png") as image:
        assert image.width > 1000
    assert ElementTree.parse(written / "awareness.svg").getroot().tag.endswith("svg")


def test_the_table_has_a_row_for_each_answer_and_depth(written):
    records = [json.loads(line) for line in (written / "records.jsonl").read_text().splitlines()]
    unguarded = {record["id"]: record for record in records if not record["guard"]}
    assert {record["id"] for record in records if record["guard"]} == {"a", "b", "c"}
    rows = rows_of(written)
    for name, record in unguarded.items():
        ended = record["finish_reason"] == "stop"
        depths = list(range(0, len(record["token_ids"]) - ended + 1, 4))
        assert [int(row["depth"]) for row in rows if row["id"] == name] == depths
    assert {row["id"] for row in rows} == set(unguarded)
    assert all(0 <= float(row["p_unsafe"]) <= 1 and float(row["log_p_refusal"]) < 0 for row in rows)
    assert {row["harmful"] for row in rows if row["id"] == "a"} == {"False"}


def test_the_summary_s_curves_are_those_of_the_table(written):
    summary = json.loads((written / "summary.json").read_text())
    assert set(summary) == {"metrics", "self_correction_tokens", "curves", "config", "provenance"}
    assert summary["config"]["step"] == 4
    assert set(summary["metrics"]["attack_success_rate_unguarded"]) == {"value", "low", "high", "n"}
    rows = rows_of(written)
    for measure, kinds in summary["curves"].items():
        for kind, points in kinds.items():
            for point in points:
                here = [
                    float(row[measure]) for row in rows
                    if row["harmful"] == str(kind == "harmful") and int(row["depth"]) == point["depth"] and row[measure]
                ]  # fmt: skip
                assert point["n"] == len(here)
                assert point["value"] == pytest.approx(sum(here) / len(here), rel=1e-4)
    assert {kind: points[0]["n"] for kind, points in summary["curves"]["p_unsafe"].items()} == {
        "harmful": 2, "harmless": 1
    }  # fmt: skip


def test_a_run_that_broke_off_goes_on_and_ends_the_same(place, written, tmp_path, monkeypatch):
    output = tmp_path / "run"
    made = running.make_record
    count = 0

    def break_off(*arguments, **options):
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return made(*arguments, **options)

    monkeypatch.setattr(running, "make_record", break_off)
    with pytest.raises(KeyboardInterrupt):
        awareness(job_of(place, output, "batch_size=1"), output)
    assert not (output / "awareness.csv").exists()
    awareness(job_of(place, output, "batch_size=2"), output)
    assert count == 1 + 6
    assert [row["id"] for row in rows_of(output)] == [row["id"] for row in rows_of(written)]
    for ours, theirs in zip(rows_of(output), rows_of(written), strict=True):
        assert float(ours["p_unsafe"]) == pytest.approx(float(theirs["p_unsafe"]), abs=1e-4)


def test_another_step_is_measured_on_the_same_answers(place, written, tmp_path, monkeypatch):
    before = (written / "records.jsonl").read_bytes()
    try:
        awareness(job_of(place, written, "step=11", "rows=3"), written)
        assert {int(row["depth"]) for row in rows_of(written)} <= {0, 11, 22}
        assert (written / "records.jsonl").read_bytes() == before
    finally:
        awareness(job_of(place, written), written)


@pytest.mark.parametrize("override", ["step=0", "step=1.5", "step=true", "rows=0", "rows=null"])
def test_numbers_that_are_none_are_named(place, tmp_path, override):
    with pytest.raises(ConfigError, match=r"(step|rows) must be (a whole number|at least 1), got"):
        job_of(place, tmp_path, override)


def test_without_a_reminder_there_is_nothing_to_read(place, tmp_path):
    with pytest.raises(ConfigError, match="give reminder=NAME or a folder"):
        job_of(place, tmp_path, "reminder=none")


def test_a_data_set_without_rows_is_an_error(place, tmp_path):
    (tmp_path / "none.csv").write_text("prompt\n")
    with pytest.raises(DataError):
        awareness(job_of(place, tmp_path / "run", f"dataset.root={tmp_path}/none.csv"), tmp_path / "run")
    assert not (tmp_path / "run/summary.json").exists()


def test_without_matplotlib_the_install_command_is_given_before_anything_is_spent(place, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'safety-reminder\[train\]'"):
        awareness(job_of(place, tmp_path / "run"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
