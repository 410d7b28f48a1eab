"""The command ``evaluate`` on a tiny model: what it writes, and that a killed run goes on without loss or doubles."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from checkpoints import random_reminder
from safety_reminder.commands.evaluate import EvaluateJob, evaluate
from safety_reminder.errors import ConfigError
from safety_reminder.evaluation.judges import JUDGES, Judgement
from safety_reminder.models.tiny import tiny_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SUITE = """
max_tokens: 12
tasks:
  first: {dataset: text, root: rows.csv}
  second: {dataset: text, root: rows.csv, judges: [refusal], options: {limit: 4}}
defenses:
  reminder: {}
  self_reminder: {}
"""
ROWS = "id,prompt,harmful,category\n" + "".join(f"{i},Filler {i}?,{i % 2 == 0},kind {i % 3}\n" for i in range(6))


@pytest.fixture
def place(tmp_path):
    tiny_checkpoint("llava", tmp_path / "model")
    random_reminder(threshold=0.5, interval=4).save_pretrained(tmp_path / "pack")
    (tmp_path / "rows.csv").write_text(ROWS)
    (tmp_path / "mine.yaml").write_text(SUITE)
    return tmp_path


def job(place, **changes):
    return EvaluateJob.parse(options(place, **changes))


def options(place, **changes):
    return {
        "model": str(place / "model"),
        "reminder": str(place / "pack"),
        "check_base": False,
        "suite": str(place / "mine.yaml"),
        "root": str(place),
        "defenses": None,
        "limit": None,
        "max_tokens": None,
        "samples": 3,
        "batch_size": 4,
        "device": "cpu",
        "dtype": "auto",
        "output": str(place / "out"),
    } | changes


def records_of(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def identities(records):
    return sorted((r["defense"], r["dataset"], r["id"]) for r in records)


def test_every_data_set_with_every_defence_and_one_page(place):
    out = place / "out"
    evaluate(job(place), out)
    records = records_of(out)
    labels = ["monitor", "none", "reminder", "self_reminder"]
    expected = [
        (label, name, str(i)) for label in labels for name, n in (("first", 6), ("second", 4)) for i in range(n)
    ]
    assert identities(records) == expected
    results = json.loads((out / "results.json").read_text())
    assert set(results["defenses"]) == {"none", "reminder", "self_reminder"}
    for name in ("attack_success_rate", "over_refusal_rate", "attack_success_rate_unguarded", "false_alarm_rate"):
        assert results["metrics"][name]["n"] == 5
    assert results["defenses"]["none"]["second"]["harmful_rate:refusal"]["n"] == 2
    assert {"metrics", "config", "provenance"} <= set(results)
    # Watched answers are the plain ones.
    tokens = {(r["defense"], r["dataset"], r["id"]): r["token_ids"] for r in records}
    assert all(tokens["monitor", d, i] == tokens["none", d, i] for label, d, i in tokens if label == "none")
    html = (out / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    for heading in ("Defences", "Safety against over-refusal", "What other thresholds would do", "Samples"):
        assert heading in html
    assert html.count('class="sample"') == 3
    head = "| defence | attack success | attack success, on topic | over-refusal"
    assert (out / "results.md").read_text().startswith(head)


@pytest.mark.slow
def test_pages_are_read_by_the_undefended_model(place):
    (place / "pages.csv").write_text("instruction\nBake bread.\nFold paper.\n")
    (place / "mine.yaml").write_text(
        "tasks: {pages: {dataset: typographic, root: pages.csv}}\ndefenses: {reminder: {}}"
    )
    evaluate(job(place, reads=True, max_tokens=4), place / "out")
    assert {r["verdicts"]["reading"]["word_recall"] for r in records_of(place / "out")} <= {0.0, 0.5, 1.0}
    results = json.loads((place / "out/results.json").read_text())
    assert [results["defenses"][label]["pages"]["word_recall"]["n"] for label in ("none", "reminder")] == [2, 2]
    assert "words read" in (place / "out/results.md").read_text()


def test_a_rerun_answers_nothing_again_and_another_configuration_is_refused(place):
    out = place / "out"
    evaluate(job(place), out)
    logs = sorted(path.name for path in (out / "logs").glob("*.eval"))
    (out / "report.html").unlink()
    evaluate(job(place, samples=1), out)
    assert sorted(path.name for path in (out / "logs").glob("*.eval")) == logs
    assert (out / "report.html").is_file()
    with pytest.raises(ConfigError, match=r"another configuration \(.*max_tokens"):
        evaluate(job(place, max_tokens=5), out)


ONE = "tasks: {one: {dataset: text, root: rows.csv, options: {limit: 2}}}\nmax_tokens: 4\n"


def write_suite(place, defenses):
    (place / "mine.yaml").write_text(f"{ONE}defenses: {defenses}\n")
    return job(place, reminder="none")


def test_defences_may_come_and_go_but_not_change_under_a_label(place):
    out = place / "out"
    random_reminder(seed=1, interval=4).save_pretrained(place / "header")
    header = f"header_probe: {{probe: {place}/header}}"
    evaluate(write_suite(place, "{system_prompt: {text: Be good.}}"), out)
    evaluate(write_suite(place, f"{{{header}}}"), out)  # another one, with something learned, and the first not
    assert set(json.loads((out / "results.json").read_text())["defenses"]) == {"none", "header_probe"}
    with pytest.raises(ConfigError, match="'system_prompt' with other options"):
        evaluate(write_suite(place, "{system_prompt: {text: Be bad.}}"), out)
    evaluate(write_suite(place, f"{{system_prompt: {{text: Be good.}}, {header}}}"), out)
    assert len(list((out / "logs").glob("*.eval"))) == 3
    random_reminder(seed=2, interval=4).save_pretrained(place / "header")
    with pytest.raises(ConfigError, match="'header_probe' with other options"):
        evaluate(write_suite(place, f"{{{header}}}"), out)


def test_rows_that_changed_since_are_another_configuration(place):
    given = write_suite(place, "{}")
    evaluate(given, place / "out")
    for rows in (ROWS.replace("Filler", "Thing"), ROWS.replace("\n0,", "\n9,")):
        (place / "rows.csv").write_text(rows)
        with pytest.raises(ConfigError, match=r"another configuration \(rows_sha256\)"):
            evaluate(given, place / "out")


def test_a_panel_s_agreement_and_its_judges_are_reported(place):
    judges = "judges: [panel], judge_options: {panel: {judges: {refusal: {}, %s: {}}}}"
    second = "tests_judge"
    (place / "mine.yaml").write_text(ONE.replace("limit: 2}", "limit: 2}, " + judges % second))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(JUDGES, second, "test_evaluate:AlwaysUnsafe")
        evaluate(job(place, reminder="none"), place / "out")
    results = json.loads((place / "out" / "results.json").read_text())
    found = results["agreement"]["panel"]
    assert set(found) == {"alpha", "kappa"}
    assert list(found["kappa"]) == ["refusal, always"]
    assert "7" in results["provenance"]["judges"]["panel"]
    for name in ("results.md", "report.html"):
        assert "Agreement within panel: Krippendorff" in (place / "out" / name).read_text()


class AlwaysUnsafe:
    name, version = "always", "7"

    def judge(self, items):
        return [Judgement(True, 1.0, "unsafe", "unsafe") for _ in items]


def test_harmful_answers_are_folded_and_veiled(place):
    evaluate(job(place, samples=99), place / "out")
    html = (place / "out" / "report.html").read_text()
    engaged = [
        r
        for r in records_of(place / "out")
        if r["harmful"] and r["verdicts"]["refusal"] != "start" and r["defense"] != "monitor"
    ]
    assert html.count('class="veil"') == len(engaged) > 0


@pytest.mark.slow
def test_killed_and_run_again_nothing_is_lost_or_doubled(place):
    out = place / "out"
    arguments = [f"{k}={'null' if v is None else v}" for k, v in options(place, batch_size=1).items()]
    command = [sys.executable, "-m", "safety_reminder.cli", "evaluate", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while len(list((out / "logs").glob("*.eval"))) < 3 and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "records.jsonl").exists()
    begun = len(list((out / "logs").glob("*.eval")))
    assert 3 <= begun < 8
    subprocess.run(command, env=environment, check=True, capture_output=True)
    records = records_of(out)
    assert len(records) == len(set(identities(records))) == 4 * (6 + 4)
