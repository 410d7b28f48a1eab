"""A model's own answers, recorded as they are made: killed and resumed, and judged."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from checkpoints import tiny_vlm
from safety_reminder.data.own_answers.asking import plan_questions
from safety_reminder.data.own_answers.requests import RowRequest
from safety_reminder.evaluation.judges import Judgement
from safety_reminder.evaluation.own_answers import answer_all, digest_of, judge_all
from safety_reminder.evaluation.records import RecordFile
from safety_reminder.guard import GuardedVLM
from safety_reminder.types import Sampling

REQUESTS = [RowRequest(f"{'Bad' if harmful else 'Good'} {i}{'!' * i}", harmful) for i in range(4)
            for harmful in (True, False)]  # fmt: skip
SAMPLING = Sampling(max_new_tokens=5, do_sample=False)


class Killed(Exception):
    pass


class Mortal(RecordFile):
    """Its process is killed after so many records."""

    def __init__(self, path, lives: int) -> None:
        super().__init__(path)
        self._lives = lives

    def append(self, record) -> None:
        if not self._lives:
            raise Killed
        self._lives -= 1
        super().append(record)


@pytest.fixture
def asked(tmp_path):
    return plan_questions(
        REQUESTS,
        ("bare", "prefill", "story"),
        hold_out=["story"],
        test_share=0.25,
        calibration_share=0.25,
        per_request=2,
    )


def told(path):
    """Records without what a clock says."""
    return [{**json.loads(line), "seconds": 0} for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("lives", "sampling"),  # within a batch, and at its end
    [(2, SAMPLING), (4, SAMPLING), (2, replace(SAMPLING, do_sample=True, temperature=1.5))],
)
def test_a_run_that_was_killed_gives_what_one_that_was_not_gives(asked, tmp_path, lives, sampling):
    guarded = GuardedVLM(tiny_vlm("llama"))
    examples = [one.example(tmp_path) for one in asked]
    options = {"batch_size": 4, "sampling": sampling, "seed": 3 if sampling.do_sample else None}
    whole = answer_all(guarded, examples, RecordFile(tmp_path / "whole.jsonl"), **options)
    with pytest.raises(Killed):
        answer_all(guarded, examples, Mortal(tmp_path / "killed.jsonl", lives), **options)
    with (tmp_path / "killed.jsonl").open("a") as file:
        file.write('{"id": "half a li')
    torch.manual_seed(99)  # as another process begins with
    resumed = answer_all(guarded, examples, RecordFile(tmp_path / "killed.jsonl"), **options)
    assert resumed == whole
    assert told(tmp_path / "killed.jsonl") == told(tmp_path / "whole.jsonl")


def test_a_batch_that_is_whole_is_not_answered_again(asked, tmp_path, monkeypatch):
    guarded = GuardedVLM(tiny_vlm("llama"))
    examples = [one.example(tmp_path) for one in asked]
    texts = answer_all(guarded, examples, RecordFile(tmp_path / "r.jsonl"), batch_size=4, sampling=SAMPLING)
    monkeypatch.setattr(GuardedVLM, "respond", None)
    assert answer_all(guarded, examples, RecordFile(tmp_path / "r.jsonl"), batch_size=4, sampling=SAMPLING) == texts


def test_the_questions_are_told_apart_by_every_letter(asked, tmp_path):
    examples = [one.example(tmp_path) for one in asked]
    changed = [replace(examples[0], prefill="1."), *examples[1:]]
    assert len({digest_of(examples), digest_of(changed), digest_of(examples[::-1])}) == 3


class Scripted:
    name, version = "scripted", "1"

    def __init__(self, *verdicts: bool | None) -> None:
        self._verdicts, self.items = verdicts, []

    def judge(self, items):
        self.items += items
        return [Judgement(v, None, "x", "") for v in (self._verdicts * len(items))[: len(items)]]


@pytest.mark.parametrize(
    ("verdict", "harmful", "harmless"), [(True, "unsafe", "in doubt"), (False, "not harmful", "safe"),
                                         (None, "in doubt", "in doubt")],
)  # fmt: skip
def test_a_judge_of_harm_sees_all_that_was_said_and_drops_what_it_doubts(asked, tmp_path, verdict, harmful, harmless):
    examples = [one.example(tmp_path) for one in asked]
    judge = Scripted(verdict)
    answered = judge_all(asked, examples, ["Filler."] * len(asked), judge, tmp_path)
    assert {one.outcome for one in answered if one.asked.request.harmful} == {harmful}
    assert {one.outcome for one in answered if not one.asked.request.harmful} == {harmless}
    assert {item.prompt for item in judge.items} == {request.text for request in REQUESTS}
    assert all(item.response.endswith("Filler.") for item in judge.items)
    assert any(item.response.startswith(e.prefill) and e.prefill for item, e in zip(judge.items, examples, strict=True))


def test_without_one_the_rules_decide(asked, tmp_path):
    examples = [one.example(tmp_path) for one in asked]
    said = ["I'm sorry, but I can't help with that." if not e.prefill else "Filler." for e in examples]
    for one, example in zip(judge_all(asked, examples, said, None, tmp_path), examples, strict=True):
        expected = ("unsafe" if example.prefill else "refused") if example.harmful else (
            "safe" if example.prefill else "refused although harmless"
        )  # fmt: skip
        assert one.outcome == expected
    assert not (tmp_path / "verdicts.jsonl").exists()
