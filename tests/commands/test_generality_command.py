"""``safety-reminder generality``, on a tiny model: the table, and a run that goes on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from safety_reminder.guard import Probe

SPLITS = ("training.calibration=0.3", "training.test=0.2", "training.answer_tokens=6")


@pytest.fixture
def options(place, models) -> list[str]:
    rows = [
        {"prompt": f"{kind} {n} {topic}?", "safe": kind == "Good", "topic": topic, "attack": ("text", "pgd")[n % 2]}
        | ({"chosen": "kkkkk"} if kind == "Good" else {"rejected": "zzzzz"})
        for topic in ("Fraud", "Malware")
        for kind in ("Good", "Bad")
        for n in range(10)
    ]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"model={models}/llama", f"reminder={models}/pack", "data=rows.jsonl", "device=cpu", "output=run", *SPLITS]


def test_one_command_leaves_out_topics_and_attacks_and_goes_on_where_it_was(call, options, monkeypatch, caplog):
    # The search for a regularisation, which other tests look at, would take most of the time.
    fit = lambda hidden, *more, **options: (Probe(hidden.std(0), 0.0), {})  # noqa: E731
    monkeypatch.setattr("safety_reminder.analysis.generality.fit_probe", fit)
    # All of Fraud's rows but the harmful ones are gone, so that Malware cannot be left out.
    whole = Path("rows.jsonl").read_text()
    kept = [line for line in whole.splitlines() if not ("Fraud" in line and "Good" in line)]
    Path("rows.jsonl").write_text("\n".join(kept))
    partial = call("generality", *options, "by=topic", "output=partial")
    assert partial.code == 0, partial.err
    assert "not in the table: without topic 'Malware', the training split has only one kind of row" in caplog.text
    assert [line.split(",")[1] for line in Path("partial/generality.csv").read_text().splitlines()[1:]] == [
        "(a random part)", "Fraud",
    ]  # fmt: skip
    Path("rows.jsonl").write_text(whole)
    only_topics = call("generality", *options, "by=topic")
    assert only_topics.code == 0, only_topics.err
    kept = sorted(Path("run/readings").iterdir())
    assert kept
    # Hidden states and lines that are there are not computed again.
    monkeypatch.setattr("safety_reminder.training.probing.kept.read", None)
    both = call("generality", *options)
    assert both.code == 0, both.err
    with Path("run/generality.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["by"], row["left_out"]) for row in table] == [
        ("topic", "(a random part)"), ("topic", "Fraud"), ("topic", "Malware"),
        ("attack", "(a random part)"), ("attack", "pgd"), ("attack", "text"),
    ]  # fmt: skip
    assert [row["unsafe"] for row in table if row["left_out"] in ("Fraud", "pgd")] == ["10", "10"]
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["metrics"]["leave_one_topic_out_auc_median"]["n"] == 2
    assert summary["metrics"].keys() >= {"leave_one_attack_out_missed", "leave_one_topic_out_false_alarms"}
    assert "the vectors of every line are those of" in both.out
    assert "only probe and threshold were learned without what it leaves out" in both.out
    for line in ("without topic", "without attack", "Fraud", "pgd"):
        assert line in both.out
    with Path("run/folds.jsonl").open("a") as file:
        file.write("[]\n")
    assert "run/folds.jsonl, line 7: not a line of the table" in call("generality", *options).error
    # Other rows, or the same with other labels, are another run.
    text = Path("rows.jsonl").read_text()
    Path("rows.jsonl").write_text(text.replace("Malware", "Hacking"))
    assert "run holds a run with another configuration" in call("generality", *options).error


def test_what_cannot_be_left_out_is_said_before_the_model_runs(call, options):
    for changes, message in (
        (["by=source"], "by=source: the rows have 1 values of 'source'"),
        (["by=theme"], "by must be of topic, source, attack"),
        (["training.leave_out=topic:Fraud"], "training.leave_out is for one run"),
        (["training.calibration=0"], "training.calibration=0 leaves no rows for the calibration part"),
        (["training.test=0"], "training.test=0 leaves no rows for the test part"),
        (["training.thresholds=image"], "every line of the table has one threshold"),
        (["training.leave_out=Fraud"], "leave_out must be of topic:VALUE"),
    ):
        assert message in call("generality", *options, *changes).error
    assert not Path("run/readings").exists()


@pytest.mark.slow
def test_the_vectors_are_learned_anew_without_each(call, options):
    more = ["by=topic", "retrain=true", "training.epochs=1", "training.k=2", "training.log_with=none"]
    outcome = call("generality", *options, *more)
    assert outcome.code == 0, outcome.err
    assert "vectors, probe and threshold of every line were learned without what it leaves out" in outcome.out
    packs = sorted(Path("run/vectors").glob("*/pack/config.json"))
    left_out = [json.loads(path.read_text())["training"]["config"]["leave_out"] for path in packs]
    assert sorted(map(str, left_out)) == ["None", "topic:Fraud", "topic:Malware"]
    with Path("run/generality.csv").open() as file:
        assert {(row["vectors"], row["seen"]) for row in csv.DictReader(file)} == {("retrained", "0")}
