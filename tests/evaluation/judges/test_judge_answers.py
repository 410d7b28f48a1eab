"""Judges of answers that need no model."""

from __future__ import annotations

import pytest

from safety_reminder.errors import DataError, MessageError
from safety_reminder.evaluation.judges import UNREADABLE, Item, Judgement, judge_each, load_judge
from safety_reminder.evaluation.judges.mmvet import match


@pytest.mark.parametrize(
    ("response", "target", "score"),
    [
        ("x = -1 or x = -5", "-1<AND>-5", 1.0),
        ("x = -1", "-1<AND>-5", 0.5),
        ("x = 1 or x = 5", "-1<AND>-5", 0.0),
        ("It is 5/4.", "1.25<OR>=1.25<OR>5/4", 1.0),
        ("It is 15/4.", "1.25<OR>=1.25<OR>5/4", 0.0),
        ("In 2000 and 2012.", "2000<AND>2012", 1.0),
        ("A price of $2,500.", "2500", 1.0),
        ("about 35 % of them", "35%", 1.0),
        ("15", "5", 0.0),
        ("The CONDITIONER, I think.", "conditioner", 1.0),
        ("Reconditioners", "conditioner", 0.0),
        ("You keep it in a warm place, for 1 hour.", "warm place<AND>1 hour", 1.0),
        ("Two", "2 <OR> two<AND>three", 0.5),
        ("Café", "cafe", 1.0),
        ("", "14", 0.0),
    ],
)
def test_match(response, target, score):
    assert match(response, target) == score
    [verdict] = load_judge("mmvet_match").judge([Item("?", response, target=target)])
    assert (verdict.score, verdict.unsafe) == (score, None)


@pytest.mark.parametrize("target", ["", "<OR>", "a<AND>", " - <OR>b"])
def test_a_right_answer_without_content_is_an_error(target):
    with pytest.raises(DataError, match="empty part"):
        match("a", target)


@pytest.mark.parametrize(
    ("response", "target", "score", "label"),
    [
        ("Yes, it is.", "Yes", 1.0, "yes"),
        ("No. Yes would be wrong.", "yes", 0.0, "no"),
        ("I know that the answer is no.", "no", 1.0, "no"),
        ("Yesterday, nothing.", "no", 0.0, "neither"),
        ("", "yes", 0.0, "neither"),
    ],
)
def test_yes_no(response, target, score, label):
    [verdict] = load_judge("yes_no").judge([Item("Is it?", response, target=target)])
    assert (verdict.score, verdict.label, verdict.unsafe) == (score, label, None)


def test_yes_no_needs_a_right_answer():
    good, bad = Item("Is it?", "yes", target="yes"), Item("Is it?", "yes", target="maybe")
    verdicts = load_judge("yes_no").judge([good, bad, good])
    assert [verdict.score for verdict in verdicts] == [1.0, None, 1.0]
    assert "target of yes or no, got 'maybe'" in verdicts[1].raw


def test_an_item_without_a_right_answer_does_not_take_the_others_down():
    items = [Item("?", "14", target="14"), Item("?", "14"), Item("?", "14", target="a<AND>")]
    verdicts = load_judge("mmvet_match").judge(items)
    assert [verdict.score for verdict in verdicts] == [1.0, None, None]
    assert "has an empty part" in verdicts[1].raw


@pytest.mark.parametrize("error", [DataError, MessageError])
def test_an_item_that_a_judge_cannot_take_is_unread_with_its_reason(error):
    class Picky:
        name = version = "picky"

        def judge(self, items):
            if any(item.prompt == "bad" for item in items):
                raise error("no image at\n gone.png")
            return [Judgement(False, 0.0, "safe", "") for _ in items]

    verdicts = judge_each(Picky(), [Item(prompt, "x") for prompt in ("a", "bad", "b")])
    assert [verdict.unsafe for verdict in verdicts] == [False, None, False]
    assert (verdicts[1].label, verdicts[1].raw) == (UNREADABLE, "no image at gone.png")
