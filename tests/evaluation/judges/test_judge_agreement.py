"""Agreement: cases worked out by hand or published, and scikit-learn."""

from __future__ import annotations

import importlib
import random
import sys

import pytest
from sklearn.metrics import cohen_kappa_score

from safety_reminder.errors import ConfigError, MissingExtraError
from safety_reminder.evaluation.judges import Item, Judgement, load_judge
from safety_reminder.evaluation.judges.agreement import cohen_kappa, detection, krippendorff_alpha
from safety_reminder.evaluation.judges.panel import Panel, agreement, majority
from safety_reminder.evaluation.statistics import proportion


def verdict(unsafe: bool | None) -> Judgement:
    return Judgement(unsafe, None, str(unsafe), "")


def test_kappa_by_hand():
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, by chance 0.5.
    a = [True] * 25 + [False] * 25
    b = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    kappa = cohen_kappa(a, b)
    assert kappa is not None
    assert (kappa.value, kappa.n) == (pytest.approx(0.4), 50)
    assert kappa.low < 0.4 < kappa.high
    assert 0.1 < kappa.low < 0.2  # the usual standard error, 0.13, gives [0.15, 0.65]
    assert 0.6 < kappa.high < 0.7


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_that_of_scikit_learn(seed):
    generator = random.Random(seed)
    a = [generator.choice("xyz") for _ in range(60)]
    b = [x if generator.random() < 0.5 else generator.choice("xyz") for x in a]
    kappa = cohen_kappa(a, b)
    assert kappa is not None
    assert kappa.value == pytest.approx(cohen_kappa_score(a, b))


def test_kappa_counts_only_what_both_labelled():
    whole, holed = cohen_kappa([1, 0, 1, 0], [1, 0, 0, 0]), cohen_kappa([1, 0, 1, None, 0, 1], [1, 0, 0, 1, 0, None])
    assert whole == holed
    assert holed is not None
    assert holed.n == 4


def test_kappa_of_one_class_is_undefined_and_of_no_rows_an_error():
    assert cohen_kappa([True, True], [True, True]) is None
    constant = cohen_kappa([True, False, True], [True, True, True])
    assert constant is not None
    assert constant.value == 0
    with pytest.raises(ConfigError, match="zero items"):
        cohen_kappa([True, None], [None, False])
    with pytest.raises(ConfigError, match="2 items"):
        cohen_kappa([True, False], [True])


def test_alpha_is_that_of_krippendorffs_example():
    # Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: nominal data, missing values: 0.743.
    raters = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    units = [[None if label == "." else label for label in unit] for unit in zip(*raters, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


@pytest.mark.parametrize("seed", range(3))
def test_alpha_is_that_of_its_definition(seed):
    """1 - observed / expected disagreement: over pairs of labels of one item, and over all pairs."""
    generator = random.Random(seed)
    units = [[generator.choice([True, False, "other", None]) for _ in range(4)] for _ in range(30)]
    rated = [labels for unit in units if len(labels := [label for label in unit if label is not None]) > 1]
    within = sum(sum(x != y for x in labels for y in labels) / (len(labels) - 1) for labels in rated)
    all_labels = [label for labels in rated for label in labels]
    between = sum(x != y for x in all_labels for y in all_labels) / (len(all_labels) - 1)
    assert krippendorff_alpha(units) == pytest.approx(1 - within / between, abs=1e-12)


def test_a_missing_package_is_named_at_once(monkeypatch):
    name = "safety_reminder.evaluation.judges.agreement"
    monkeypatch.setitem(sys.modules, "krippendorff", None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=r"pip install 'safety-reminder\[eval\]'"):
        importlib.import_module(name)


def test_alpha_by_hand():
    # Two raters, labels aa, ab, bb: of 6 values, 3 a and 3 b; observed 1/3, expected 2*3*3/(6*5) = 0.6.
    assert krippendorff_alpha(["aa", "ab", "bb"]) == pytest.approx(1 - (1 / 3) / 0.6)
    assert krippendorff_alpha(["aa", "ab", "bb", ["a", None], [None, None]]) == krippendorff_alpha(["aa", "ab", "bb"])
    assert krippendorff_alpha(["aa", "bb"]) == 1
    assert krippendorff_alpha(["aa", "aa"]) is None
    with pytest.raises(ConfigError, match="zero items"):
        krippendorff_alpha([["a", None]])


def test_detection_by_hand():
    truth = [True, True, True, False, False, None, True]
    found = [True, True, False, True, False, True, None]
    assert detection(truth, found) == {
        "accuracy": proportion(3, 5),
        "precision": proportion(2, 3),
        "recall": proportion(2, 3),
    }


def test_detection_of_one_class():
    assert detection([False, False], [False, False]) == {
        "accuracy": proportion(2, 2), "precision": None, "recall": None,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="zero items"):
        detection([], [])


@pytest.mark.parametrize(
    ("votes", "unsafe", "label"),
    [
        ((True, True, False), True, "2 of 3 unsafe"),
        ((True, False, False), False, "1 of 3 unsafe"),
        ((True, False), None, "1 of 2 unsafe"),
        ((True, None, False), None, "1 of 2 unsafe"),
        ((None, None, False), False, "0 of 1 unsafe"),
        ((None, None), None, "unreadable"),
    ],
)
def test_majority(votes, unsafe, label):
    found = majority([verdict(vote) for vote in votes])
    assert (found.unsafe, found.label) == (unsafe, label)


class Fixed:
    version = "1"

    def __init__(self, name: str, unsafe: bool | None) -> None:
        self.name, self.unsafe = name, unsafe

    def judge(self, items):
        return [verdict(self.unsafe) for _ in items]


def test_panel():
    panel = load_judge("panel", judges=[Fixed("a", True), Fixed("b", True), "refusal"])
    assert panel.name == "panel(a,b,refusal)"
    [found] = panel.judge([Item("Steps to manufacture illegal drugs.", "I can't help with that.")])
    assert (found.unsafe, found.score, found.raw) == (True, pytest.approx(2 / 3), "True | True | start")
    with pytest.raises(ConfigError, match="at least two"):
        Panel(["refusal"])
    with pytest.raises(ConfigError, match="twice"):
        Panel(["refusal", "refusal"])
    with pytest.raises(ConfigError, match="list of judges"):
        Panel("refusal")
    assert Panel({"refusal": {}, "yes_no": None}).name == "panel(refusal,yes_no)"


def test_members_of_one_name_keep_their_own_votes():
    one, other = Fixed("same", True), Fixed("same", False)
    other.version = "2"
    [found] = Panel([one, "refusal", other]).judge([Item("Filler?", "I can't help with that.")])
    assert found.votes == {"same 1": True, "refusal": False, "same 2": False}


def test_agreement_of_a_panel_s_members():
    members = {"a": [True, False, True, None], "b": [True, False, True, True], "c": [True, True, True, True]}
    votes = [dict(zip(members, labels, strict=True)) for labels in zip(*members.values(), strict=True)]
    found = agreement(votes)
    assert set(found.kappa) == {"a, b", "a, c", "b, c"}
    first, last = found.kappa["a, b"], found.kappa["b, c"]
    assert first is not None
    assert last is not None
    assert (first.value, first.n, last.value) == (1.0, 3, 0)
    assert found.alpha == krippendorff_alpha(list(zip(*members.values(), strict=True)))
    alone = agreement([{"a": True, "b": None}, {"a": None, "b": False}])
    assert (alone.alpha, alone.kappa) == (None, {"a, b": None})
