"""The thresholds: split-conformal, over the highest check of each response."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safety_reminder.config.guard import OTHER_THRESHOLDS
from safety_reminder.errors import ConfigError
from safety_reminder.guard import Probe
from safety_reminder.training.config import ThresholdsBy, TrainingConfig
from safety_reminder.training.prefixes import Prefixes
from safety_reminder.training.probing.readings import Readings, prompt_numbers, read
from safety_reminder.training.samples import Sample


def needed(budget: float) -> int:
    """The least number of safe responses for a guarantee of ``budget``: ``ceil(1 / budget) - 1``."""
    return math.ceil(1 / budget - 1e-9) - 1


def choose_threshold(highest: Float[Tensor, " responses"], budget: float) -> tuple[float, dict[str, Any]]:
    """A threshold at which a new safe response alarms, at any of its checks, with probability at most ``budget``.

    Split conformal prediction (Papadopoulos et al., 2002; Vovk et al., 2005) with a response's highest ``p_unsafe`` as
    its score: if the new response and the n of the calibration are exchangeable, its score is above the
    ``ceil((n + 1)(1 - budget))``-th smallest of theirs with probability at most ``budget``. With fewer responses than
    :func:`needed` there is no such rank: the threshold lies above all of them, and the guarantee that holds is
    ``1 / (n + 1)``.

    Args:
        highest: (n,) the highest ``p_unsafe`` among all checks of each safe response.

    Returns:
        The threshold, and how it was chosen, with the false-alarm probability that is ``guaranteed``.

    Raises:
        ConfigError: no scores, or one that is not finite.
    """
    n = len(highest)
    if n == 0:
        raise ConfigError("calibration needs safe responses; there are none")
    if not torch.isfinite(highest).all():
        raise ConfigError("calibration needs finite scores; the probe's are not")
    ordered = highest.double().sort().values
    rank = math.ceil((n + 1) * (1 - budget) - 1e-9)
    # A verdict is p >= threshold, so the threshold must lie above the score of that rank.
    above = math.nextafter(float(ordered[min(rank, n) - 1]), math.inf)
    threshold = min(max(0.5, above + 1e-6), 1 - 1e-6)
    # By rank, not by how many alarm: where 0.5 is the higher of the two, that count was not fixed beforehand. Only a
    # threshold that the upper limit holds down lets more alarm than the rank says.
    alarms = max(n - min(rank, n), int((ordered >= threshold).sum()))
    return threshold, {
        "method": "split conformal, highest check of each safe response",
        "budget": budget,
        "n": n,
        "needed": needed(budget),
        "guaranteed": (alarms + 1) / (n + 1),
        "highest": [round(float(value), 6) for value in ordered],
    }


def calibrate_on(probe: Probe, checks: Readings, budget: float, *, prompt_check: bool) -> tuple[float, dict[str, Any]]:
    """:func:`choose_threshold` over ``checks`` of safe responses; those of the bare prompt count only with
    ``prompt_check``.

    What is guaranteed holds for responses of up to ``tokens``, where the last of these checks was.
    """
    used = checks if prompt_check else checks.select(checks.tokens > 0)
    threshold, calibration = choose_threshold(highest_by_group(probe(used.hidden), used.groups), budget)
    return threshold, {**calibration, "prompt_check": prompt_check, "tokens": int(used.tokens.max())}


def calibrate_by(
    by: ThresholdsBy, probe: Probe, checks: Readings, budget: float, *, prompt_check: bool, images: Sequence[bool]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The thresholds of a pack, floats by name, from ``checks`` of safe responses; all but ``threshold`` may be None.

    ``one``: as :func:`calibrate_on`. ``prompt``: the check of the bare prompt has half the budget, and the highest of
    all later ones the other half; a new safe response alarms at one of the two with at most their sum (union bound).
    ``image``: Mondrian conformal prediction (Vovk et al., 2005). Responses to conversations with an image, and without,
    have thresholds of their own, each from its own kind and with the whole budget. What is guaranteed then holds
    for each kind by itself, whatever their shares in the traffic are.

    Args:
        images: of each of ``checks.groups``, whether its conversation has an image.

    Raises:
        ConfigError: responses of one kind alone; ``prompt`` for a guard that does not check the bare prompt.
    """
    thresholds: dict[str, Any] = {"threshold": None, **dict.fromkeys(OTHER_THRESHOLDS)}
    if by == "one":
        thresholds["threshold"], calibration = calibrate_on(probe, checks, budget, prompt_check=prompt_check)
        return thresholds, calibration
    used = checks if prompt_check else checks.select(checks.tokens > 0)
    if by == "prompt":
        if not prompt_check:
            raise ConfigError(
                "thresholds=prompt is for a guard that checks the bare prompt, and this one does not; add "
                "prompt_check=true, or take thresholds=one"
            )
        masks = {"threshold": used.tokens > 0, "prompt_threshold": used.tokens == 0}
        share = budget / 2
    else:
        shows = torch.tensor([images[group] for group in used.groups.tolist()], dtype=torch.bool)
        masks, share = {"threshold": ~shows, "image_threshold": shows}, budget
    parts: dict[str, dict[str, Any]] = {}
    for name, mask in masks.items():
        if not mask.any():
            raise ConfigError(f"thresholds={by}: no safe response is of the kind that sets {name}; give some of each")
        part = used.select(mask)
        thresholds[name], parts[name] = choose_threshold(highest_by_group(probe(part.hidden), part.groups), share)
    guaranteed = [part["guaranteed"] for part in parts.values()]
    return thresholds, {
        "method": f"split conformal, thresholds by {by}",
        "by": by,
        "budget": budget,
        "n": len(used.groups.unique()),
        "needed": needed(share) * (2 if by == "image" else 1),
        "guaranteed": min(1.0, sum(guaranteed)) if by == "prompt" else max(guaranteed),
        "parts": parts,
        "prompt_check": prompt_check,
        "tokens": int(used.tokens.max()),
    }


