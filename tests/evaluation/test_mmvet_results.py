"""MM-Vet's own result format."""

from __future__ import annotations

import json

import pytest
from test_metrics import record

from safety_reminder.errors import DataError
from safety_reminder.evaluation.mmvet_results import QUESTIONS, write_mmvet


def test_it_is_one_object_of_answers_as_they_stand(tmp_path):
    rows = [record("v1_1", "Stands.", seen="Was shown. Stands."), record("v1_0", "Fünf")]
    line = write_mmvet(tmp_path / "mmvet.json", rows)
    assert json.loads((tmp_path / "mmvet.json").read_text(encoding="utf-8")) == {"v1_1": "Stands.", "v1_0": "Fünf"}
    assert line.endswith(f"2 answers in MM-Vet's own format; the official grader wants all {QUESTIONS}")
    whole = [record(f"v1_{n}") for n in range(QUESTIONS)]
    assert write_mmvet(tmp_path / "whole.json", whole).endswith("218 answers in MM-Vet's own format")


def test_two_answers_to_a_question_are_refused(tmp_path):
    with pytest.raises(DataError, match="two records answer one question"):
        write_mmvet(tmp_path / "mmvet.json", [record("v1_0"), record("v1_0", guard=False)])
    assert not (tmp_path / "mmvet.json").exists()
