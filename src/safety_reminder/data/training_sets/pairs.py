"""Questions with answers and a label on each answer, as PKU-SafeRLHF (Ji et al., arXiv:2307.04657) flattens to."""

from __future__ import annotations

from pathlib import Path

from safety_reminder.config.guard import DEFAULT_REFUSAL
from safety_reminder.data.tables import read_rows, sample_rows, text_of, truth
from safety_reminder.data.training_sets.loading import user
from safety_reminder.errors import DataError
from safety_reminder.types import TrainingExample


def load(
    root: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    question: str = "question",
    answer: str = "answer",
    unsafe: str = "label",
) -> list[TrainingExample]:
    """One row per labelled answer of a ``.csv``, ``.json``, ``.jsonl`` or ``.parquet`` file.

    An unsafe answer must be followed by a safe answer to the same question, if the file has one, else by a refusal.

    Args:
        question, answer, unsafe: names of the columns; ``unsafe`` is 1 or true where the answer is unsafe.

    Raises:
        DataError: no such file or column, or an empty cell.
    """
    path = Path(root)
    if path.is_dir():
        files = sorted(path.glob("*.csv"))
        if len(files) != 1:
            raise DataError(f"{path} has {len(files)} .csv files; give data.root=FILE")
        path = files[0]
    rows = []
    for number, row in enumerate(read_rows(path), 1):
        where = f"{path}, row {number}"
        for column in (question, answer, unsafe):
            if row.get(column) in (None, ""):
                advice = "name the columns, as +data.options.answer=COLUMN"
                raise DataError(f"{where}: {column} is missing or empty; {advice}")
        is_unsafe = truth(row[unsafe], where, default=True, name=unsafe)
        rows.append((text_of(row, question, where), text_of(row, answer, where), is_unsafe))
    safe_answers = {q: a for q, a, is_unsafe in reversed(rows) if not is_unsafe}
    # Where a question also has an unsafe answer, the bare prompt says nothing about the answer to come.
    asked_for_harm = {q for q, _, is_unsafe in rows if is_unsafe}
    kinds = [[row for row in rows if row[2] is kind] for kind in (True, False)]
    rows = [row for kind in kinds for row in sample_rows(kind, limit, f"{seed}/pairs")]
    return [
        TrainingExample(user(q), False, safe_answers.get(q, DEFAULT_REFUSAL), rejected=a, source="pairs")
        if is_unsafe
        else TrainingExample(user(q), True, a, harmful_prompt=q in asked_for_harm, source="pairs")
        for q, a, is_unsafe in rows
    ]
