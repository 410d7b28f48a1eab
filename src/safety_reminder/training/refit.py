"""What can be redone for a reminder that is there: its probe, and its threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from safety_reminder.errors import ConfigError, DataError
from safety_reminder.guard import SafetyReminder
from safety_reminder.models import VLM
from safety_reminder.training.calibration import calibrate_on
from safety_reminder.training.config import TrainingConfig
from safety_reminder.training.examples import manifest
from safety_reminder.training.probe import fit_probe
from safety_reminder.training.readings import Where, read
from safety_reminder.training.report import write_report
from safety_reminder.training.samples import Prefixes, make_samples, split
from safety_reminder.types import TrainingExample


def calibrate(
    vlm: VLM,
    reminder: SafetyReminder,
    examples: Sequence[TrainingExample],
    config: TrainingConfig,
    output: Path,
    source: str = "given",
) -> SafetyReminder:
    """A new threshold for ``reminder`` from safe responses, as from the operator's logs; written to ``output/pack``.

    Unsafe rows are not looked at. Of ``config``, ``budget``, ``prompt_check`` and ``answer_tokens`` matter.

    Raises:
        DataError: no safe responses.
    """
    safe = [example for example in examples if example.safe]
    if not safe:
        raise DataError(f"{source} has no safe responses to calibrate on")
    prefixes = Prefixes(vlm, replace(config, keep_gb=0.0), output / "prefixes")
    samples = make_samples(vlm, safe, config)
    checks = read(prefixes, samples, reminder.vectors, reminder.interval, description="calibrating")
    threshold, calibration = calibrate_on(reminder.probe, checks, config.budget, prompt_check=config.prompt_check)
    calibrated = replace(
        reminder, threshold=threshold, calibration={**calibration, "rows": "given", "data": manifest(source, safe)}
    )
    calibrated.save_pretrained(output / "pack")
    return calibrated


def refit_probe(
    vlm: VLM,
    reminder: SafetyReminder,
    examples: Sequence[TrainingExample],
    config: TrainingConfig,
    output: Path,
    source: str = "given",
) -> tuple[SafetyReminder, dict[str, Any]]:
    """A new probe and threshold for ``reminder``, beside two that need no reminder, all on the same rows and splits.

    Returns:
        The pack, written to ``output/pack``, and the AUCs of the three probes on the test rows (see
        :func:`~safety_reminder.training.report.write_report`, whose plots go to ``output``).
    """
    parts = split(make_samples(vlm, examples, config), config)
    if not parts["test"]:
        raise ConfigError("training.test=0 leaves no rows to judge probes on")
    prefixes = Prefixes(vlm, config, output / "prefixes")
    probes, how = {}, {}
    for where in get_args(Where):
        options: dict[str, Any] = {"where": where, "description": f"reading, {where}"}
        fitting = read(prefixes, parts["training"], reminder.vectors, reminder.interval, **options)
        test = read(prefixes, parts["test"], reminder.vectors, reminder.interval, **options)
        probe, how[where] = fit_probe(
            fitting.hidden,
            fitting.unsafe,
            fitting.groups,
            kind=config.probe,
            components=config.pca,
        )
        probes[where] = (probe, test)
    found = write_report(output, probes, reminder.interval)
    part = "calibration" if parts["calibration"] else "validation"
    safe = [sample for sample in parts[part] if sample.example.safe]
    checks = read(prefixes, safe, reminder.vectors, reminder.interval, description="calibrating")
    prefixes.forget()
    probe = probes["reminder"][0]
    threshold, calibration = calibrate_on(probe, checks, config.budget, prompt_check=config.prompt_check)
    refitted = replace(
        reminder,
        probe=probe,
        threshold=threshold,
        calibration={**calibration, "rows": part},
        training={
            **reminder.training,
            "probe": {**how["reminder"], "data": manifest(source, examples)},
            "test": {"auc": found["reminder"], "rivals": {name: found[name] for name in ("header", "last")}},
        },
    )
    refitted.save_pretrained(output / "pack")
    return refitted, found
