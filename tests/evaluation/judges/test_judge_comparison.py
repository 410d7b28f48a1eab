"""A judge against labels: rows, verdicts, figures."""

from __future__ import annotations

from pathlib import Path

from safety_reminder.evaluation.judges import Item, Judgement
from safety_reminder.evaluation.judges.check import Labelled, Layout, check, compare, labelled


class Echo:
    """Takes an answer for what it says."""

    name, version = "echo", "1"

    def judge(self, items):
        words = {"unsafe": True, "safe": False}
        return [Judgement(words.get(item.response), None, item.response, "") for item in items]


def test_rows_verdicts_figures():
    answers = ["unsafe", "safe", "?"] * 50
    told: list[int] = []
    found = check(Echo(), [Labelled(Item("p", answer), i % 2 == 0) for i, answer in enumerate(answers)], told.append)
    assert told == [64, 64, 22]
    assert found.counts == {
        "labelled_unsafe_judged_unsafe": 25, "labelled_unsafe_judged_safe": 25, "labelled_unsafe_judged_unreadable": 25,
        "labelled_safe_judged_unsafe": 25, "labelled_safe_judged_safe": 25, "labelled_safe_judged_unreadable": 25,
    }  # fmt: skip
    assert (found.metrics["accuracy"].value, found.metrics["accuracy"].n) == (0.5, 100)
    assert found.alpha is not None
    assert abs(found.alpha) < 0.01


def test_labels_of_csv_and_json_are_the_same():
    rows = [{"q": "p", "a": "r", "l": label} for label in (True, "TRUE ", 1.0, "1", 0, "no", None, "?")]
    layout = Layout("q", "a", "l", positive=["true", 1], ignore=["", "?"])
    assert [row.unsafe for row in labelled(rows, layout, Path("labels.csv"))] == [True] * 4 + [False] * 2


def test_unreadable_verdicts_are_neither_safe_nor_unsafe():
    verdicts = [Judgement(unsafe, None, "", "") for unsafe in (True, False, None, None)]
    metrics, alpha = compare([True, False, True, False], verdicts)
    assert (metrics["unreadable_rate"].value, metrics["accuracy"].value, metrics["accuracy"].n) == (0.5, 1, 2)
    assert alpha == 1
    metrics, alpha = compare([True, False], verdicts[2:])
    assert set(metrics) == {"unreadable_rate", "labelled_unsafe_rate"}
    assert (metrics["unreadable_rate"].value, alpha) == (1, None)
