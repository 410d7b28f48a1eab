"""Judges of harm for a CPU: one that is fitted to labelled answers, and any chat model that is asked."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from safety_reminder.commands.composing import compose
from safety_reminder.commands.judge_check import COMMAND, judge_check
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.evaluation.judges import Item, load_judge
from safety_reminder.evaluation.judges.agreement import auc
from safety_reminder.evaluation.judges.asked import Asked
from safety_reminder.evaluation.judges.check import Labelled
from safety_reminder.evaluation.judges.fitted import cross_fitted
from safety_reminder.evaluation.judges.local import Generation

HARM, HELP = "Placeholder alpha beta", "Placeholder gamma delta"
REFUSAL = "I'm sorry, but I can't help with that."


def labelled_rows(count: int = 30):
    """Two answers to each question, told apart by their words."""
    return [(f"Question {i}?", answer, label) for i in range(count) for answer, label in ((HARM, "1"), (HELP, "0"))]


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "response", "label"), *labelled_rows()])
    return path


def test_a_fitted_judge_knows_what_its_labels_know(labels):
    judge = load_judge("fitted", data=str(labels), positive=[1])
    verdicts = judge.judge([Item("Another?", f"{text}, at length") for text in (HARM, HELP)])
    assert [verdict.unsafe for verdict in verdicts] == [True, False]
    assert [(verdict.score or 0.0) > 0.5 for verdict in verdicts] == [True, False]
    assert judge.judge([]) == []
    assert load_judge("fitted", data=str(labels), positive=[1]).version == judge.version
    strict = load_judge("fitted", data=str(labels), positive=[1], threshold=0.01)
    assert strict.judge([Item("Another?", HELP)])[0].unsafe
    assert strict.version != judge.version


def test_where_an_answer_refuses_counts_although_its_words_are_new(tmp_path):
    """Refusals in twenty wordings that share no word pair with the one that is judged."""
    verbs = ("assist", "comply", "continue", "participate", "proceed")
    rows = [{"prompt": f"q{i}", "response": f"I {n} {verbs[i % 5]}.", "label": 0} for i in range(12)
            for n in ("cannot", "won't")]  # fmt: skip
    rows += [
        {"prompt": f"q{i}", "response": "Placeholder text number " + "abcde"[i % 5], "label": 1} for i in range(24)
    ]
    (tmp_path / "l.json").write_text(json.dumps(rows))
    judge = load_judge("fitted", data=str(tmp_path / "l.json"), positive=[1])
    refusal, other = judge.judge(
        [Item("q", "Unable to help with your request."), Item("q", "Entirely unseen wording.")]
    )
    assert (refusal.score or 0.0) < (other.score or 0.0)


def test_a_question_is_never_on_both_sides_of_a_fold():
    """Labels that only the question tells: learned by heart they would be right, across folds they are chance."""
    rows = [Labelled(Item(f"{i}q{i} {i}r", HARM), i % 2 == 0) for i in range(50) for _ in range(4)]
    verdicts = cross_fitted(rows, 5)
    right = sum(verdict.unsafe == row.unsafe for verdict, row in zip(verdicts, rows, strict=True))
    assert right / len(rows) < 0.7
    for start in range(0, len(rows), 4):  # rows of one question have one score: the same judge's
        assert len({verdict.score for verdict in verdicts[start : start + 4]}) == 1
    with pytest.raises(ConfigError, match="folds=60 needs as many questions; there are 50"):
        cross_fitted(rows, 60)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": "gone.csv"}, DataError, "no file at gone.csv"),
        ({"threshold": 0}, ConfigError, r"threshold must lie in \(0, 1\), got 0"),
        ({"threshold": True}, ConfigError, "threshold must be a number"),
        ({"label": "verdict"}, DataError, "no column 'verdict'"),
        ({"positive": [2]}, ConfigError, "no row of .* has a label of positive"),
        ({"ignore": [0]}, DataError, "30 unsafe and 0 safe labelled answers are too few"),
        ({}, None, ""),
    ],
)
def test_labels_that_cannot_be_fitted_to_are_refused(labels, options, error, message):
    given = {"data": str(labels), "positive": [1]} | options
    if error is None:
        assert load_judge("fitted", **given)
        return
    with pytest.raises(error, match=message):
        load_judge("fitted", **given)


def test_judge_check_folds_and_never_checks_on_what_was_fitted(labels, tmp_path, capsys):
    def check(*options: str, out: str) -> dict:
        judge_check(compose(COMMAND, [f"data={labels}", "judge=fitted", "positive=[1]", *options]), tmp_path / out)
        return json.loads((tmp_path / out / "results.json").read_text())

    results = check("folds=5", out="folds")
    assert results["metrics"]["cohen_kappa"]["value"] == 1
    assert results["metrics"]["auc"]["value"] == 1
    assert results["provenance"]["judge"] == {"name": "fitted", "version": "5 folds by question"}
    assert HARM not in capsys.readouterr().out
    own = (f"+judge_options.data={labels}", "+judge_options.positive=[1]")
    with pytest.raises(ConfigError, match="fitted to the questions of 60 of the 60 rows"):
        check(*own, out="same")
    with pytest.raises(ConfigError, match="of judge_options only threshold is left"):
        check(*own, "folds=5", out="both")
    with pytest.raises(ConfigError, match=r"folds is of judge=fitted.*judge=refusal is not"):
        judge_check(compose(COMMAND, [f"data={labels}", "positive=[1]", "folds=5"]), tmp_path / "rules")


@pytest.mark.parametrize(
    ("score", "threshold", "unsafe", "label"),
    [(0.9, 0.5, True, "yes"), (0.2, 0.5, False, "no"), (0.2, 0.1, True, "yes"), (None, 0.5, None, "unreadable")],
)
def test_a_model_that_is_asked_is_read_from_its_logits(score, threshold, unsafe, label):
    judge = object.__new__(Asked)
    judge.threshold = threshold
    judge.model = cast(Any, SimpleNamespace(preference=lambda logits, word, other: score))
    verdict = judge.read(Generation("Well", torch.zeros(3)))
    assert (verdict.unsafe, verdict.label, verdict.score) == (unsafe, label, score)


def test_what_is_asked_holds_request_and_answer_and_names_no_side():
    asked: list = []
    judge = object.__new__(Asked)
    judge.model = cast(
        Any, SimpleNamespace(chat=lambda turns, **options: asked.append(turns) or [Generation("")] * len(turns))
    )
    judge.ask([Item("A {answer} request", "An answer")])
    [[[turn]]] = asked
    assert turn.role == "user"
    assert "A {answer} request" in turn.text
    assert turn.text.count("An answer") == 1
    with pytest.raises(ConfigError, match="judge=asked needs the option 'model'"):
        load_judge("asked")


def test_auc_is_that_of_scikit_learn():
    from sklearn.metrics import roc_auc_score

    positive, negative = [0.9, 0.5, 0.5, 0.1], [0.5, 0.4, 0.1, 0.0, 0.7]
    found = auc(positive, negative)
    assert found is not None
    assert found.value == pytest.approx(roc_auc_score([1] * 4 + [0] * 5, positive + negative))
    assert 0 <= found.low < found.value < found.high <= 1
    assert auc([], negative) is None
