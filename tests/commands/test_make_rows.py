"""``make-rows``, as it is called: rows of a tiny model's own answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safety_reminder.commands.make_rows import CALIBRATION, REQUESTS, TEST, TRAIN
from safety_reminder.commands.rows_plan import cost_of
from safety_reminder.data.own_answers.asking import plan_questions
from safety_reminder.data.own_answers.requests import RowRequest
from safety_reminder.data.training_sets.loading import read_training_file
from safety_reminder.guard import GuardedVLM
from safety_reminder.models.size import ModelSize
from safety_reminder.training import TrainingConfig


@pytest.fixture
def options(models, place) -> list[str]:
    rows = [f"Steps number {i} to {'rob' if i % 2 else 'help'}.,{'true' if i % 2 else 'false'}" for i in range(12)]
    (place / "requests.csv").write_text("\n".join(["request,harmful", *rows]) + "\n")
    basics = ["requests=requests.csv", "wrappers=[bare,story,prefill,persona]", "batch_size=6", "device=cpu"]
    return [f"model={models}/llama", *basics, "generation.max_new_tokens=4"]


def made_in(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (TRAIN, CALIBRATION, TEST, REQUESTS)}


def test_rows_are_made_resumed_and_never_shown(call, place, options):
    outcome = call("make-rows", *options, "output=run")
    assert outcome.code == 0, outcome.err
    summary = json.loads((place / "run/summary.json").read_text())
    assert summary["metrics"]["attack_success_rate_unguarded"]["n"] == 12
    assert sum(summary["rows"]["train.jsonl"].values()) == len(read_training_file(place / "run/train.jsonl"))
    assert len(summary["provenance"]["requests_sha256"]) == 64
    records = [json.loads(line) for line in (place / "run/records.jsonl").read_text().splitlines()]
    shown = outcome.out + outcome.err
    assert not [r["id"] for r in records if len(r["seen_text"].strip()) > 3 and r["seen_text"].strip() in shown]
    assert "rob" not in shown
    assert f"next: safety-reminder train {options[0]} data=run/train.jsonl" in outcome.out

    made = made_in(place / "run")
    lines = (place / "run/records.jsonl").read_text().splitlines(keepends=True)
    (place / "run/records.jsonl").write_text("".join(lines[:9]) + lines[9][:20])
    for name in (*made, "summary.json"):
        (place / "run" / name).unlink()
    assert call("make-rows", *options, "output=run").code == 0
    assert made_in(place / "run") == made

    assert "another configuration (batches_of)" in call("make-rows", *options, "batch_size=5", "output=run").error
    (place / "requests.csv").write_text((place / "requests.csv").read_text().replace("number 3", "number 33"))
    assert "another configuration (questions)" in call("make-rows", *options, "output=run").error


def test_a_plan_loads_no_weights_and_writes_nothing(call, place, options, monkeypatch):
    monkeypatch.setattr(GuardedVLM, "__init__", None)
    outcome = call("make-rows", *options, "plan=true", "output=run")
    assert outcome.code == 0, outcome.err
    assert "24 answers (16 to train on, 4 for the threshold, 4 to test on): up to 96 tokens to write" in outcome.out
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["wrappers=[bare,storey]"], "unknown wrappers 'storey'; did you mean 'story'"),
        (["wrappers=[bare,page]"], "page, an image, and the model reads text only"),
        (["hold_out=[page]"], "hold_out names page, an image"),
        (["judge=mmvet"], "judge=mmvet grades answers and says nothing about harm"),
        (["judge=refussal"], "unknown judge 'refussal'; did you mean 'refusal'"),
        (["judge=asked", "+judge_options.modle=x"], "unknown option of judge=asked 'modle'"),
        (["judge=fitted", "+judge_options.data=gone.csv"], "no file at gone.csv"),
        (["requests=gone.csv"], "no file at gone.csv"),
        (["test_share=1"], "test_share must be below 1, got 1"),
    ],
)
def test_mistakes_are_found_before_anything_is_answered(call, place, options, changes, message):
    assert message in call("make-rows", *options, *changes, "output=run").error
    assert not (place / "run").exists()


def test_a_model_that_sees_gets_pages_too(call, place, options, models):
    changes = [f"model={models}/llava", "wrappers=[bare,page,story]", "hold_out=[story]", "test_share=0.2"]
    outcome = call("make-rows", *options, *changes, "+generation.suppress_tokens=[126,127]", "output=run")
    assert outcome.code == 0, outcome.err
    pages = [row for row in read_training_file(place / "run/train.jsonl") if row.image is not None]
    assert pages
    assert all(Path(str(row.image)).parent == place / "run/images" for row in pages)


def test_a_cost_grows_with_what_it_is_of():
    requests = [RowRequest(f"Steps {i}", bool(i % 2)) for i in range(20)]
    asked = plan_questions(
        requests, ("bare", "story"), hold_out=[], test_share=0.0, calibration_share=0.0, per_request=2
    )
    small, large = ModelSize(10**8, 4 * 10**8, 10**4, 0), ModelSize(7 * 10**9, 14 * 10**9, 5 * 10**5, 0)
    costs = [
        cost_of(size, asked, new_tokens=tokens, batch=8, training=TrainingConfig())
        for size, tokens in ((small, 16), (small, 32), (large, 32))
    ]
    assert [cost.written_tokens for cost in costs] == [640, 1280, 1280]
    for name in ("batch_bytes", "prefix_bytes", "answer_seconds", "training_seconds"):
        first, second, third = (getattr(cost, name) for cost in costs)
        assert 0 < first < second < third, name
