"""The commands that train, fit and calibrate, and what is tested with what they made."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import contents
from safety_reminder.commands import dro
from safety_reminder.defenses import load_defense
from safety_reminder.guard import load
from safety_reminder.types import Request, Sampling


@pytest.fixture
def training(models, place) -> list[str]:
    rows = [{"prompt": f"Good {i}?", "safe": True, "chosen": "kk" * (i % 3 + 1)} for i in range(16)]
    rows += [{"prompt": f"Bad {i}?", "safe": False, "chosen": "N", "rejected": "zzz" * (i % 3 + 1)} for i in range(16)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"model={models}/llama", "data=rows.jsonl", "device=cpu"]


SPLITS = ["training.validation=0.15", "training.calibration=0.2", "training.test=0.2"]


def test_a_reminder_is_trained_its_probe_fitted_anew_and_its_threshold_set(call, training, place, caplog):
    outcome = call("train", *training, *SPLITS, "training.epochs=1", "training.interval=2", "output=run")
    assert outcome.code == 0, outcome.err
    assert "loading rows: rows.jsonl" in outcome.out
    assert "rows: training 16 (8 harmful, 8 harmless), validation 4 (2 harmful, 2 harmless)" in outcome.out
    assert re.search(r"\n  harmful, after 0 +\d+\.\d %  \[.*\] +n = 3\n", outcome.out)
    assert "warning: at the bare prompt, where policy=rewind begins anew, the reminder turns" in outcome.out
    assert re.search(r"training: 100%.*left=0 s", outcome.err)
    assert re.search(r"wrote run/pack: AUC of the probe on test rows \d\.\d{3}", outcome.out)
    assert "it takes 199 safe responses; there were 3" in outcome.out
    made = {"checkpoint.pt", "losses.csv", "splits.json", "pack/config.json", "summary.json", "auc.csv", "roc.png"}
    assert made <= set(contents(place / "run"))
    summary = json.loads((place / "run/summary.json").read_text())
    assert summary["metrics"]["probe_auc"]["low"] <= summary["metrics"]["probe_auc"]["value"]
    assert summary["config"]["training"]["interval"] == 2
    assert {"turned_harmful", "turned_harmless_after_0_tokens"} <= summary["metrics"].keys()

    outcome = call("probe", *training, *SPLITS, "reminder=run/pack", "training.rivals=true", "output=probe")
    assert outcome.code == 0, outcome.err
    header = next(line for line in outcome.out.splitlines() if line.startswith("AUC"))
    assert header.split()[-3:] == ["reminder", "header", "last"]
    assert {"auc.csv", "roc.png", "pca.png", "pack/config.json"} <= set(contents(place / "probe"))

    outcome = call("calibrate", *training, "reminder=probe/pack", "false_alarm_budget=0.2", "output=calibrated")
    assert outcome.code == 0, outcome.err
    assert "left out: 10 responses that the reminder was trained on" in caplog.text
    assert "from 6 safe responses" in outcome.out
    calibration = json.loads((place / "calibrated/pack/config.json").read_text())["calibration"]
    assert (calibration["n"], calibration["budget"], calibration["rows"]) == (6, 0.2, "given")


def test_an_option_of_a_loader_is_given_as_its_error_says(call, place):
    (place / "pairs.csv").write_text("question,reply,label\nq1,Yes.,1\nq2,Fine.,0\n")
    command = ("train", "model=./missing", "data=pairs", "data.root=pairs.csv", "output=run")
    assert "name the columns, as +data.options.answer=COLUMN" in call(*command).error
    error = call(*command, "+data.options.answer=reply").error  # of the model, which comes after the rows
    assert "missing" in error
    assert "data.options" not in error


@pytest.mark.slow
def test_a_soft_safety_prompt_is_trained_and_defends(call, training, place, models, monkeypatch):
    model, data = training[:2]
    outcome = call("dro", model, data, "output=dro")
    assert "the model refuses none of these requests" in outcome.error

    verdicts = itertools.cycle([True, False])
    monkeypatch.setattr(dro, "refuses", lambda text: next(verdicts))
    outcome = call("dro", model, data, "output=dro", "training.epochs=2", "training.components=2")
    assert outcome.code == 0, outcome.err
    assert "refused without a safety prompt: " in outcome.out
    assert {"losses.csv", "prompt/config.json", "prompt/prompt.safetensors", "summary.json"} <= set(
        contents(place / "dro")
    )
    guarded = load(str(models / "llama"))
    defense = load_defense("dro", guarded, prompt=str(place / "dro" / "prompt"))
    [response] = defense.respond([Request([{"role": "user", "content": "Hello?"}], Sampling(max_new_tokens=3))])
    assert 0 < len(response.token_ids) <= 3


@pytest.mark.slow
def test_an_ablation_is_one_sweep_and_one_table(call, training, place):
    options = [*training, *SPLITS, "training.epochs=1", "training.rivals=true", "test_on=[text:prompts.csv]"]
    outcome = call(
        "train", "-m", *options, "test.max_new_tokens=3", "variant=k1,interval8", "training.seed=0,1", "output=a"
    )
    assert outcome.code == 0, outcome.err
    summaries = {path.parent.name: json.loads(path.read_text()) for path in (place / "a").glob("*/summary.json")}
    assert len(summaries) == 4
    for name, summary in summaries.items():
        assert summary["config"]["training"]["k"] == (1 if "k1" in name else 4)
        assert {"attack_success_rate", "false_alarm_rate", "probe_auc", "header_probe_auc"} <= set(summary["metrics"])
    script = Path(__file__).parents[2] / "benchmarks/ablation.py"
    table = subprocess.run([sys.executable, script, "--runs", "a"], capture_output=True, text=True, timeout=120)
    assert table.returncode == 0, table.stderr
    lines = table.stdout.splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["variant", "---", "interval8", "k1"]
    assert "attack success" in lines[0]
    assert re.search(r"\d\.\d{3} ± \d\.\d{3}", lines[2])


def test_training_does_not_start_on_rows_that_are_evaluated_on(call, training, place):
    (place / "benchmark.csv").write_text("prompt\nBad 3\n")
    options = [*training, *SPLITS, "training.epochs=1", "check_against=[text:benchmark.csv]", "output=run"]
    assert "1 of 32 training rows are also in text:benchmark.csv" in call("train", *options).error
    assert not (place / "run").exists()
    assert call("train", *options, "allow_contamination=true").code == 0
    made = {"summary": json.loads((place / "run/summary.json").read_text())["config"]["origin"]}
    made["pack"] = json.loads((place / "run/pack/config.json").read_text())["training"]["origin"]
    for origin in made.values():
        assert origin["check_against"] == ["text:benchmark.csv"]
        assert origin["allow_contamination"] is True
    assert "check_against needs NAME:FOLDER" in call("train", *training, "check_against=[figstep]").error


def test_of_several_processes_one_answers_what_the_reminder_is_tested_on(call, training, place, monkeypatch):
    monkeypatch.setattr("safety_reminder.commands.train.is_main_process", lambda: False)
    outcome = call("train", *training, *SPLITS, "training.epochs=1", "test_on=[text:prompts.csv]", "output=run")
    assert outcome.code == 0, outcome.err
    assert not (place / "run/answers").exists()
    assert "wrote" not in outcome.out


def test_an_evaluation_set_to_check_against_takes_its_options(call, training, place):
    (place / "benchmark.csv").write_text("prompt\nBad 3\nBad 4\n")
    options = [*training, *SPLITS, "output=run", "check_against=['text:benchmark.csv:limit=1:seed=0']"]
    assert "1 of 32 training rows are also in text:benchmark.csv:limit=1:seed=0" in call("train", *options).error
    wrong = call("train", *training, "check_against=['text:benchmark.csv:limt=1']").error
    assert "limt" in wrong
    twice = call("train", *training, "check_against=['text:benchmark.csv:root=x']").error
    assert "gives name or root twice" in twice
    broken = call("train", *training, "check_against=['text:benchmark.csv:seed=[1']").error
    assert "is not a value" in broken
