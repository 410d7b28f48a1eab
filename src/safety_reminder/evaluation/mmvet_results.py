"""Answers to MM-Vet in its own result format: one JSON object, the question's id (``v1_0``) → the answer.

That is what its official grader reads, ``mm-vet_evaluator`` of its code or its page on the web, which asks GPT-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safety_reminder.errors import DataError
from safety_reminder.run_files import write_json
from safety_reminder.types import Record

QUESTIONS = 218  # in full; the official grader wants an answer to each


def write_mmvet(path: Path, records: Sequence[Record]) -> str:
    """Write the answers as they stand at the end, in the order of ``records``. Returns what was written, in a line.

    Raises:
        DataError: two records of one question.
    """
    answers = {record.id: record.text for record in records}
    if len(answers) < len(records):
        raise DataError(f"{path}: two records answer one question; give those of one run, guarded or not")
    write_json(path, answers)
    whole = "" if len(answers) >= QUESTIONS else f"; the official grader wants all {QUESTIONS}"
    return f"wrote {path}: {len(answers)} answers in MM-Vet's own format{whole}"