def calibrate_on_split(
    probe: Probe,
    prefixes: Prefixes,
    parts: Mapping[str, Sequence[Sample]],
    config: TrainingConfig,
    *,
    vectors: torch.Tensor,
    interval: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The thresholds, as of :func:`calibrate_by`, from the safe rows of the calibration part; of validation, where none
    were set apart. The pack says which (``rows``): the validation rows chose the vectors, so what they give is no
    guarantee. Nor is there one for a ``threshold`` that the options give; how many of these rows alarm at it is noted.

    Parts are drawn by what is asked, so the answers to one prompt are one score, the highest: counted one by one, they
    would make the same prompts count as more than they are.
    """
    part = "calibration" if parts["calibration"] else "validation"
    safe = [sample for sample in parts[part] if sample.example.safe]
    checks = read(prefixes, safe, vectors, interval, description="calibrating")
    numbers = prompt_numbers(safe)
    checks = replace(checks, groups=numbers[checks.groups])
    images = {n: sample.example.image is not None for n, sample in zip(numbers.tolist(), safe, strict=True)}
    thresholds, calibration = calibrate_by(
        config.thresholds,
        probe,
        checks,
        config.false_alarm_budget,
        prompt_check=bool(config.prompt_check),
        images=[images[n] for n in sorted(images)],
    )
    if part == "validation":
        for told in (calibration, *calibration.get("parts", {}).values()):
            told["guaranteed"] = None
    if config.threshold is not None:
        alarms = sum(score >= config.threshold for score in calibration["highest"])
        calibration |= {"method": "given", "guaranteed": None, "alarms": alarms}
        thresholds = {**thresholds, "threshold": config.threshold}
    return thresholds, {**calibration, "rows": part}


def highest_by_group(scores: Float[Tensor, " n"], groups: Int[Tensor, " n"]) -> Float[Tensor, " groups"]:
    """(number of groups,) the highest of ``scores`` (n,) in each of ``groups`` (n,), in the groups' order."""
    highest = [scores[groups == group].max() for group in groups.unique()]
    return torch.stack(highest) if highest else scores
