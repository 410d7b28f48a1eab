"""What commands import, and when: help waits for nothing, and a mistake for nothing that takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from safety_reminder.cli import ANALYSES, COMMANDS
from safety_reminder.models.tiny import tiny_checkpoint

CALL = """
import json, sys
from safety_reminder import cli
watched = json.loads(sys.argv[1])
for line in json.loads(sys.argv[2]):
    sys.argv = ["safety-reminder", *line]
    try:
        cli.main()
    except SystemExit:
        pass
    found = [name for name in watched if name in sys.modules]
    print(json.dumps(["imported", line, found]))
"""
HEAVY = ["torch", "transformers", "datasets", "numpy", "sklearn", "scipy", "inspect_ai", "accelerate", "openai"]


def imported(lines: list[list[str]], watched: list[str], folder: Path) -> dict[str, list[str]]:
    """Which of the watched modules are there after each of the command lines, called one after the other."""
    words = [sys.executable, "-c", CALL, json.dumps(watched), json.dumps(lines)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["imported"')]
    assert len(told) == len(lines)
    return {" ".join(line): found for _, line, found in told}


def test_help_and_the_version_are_there_at_once(tmp_path):
    watched = [*HEAVY, "hydra", "pydantic", "PIL"]
    found = imported([["--version"], ["--help"], ["analyze"], ["pocket", "--help"]], watched, tmp_path)
    assert not any(found.values()), found


def test_a_command_s_help_waits_for_neither_torch_nor_hydra(tmp_path):
    names = [name for name in COMMANDS if name != "analyze"]
    lines = [[name, "--help"] for name in names] + [["analyze", name, "--help"] for name in ANALYSES]
    assert len(lines) == 14
    found = imported(lines, [*HEAVY, "hydra", "omegaconf", "matplotlib"], tmp_path)
    assert not any(found.values()), found


def test_a_mistake_is_found_before_torch_is_imported(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "safe": True, "chosen": "b"}) + "\n")
    (tmp_path / "half").mkdir()
    lines = [
        ["generate", "modle=x"],
        ["generate", "guard.interval=0"],
        ["generate", "dataset=text", "dataset.root=gone.csv"],
        ["generate", "dataset.limit=1", "reminder=./gone"],
        ["generate", "dataset.limit=1", "model=./gone"],
        ["demo", "dataset.limit=1", "reminder=./gone"],
        ["train", "data=gone.jsonl"],
        ["train", "data=rows.jsonl", "training.epochs=0"],
        ["probe", "data=gone.jsonl"],
        ["calibrate", "data=rows.jsonl", "reminder=./gone"],
        ["dro", "data=gone.jsonl"],
        ["evaluate", "suite=quik"],
        ["evaluate", "suite=full", "root=gone"],
        ["evaluate", "limit=1", "reminder=./gone"],
        ["judge-check", "data=gone.csv"],
        ["judge-check", "data=rows.jsonl", "judge=md_judge", "+judge_options.model=./gone"],
        ["make-rows", "requests=gone.csv"],
        ["make-rows", "wrappers=[bare,storey]"],
        ["make-rows", "model=./gone"],
        ["attack", "attack=prefill", "dataset.limit=1", "reminder=./gone"],
        ["generate", "dataset.limit=1", "reminder=./half"],
    ]
    found = imported(lines, HEAVY, tmp_path)
    assert not any(found.values()), found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "rows.jsonl"]


@pytest.mark.slow
def test_answering_imports_nothing_that_trains_or_evaluates(tmp_path):
    tiny_checkpoint("llama", tmp_path / "model")
    (tmp_path / "prompts.csv").write_text("prompt\nHello?\n")
    line = "generate model=model reminder=none dataset=text dataset.root=prompts.csv generation.max_new_tokens=2"
    # accelerate is not watched: transformers imports it as it loads a model.
    watched = ["sklearn", "matplotlib", "inspect_ai", "openai", "krippendorff", "tensorboard", "datasets"]
    ours = [
        "training",
        "analysis",
        "defenses",
        "engines",
        "evaluation.inspect",
        "evaluation.judges",
        "evaluation.suite",
    ]
    watched += [f"safety_reminder.{name}" for name in ours]
    found = imported([[*line.split(), "device=cpu", "output=run"]], watched, tmp_path)
    assert (tmp_path / "run/summary.json").is_file()
    assert not any(found.values()), found


def test_warnings_go_to_stderr_as_they_are(tmp_path):
    """Also after Hydra's own runner, which has a logger of its own."""
    script = CALL + "\nimport logging; logging.getLogger('safety_reminder.anything').warning('left out: 3')"
    line = ["generate", "--multirun", "dataset=text", "dataset.root=gone.csv,missing.csv", "output=s"]
    words = [sys.executable, "-c", script, "[]", json.dumps([line])]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("\nleft out: 3\n")
    assert "HYDRA" not in done.stdout + done.stderr
    assert done.stderr.count("no file at") == 2
