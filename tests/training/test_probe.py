"""The probe's fit, and the threshold's guarantee."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from safety_reminder.errors import ConfigError
from safety_reminder.training.probing.calibration import choose_threshold, highest_by_group, needed
from safety_reminder.training.probing.regression import auc, auc_interval, fit_probe


def two_clouds(n: int = 60, size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    unsafe = torch.arange(n) % 3 == 0
    hidden = 0.3 * torch.randn(n, size, generator=generator)
    hidden[:, 1] += torch.where(unsafe, 2.0, -1.0)
    # Axes of very different size and place, as in a model's hidden states.
    scale = torch.tensor([1.0, 0.01, 100.0, 1.0, 3.0])
    return hidden * scale + 7 * scale, unsafe


@pytest.mark.parametrize("kind", ["logistic", "pca"])
def test_a_probe_separates_what_can_be_separated(kind):
    hidden, unsafe = two_clouds()
    probe, how = fit_probe(hidden, unsafe, torch.arange(60), kind=kind, components=4)
    p_unsafe = probe(hidden)
    assert p_unsafe[unsafe].min() > 0.7
    assert p_unsafe[~unsafe].max() < 0.3
    assert how["kind"] == kind


@pytest.mark.parametrize("kind", ["logistic", "pca"])
def test_the_folded_map_is_what_the_pipeline_computes(kind, monkeypatch):
    hidden, unsafe = two_clouds()
    hidden[:, 1] += torch.randn(60, generator=torch.Generator().manual_seed(1)) * 0.02  # so that it is not certain
    fitted = []
    original = LogisticRegression.fit
    monkeypatch.setattr(LogisticRegression, "fit", lambda self, x, y: fitted.append((self, x)) or original(self, x, y))
    probe, _ = fit_probe(hidden, unsafe, torch.arange(60), kind=kind, components=3)
    model, inputs = fitted[-1]
    assert probe(hidden).tolist() == pytest.approx(model.predict_proba(inputs)[:, 1].tolist(), abs=1e-4)


def test_more_components_than_a_fold_has_rows_are_as_many_as_fit():
    hidden, unsafe = two_clouds(24, 5)
    wide = torch.cat([hidden, torch.randn(24, 40, generator=torch.Generator().manual_seed(2))], 1)
    probe, _ = fit_probe(wide, unsafe, torch.arange(24), kind="pca", components=32)
    assert probe.weight.shape == (45,)


def test_the_interval_of_an_area_draws_whole_answers():
    generator = torch.Generator().manual_seed(0)
    unsafe = torch.arange(40) % 2 == 0
    scores = torch.randn(40, generator=generator) + unsafe
    once = auc_interval(scores, unsafe, torch.arange(40))
    repeated = auc_interval(scores.repeat(6), unsafe.repeat(6), torch.arange(40).repeat(6))
    assert once[0] < auc(scores, unsafe) < once[1]
    assert repeated == pytest.approx(once, abs=0.03)  # six copies of each check tell no more than one


def test_the_interval_is_that_of_areas_of_resampled_answers():
    generator = torch.Generator().manual_seed(3)
    unsafe = torch.rand(60, generator=generator) < 0.3
    scores = (torch.randn(60, generator=generator) + unsafe).round(decimals=1)  # with ties
    groups = torch.arange(60) // 3
    draw = np.random.default_rng(0)
    areas = []
    for _ in range(50):
        rows = torch.cat([(groups == group).nonzero()[:, 0] for group in draw.choice(20, 20)])
        areas.append(auc(scores[rows], unsafe[rows]))
    assert auc_interval(scores, unsafe, groups, resamples=50) == pytest.approx(np.percentile(areas, (2.5, 97.5)))


def test_a_probe_does_not_lean_to_the_larger_class():
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(4000, 2, generator=generator)
    unsafe = torch.arange(4000) % 20 == 0
    hidden[unsafe] += 1.0
    probe, _ = fit_probe(hidden, unsafe, torch.arange(4000))
    found = [(probe(hidden[unsafe]) >= 0.5).double().mean(), (probe(hidden[~unsafe]) < 0.5).double().mean()]
    assert min(found) > 0.7
    assert abs(found[0] - found[1]) < 0.08


def test_cross_validation_never_tells_apart_the_checks_of_one_answer(monkeypatch):
    groups = torch.arange(60) // 3
    unsafe = groups % 2 == 0
    generator = torch.Generator().manual_seed(0)
    # The first axes name the answer and nothing else: a fold that shares answers would rank perfectly.
    hidden = torch.nn.functional.one_hot(groups).float() * 10 + 0.01 * torch.randn(60, 20, generator=generator)
    _, how = fit_probe(hidden, unsafe, groups)
    assert how["folds"] == 5
    from sklearn.model_selection import GridSearchCV

    scores = []
    original = GridSearchCV.fit
    monkeypatch.setattr(
        GridSearchCV, "fit", lambda self, *a, **k: scores.append(original(self, *a, **k).best_score_) or self
    )
    fit_probe(hidden, unsafe, groups)
    assert scores[0] < -0.5  # the log loss of knowing nothing is 0.69


@pytest.mark.parametrize("unsafe", [torch.zeros(4).bool(), torch.ones(4).bool()])
def test_a_probe_needs_both_kinds(unsafe):
    with pytest.raises(ConfigError, match="safe and unsafe"):
        fit_probe(torch.randn(4, 2), unsafe, torch.arange(4))
    with pytest.raises(ConfigError, match="safe and unsafe"):
        auc(torch.rand(4), unsafe)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=25))
def test_the_area_under_the_curve_is_the_share_of_pairs_in_order(rows):
    scores, labels = torch.tensor([r[0] / 5 for r in rows]), torch.tensor([r[1] for r in rows])
    if labels.all() or not labels.any():
        return
    pairs = [(u, s) for u, yes in rows if yes for s, no in rows if not no]
    wins = sum(1.0 if u > s else 0.5 if u == s else 0.0 for u, s in pairs)
    assert auc(scores, labels) == pytest.approx(wins / len(pairs))


@settings(max_examples=200, deadline=None)
@given(
    scores=st.lists(st.integers(0, 999).map(lambda i: i / 1000), min_size=1, max_size=80),
    budget=st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5]),
)
def test_the_threshold_keeps_false_alarms_within_the_budget(scores, budget):
    highest = torch.tensor(scores, dtype=torch.float64)
    threshold, found = choose_threshold(highest, budget)
    alarms, n = int((highest >= threshold).sum()), len(scores)
    assert 0.5 <= threshold < 1
    assert alarms <= max(0.0, budget * (n + 1) - 1) + 1e-9
    assert (found["n"], found["needed"]) == (n, needed(budget))
    assert found["guaranteed"] >= (alarms + 1) / (n + 1) - 1e-9
    if n >= needed(budget):
        assert found["guaranteed"] <= budget + 1e-9
    else:
        assert alarms == 0


def test_new_responses_alarm_no_more_often_than_the_budget():
    # The guarantee is over draws of calibration and response together: repeat both.
    generator = torch.Generator().manual_seed(0)
    alarms = []
    for _ in range(400):
        drawn = torch.rand(99 + 50, generator=generator, dtype=torch.float64)
        threshold, _ = choose_threshold(0.5 + 0.4 * drawn[:99], 0.1)
        alarms.append(((0.5 + 0.4 * drawn[99:]) >= threshold).double().mean().item())
    assert sum(alarms) / len(alarms) == pytest.approx(0.1, abs=0.01)


def test_the_threshold_is_the_lowest_that_does():
    highest = torch.linspace(0.6, 0.99, 40, dtype=torch.float64)
    threshold, found = choose_threshold(highest, 0.1)
    # The conformal rank: ceil(41 * 0.9) = 37 of 40 scores lie below.
    assert (highest < threshold).sum() == 37
    assert threshold == pytest.approx(float(highest[36]), abs=2e-5)
    assert found["budget"] == 0.1


def test_too_few_responses_take_the_highest_and_say_how_many_it_takes():
    threshold, found = choose_threshold(torch.tensor([0.1, 0.8, 0.6]), 0.005)
    assert threshold == pytest.approx(0.8, abs=2e-5)
    assert found["needed"] == 199
    assert found["guaranteed"] == 0.25


def test_low_scores_do_not_bring_the_threshold_below_even_odds():
    assert choose_threshold(torch.full((9,), 0.01), 0.1)[0] == 0.5


def test_a_probe_that_is_certain_of_a_safe_response_promises_nothing():
    assert choose_threshold(torch.ones(99), 0.1)[1]["guaranteed"] == 1.0


def test_a_threshold_at_even_odds_promises_what_its_rank_does_and_not_what_it_happened_to_let_pass():
    threshold, found = choose_threshold(torch.full((99,), 0.01), 0.1)
    assert (threshold, found["guaranteed"]) == (0.5, 0.1)


def test_a_score_that_is_not_finite_is_an_error():
    with pytest.raises(ConfigError, match="needs finite scores"):
        choose_threshold(torch.tensor([0.1, float("nan"), 0.2]), 0.1)


def test_no_responses_are_an_error():
    with pytest.raises(ConfigError, match="there are none"):
        choose_threshold(torch.zeros(0), 0.1)


@pytest.mark.parametrize(("budget", "least"), [(0.005, 199), (0.01, 99), (0.1, 9), (0.3, 3)])
def test_so_many_responses_are_the_least_for_a_budget(budget, least):
    assert needed(budget) == least
    assert math.ceil((least + 1) * (1 - budget) - 1e-9) <= least
    assert math.ceil(least * (1 - budget) - 1e-9) > least - 1


def test_of_the_checks_of_one_response_the_highest_counts():
    scores, groups = torch.tensor([0.1, 0.9, 0.3, 0.2]), torch.tensor([0, 0, 1, 1])
    assert highest_by_group(scores, groups).tolist() == pytest.approx([0.9, 0.3])
