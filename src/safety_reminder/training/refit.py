"""What can be redone for an existing reminder: its probe, and its threshold."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from safety_reminder.config import GuardConfig
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.guard import SafetyReminder
from safety_reminder.models import VLM
from safety_reminder.training.config import TrainingConfig, current_names
from safety_reminder.training.leave_out import require_known, set_apart
from safety_reminder.training.prefixes import Prefixes
from safety_reminder.training.probing.calibration import calibrate_by, calibrate_on_split
from safety_reminder.training.probing.places import RIVALS, fit_at
from safety_reminder.training.probing.readings import Where, read
from safety_reminder.training.probing.report import auc_metrics, own_and_rivals, write_report, write_summary
from safety_reminder.training.samples import (
    Sample,
    make_samples,
    manifest,
    seen_as,
    split,
    tell_what_is_left_out,
    write_splits,
)
from safety_reminder.types import TrainingExample

log = logging.getLogger(__name__)


def calibrate(
    vlm: VLM,
    reminder: SafetyReminder,
    examples: Sequence[TrainingExample],
    config: TrainingConfig,
    output: Path,
    source: str = "given",
    interval: int | None = None,
) -> SafetyReminder:
    """A new threshold for ``reminder`` from safe responses, as from the operator's logs; written to ``output/pack``.

    Unsafe rows are not looked at. Of ``config``, the options marked ``calibration`` matter. ``interval``: for checks
    every so many tokens; the pack keeps it.

    Raises:
        DataError: no safe responses that the reminder was not trained on.
    """
    safe = [example for example in examples if example.safe]
    if not safe:
        raise DataError(f"{source} has no safe responses to calibrate on")
    require_known(examples, config.left_out)
    config = _with_prompt_check(config, reminder)
    prefixes = Prefixes(vlm, config.with_changes(prefix_cache_gb=0.0), output / "prefixes")
    reminder = reminder if interval is None else replace(reminder, interval=interval)
    samples, left_out = set_apart(make_samples(vlm, safe, config, option="on_error"), config.left_out)
    if not samples:
        raise DataError(f"leave_out leaves no safe responses of {source} to calibrate on")
    seen = set(reminder.training.get("seen", ()))
    fresh = [sample for sample in samples if seen_as(sample.key) not in seen]
    if len(fresh) < len(samples):
        log.warning("left out: %d responses that the reminder was trained on", len(samples) - len(fresh))
    if not fresh:
        raise DataError(f"the reminder was trained on all safe responses of {source}; calibrate on others")
    samples = fresh
    checks = read(prefixes, samples, reminder.vectors, reminder.interval, description="calibrating")
    thresholds, calibration = calibrate_by(
        config.thresholds,
        reminder.probe,
        checks,
        config.false_alarm_budget,
        prompt_check=bool(config.prompt_check),
        images=[sample.example.image is not None for sample in samples],
    )
    data = manifest(source, samples)
    told = {**calibration, "rows": "given", "data": data}
    calibrated = replace(reminder, **thresholds, calibration=told)
    if left_out:
        tested = _alarms_on(left_out, prefixes, calibrated, prompt_check=bool(config.prompt_check))
        calibrated = replace(calibrated, calibration={**calibrated.calibration, "left_out": tested})
    calibrated.save_pretrained(output / "pack")
    chosen = {name: value for name, value in thresholds.items() if value is not None}
    metrics = {**chosen, "guaranteed": calibration["guaranteed"], "safe_responses": calibration["n"]}
    options = config.model_dump(include=set(config.marked("calibration"))) | {"interval": reminder.interval}
    about = {"data": data, "calibration": options}
    write_summary(output, vlm, {name: {"value": value} for name, value in metrics.items()}, about)
    return calibrated


def _alarms_on(
    samples: Sequence[Sample], prefixes: Prefixes, reminder: SafetyReminder, *, prompt_check: bool
) -> dict[str, Any]:
    """How many safe responses there are, and on how many of them the reminder alarms."""
    checks = read(prefixes, samples, reminder.vectors, reminder.interval, description="testing")
    used = checks if prompt_check else checks.select(checks.tokens > 0)
    guard = GuardConfig().replace(threshold=reminder.threshold, **reminder.other_thresholds)
    limits = [
        guard.limit("periodic" if tokens else "prompt", image=samples[group].example.image is not None)
        for tokens, group in zip(used.tokens.tolist(), used.groups.tolist(), strict=True)
    ]
    unsafe = reminder.probe(used.hidden) >= torch.tensor(limits)
    return {"n": len(used.groups.unique()), "alarms": len(used.groups[unsafe].unique())}


def as_trained(config: TrainingConfig, reminder: SafetyReminder) -> TrainingConfig:
    """``config`` for a new probe of ``reminder``: the prompt is checked as the pack has it, unless the options say."""
    trained = current_names(reminder.training.get("config", {}))
    # The vectors were trained at these places too, so the probe that reads them must know them.
    further = {name: max(getattr(config, name), trained.get(name, 0.0)) for name in config.marked("further_place")}
    return _with_prompt_check(config.with_changes(**further), reminder)


def _with_prompt_check(config: TrainingConfig, reminder: SafetyReminder) -> TrainingConfig:
    """As the reminder has it, unless the options turn it on or off: a new threshold does not turn off a check."""
    if config.prompt_check is None:
        return config.with_changes(prompt_check=reminder.prompt_check)
    return config


def refit_probe(
    vlm: VLM,
    reminder: SafetyReminder,
    examples: Sequence[TrainingExample],
    config: TrainingConfig,
    output: Path,
    source: str = "given",
) -> tuple[SafetyReminder, dict[str, Any]]:
    """A new probe and threshold for ``reminder``. With ``config.rivals``, two probes that need no reminder are fitted
    beside it, on the same rows and splits.

    Returns:
        The pack, written to ``output/pack``, and the AUCs of the probes on the test rows (see
        :func:`~safety_reminder.training.probing.report.write_report`, whose plots go to ``output``).
    """
    config = as_trained(config, reminder)
    samples = make_samples(vlm, examples, config)
    # Rows that the vectors were trained on can only serve for fitting.
    seen = reminder.training.get("seen", ())
    parts = split(samples, config, held_back=("calibration", "test"), seen=seen)
    tell_what_is_left_out(samples, parts, seen)
    if not parts["test"]:
        raise ConfigError("training.test=0 leaves no rows to judge probes on")
    if not parts["calibration"]:
        raise ConfigError("training.calibration=0 leaves no rows for the threshold")
    prefixes = Prefixes(vlm, config, output / "prefixes")
    options: dict[str, Any] = {"vectors": reminder.vectors, "interval": reminder.interval}
    places: tuple[Where, ...] = ("reminder", *(RIVALS if config.rivals else ()))
    fitted = {where: fit_at(where, prefixes, parts, config, **options) for where in places}
    judged = {where: (fit.probe, fit.test) for where, fit in fitted.items() if fit.test is not None}
    aucs = write_report(output, judged, reminder.interval)
    own = fitted["reminder"]
    thresholds, calibration = calibrate_on_split(own.probe, prefixes, parts, config, **options)
    prefixes.forget()
    refitted = replace(
        reminder,
        probe=own.probe,
        **thresholds,
        hold_back_checks=config.hold_back_checks or reminder.hold_back_checks,
        calibration=calibration,
        training={
            **reminder.training,
            "seen": sorted({*seen, *(seen_as(sample.key) for sample in parts["training"])}),
            "probe": {**own.how, "data": manifest(source, samples), "left_out": config.left_out},
            "test": own_and_rivals(aucs),
        },
    )
    refitted.save_pretrained(output / "pack")
    write_splits(output, parts)
    options = config.with_changes(interval=reminder.interval).model_dump()
    about = {"data": manifest(source, samples), "training": options}
    write_summary(output, vlm, auc_metrics(judged, reminder.interval), about)
    return refitted, aucs
