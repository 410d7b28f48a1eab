"""Fitting the probe: logistic regression, plain or on principal components, folded into one affine map."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from safety_reminder.errors import ConfigError, MissingExtraError
from safety_reminder.guard import Probe

STRENGTHS = tuple(10.0**e for e in range(-4, 2))


def fit_probe(
    hidden: torch.Tensor,
    unsafe: torch.Tensor,
    groups: torch.Tensor,
    *,
    kind: str = "logistic",
    components: int = 32,
) -> tuple[Probe, dict[str, Any]]:
    """The probe whose regularisation predicts best in a cross-validation by group, and how it was fitted.

    Args:
        hidden: (n, hidden_size). unsafe: (n,) bool; both classes weigh the same, whatever their numbers.
        groups: (n,) ints; rows of one group (the checks of one answer) are never on both sides of a fold.
        kind: ``logistic``, or ``pca``: fit on ``components`` principal components, as the method's paper does.

    Raises:
        ConfigError: only one class. MissingExtraError: without scikit-learn.
    """
    try:
        from sklearn.decomposition import PCA
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train") from error
    if unsafe.all() or not unsafe.any():
        raise ConfigError("the probe needs safe and unsafe examples")
    inputs, labels = hidden.double().numpy(), unsafe.numpy()
    steps: list[tuple[str, Any]] = [("scale", StandardScaler())]
    if kind == "pca":
        steps.append(("pca", PCA(random_state=0)))
    steps.append(("regression", LogisticRegression(class_weight="balanced", max_iter=5000)))
    folds = min(5, *(len(groups[unsafe == value].unique()) for value in (True, False)))
    most = min(components, *inputs.shape)
    pipeline = Pipeline(steps)
    strength = 1.0
    parts = []
    if folds >= 2:
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
        parts = list(split.split(inputs, labels, groups.numpy()))
        most = min(most, *(len(fitted) for fitted, _ in parts))
    if kind == "pca":
        pipeline.set_params(pca__n_components=most)
    if folds >= 2:
        search = GridSearchCV(pipeline, {"regression__C": STRENGTHS}, scoring="neg_log_loss", cv=parts, refit=False)
        search.fit(inputs, labels)
        strength = float(search.best_params_["regression__C"])
    pipeline.set_params(regression__C=strength).fit(inputs, labels)
    return _fold(pipeline), {"kind": kind, "inverse_regularisation": strength, "folds": folds, "rows": len(labels)}


def _fold(pipeline: Any) -> Probe:
    """Scaling, projection and regression as one affine map of the hidden state."""
    regression, scale = pipeline["regression"], pipeline["scale"]
    weight, bias = regression.coef_[0], float(regression.intercept_[0])
    if "pca" in pipeline.named_steps:
        pca = pipeline["pca"]
        bias -= float(weight @ (pca.components_ @ pca.mean_))
        weight = weight @ pca.components_
    weight = weight / scale.scale_
    bias -= float(weight @ scale.mean_)
    # Rounded as a pack keeps it, so that a probe reads the same before and after it is saved.
    return Probe(torch.from_numpy(np.ascontiguousarray(weight)).float(), float(np.float32(bias)))


def auc_interval(
    scores: torch.Tensor, unsafe: torch.Tensor, groups: torch.Tensor, *, resamples: int = 500
) -> tuple[float, float]:
    """A 95 % percentile bootstrap interval of :func:`auc`. Whole answers are drawn, since the checks of one answer are
    alike."""
    draw = np.random.default_rng(0)
    _, member_of = np.unique(groups.numpy(), return_inverse=True)
    count = int(member_of.max()) + 1
    drawn = np.stack([np.bincount(draw.choice(count, count), minlength=count) for _ in range(resamples)])
    # All resamples at once: how often each distinct score occurs in them among unsafe and among safe rows.
    _, first, value_of = np.unique(scores.double().numpy(), return_index=True, return_inverse=True)
    order = np.argsort(value_of, kind="stable")
    starts = np.searchsorted(value_of[order], np.arange(len(first)))
    times = drawn[:, member_of[order]]
    among = lambda kind: np.add.reduceat(times * kind.numpy()[order], starts, axis=1)  # noqa: E731
    positive, negative = among(unsafe), among(~unsafe)
    pairs = positive.sum(1) * negative.sum(1)
    beaten = (positive * (negative.cumsum(1) - 0.5 * negative)).sum(1)
    low, high = np.percentile(beaten[pairs > 0] / pairs[pairs > 0], (2.5, 97.5))
    return float(low), float(high)


def auc(scores: Float[Tensor, " n"], unsafe: Bool[Tensor, " n"]) -> float:
    """Area under the ROC curve: the chance that an unsafe score beats a safe one, ties counting half."""
    if unsafe.all() or not unsafe.any():
        raise ConfigError("the area under the ROC curve needs safe and unsafe scores")
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(unsafe.numpy(), scores.double().numpy()))
