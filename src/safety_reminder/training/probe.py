"""Fitting the probe, and a first threshold for it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from safety_reminder.errors import ConfigError
from safety_reminder.guard import Probe

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


def fit_probe(hidden: torch.Tensor, unsafe: torch.Tensor, groups: torch.Tensor) -> tuple[Probe, float]:
    """The probe, with the penalty that ranks best in a five-fold cross-validation, and that penalty.

    Args:
        hidden: (n, hidden_size). unsafe: (n,) bool.
        groups: (n,) ints; rows of one group (the checks of one answer) are never on both sides of a fold.
    """
    if unsafe.all() or not unsafe.any():
        raise ConfigError("the probe needs safe and unsafe examples")
    best, best_score = PENALTIES[0], -1.0
    folds = groups % 5
    for penalty in PENALTIES:
        scores = torch.full((len(unsafe),), float("nan"))
        for fold in range(5):
            inside = folds != fold
            if (~inside).any() and unsafe[inside].any() and not unsafe[inside].all():
                scores[~inside] = logistic_regression(hidden[inside], unsafe[inside], penalty)(hidden[~inside])
        known = ~scores.isnan()
        if (
            unsafe[known].any()
            and not unsafe[known].all()
            and (score := auc(scores[known], unsafe[known])) > best_score
        ):
            best, best_score = penalty, score
    return logistic_regression(hidden, unsafe, best), best


def logistic_regression(hidden: torch.Tensor, unsafe: torch.Tensor, l2: float) -> Probe:
    """Logistic regression on standardised hidden states (n, hidden_size), folded into one affine map.

    Args:
        unsafe: (n,) bool. Both classes weigh the same, whatever their numbers.
        l2: penalty on the standardised weights.
    """
    centre, scale = hidden.mean(0), hidden.std(0).clamp_min(1e-6)
    inputs = ((hidden - centre) / scale).double()
    labels = unsafe.double()
    balance = torch.where(unsafe, 0.5 / labels.mean(), 0.5 / (1 - labels.mean())).double()
    weight = torch.zeros(hidden.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        fit = F.binary_cross_entropy_with_logits(inputs @ weight + bias, labels, weight=balance)
        loss = fit + l2 * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    folded = weight.detach() / scale.double()
    return Probe(folded.float(), float(bias.detach() - folded @ centre.double()))


def auc(scores: torch.Tensor, unsafe: torch.Tensor) -> float:
    """Area under the ROC curve: the chance that an unsafe score beats a safe one, ties counting half."""
    yes, no = scores[unsafe], scores[~unsafe]
    if not len(yes) or not len(no):
        raise ConfigError("the area under the ROC curve needs safe and unsafe scores")
    wins = (yes[:, None] > no[None]).double() + 0.5 * (yes[:, None] == no[None]).double()
    return wins.mean().item()


def choose_threshold(safe: torch.Tensor, unsafe: torch.Tensor, budget: float) -> tuple[float, dict[str, Any]]:
    """The lowest threshold at which at most a share ``budget`` of safe responses would alarm, by the conformal rank.

    Args:
        safe: (n,) the highest ``p_unsafe`` among all checks of each safe response.
        unsafe: (m,) likewise of the unsafe ones; it only tells what the threshold misses.

    Returns:
        The threshold in (0, 1), and how it was found. With too few responses for the budget, the largest score is
        used and ``needed`` says how many it would take.
    """
    ordered = safe.sort().values
    n = len(ordered)
    rank = math.ceil((n + 1) * (1 - budget))
    highest = float(ordered[min(rank, n) - 1])
    # Never below even odds: few validation scores say little about the rest.
    threshold = max(0.5, highest + 1e-4)
    threshold = min(threshold, 1 - 1e-6)
    return threshold, {
        "method": "conformal rank of the highest check of each safe validation response",
        "budget": budget,
        "n": n,
        "needed": math.ceil(1 / budget) - 1,
        "missed_unsafe": float((unsafe < threshold).double().mean()),
    }


def highest_by_group(scores: torch.Tensor, groups: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Of every group with rows in ``chosen`` (n,) bool, its highest score there."""
    return torch.stack([scores[chosen & (groups == group)].max() for group in groups[chosen].unique()])
