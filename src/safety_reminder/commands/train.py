"""What the commands ``train``, ``probe`` and ``calibrate`` do with their configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from omegaconf import OmegaConf
from yaml import YAMLError

from safety_reminder.data import load_dataset
from safety_reminder.data.training_sets.loading import load_training
from safety_reminder.errors import ConfigError
from safety_reminder.guard import SafetyReminder, load
from safety_reminder.models import VLM, load_vlm
from safety_reminder.training import refit, trainer
from safety_reminder.training.config import TrainingConfig
from safety_reminder.training.contamination import refuse_contamination
from safety_reminder.training.probing.report import side_by_side
from safety_reminder.types import Example, TrainingExample


def train(values: dict[str, Any], output: Path) -> tuple[VLM, SafetyReminder]:
    """Learn a reminder into ``output``."""
    config = TrainingConfig.parse(values["training"], "training")
    examples = load_rows(values)
    device = values["device"]
    if device is None and "LOCAL_RANK" in os.environ:
        device = PartialState().device  # of this process, where `accelerate launch` started several
    vlm = load_vlm(values["model"], device=device, dtype=values["dtype"])
    drawn = {name: value for name, value in values["data"].items() if name not in ("sets", "root")}
    origin = {**drawn, **{name: values[name] for name in ("check_against", "test_on", "allow_contamination")}}
    reminder = trainer.train(vlm, examples, config, output, values["data"]["sets"], origin)
    if not is_main_process():
        return vlm, reminder
    auc = reminder.training["test"].get("auc", {}).get("all", {}).get("all")
    print(f"wrote {output / 'pack'}" + (f": AUC of the probe on test rows {auc:.3f}" if auc is not None else ""))
    _print_threshold(reminder)
    return vlm, reminder


def is_main_process() -> bool:
    """False in all but one of the processes that ``accelerate launch`` started."""
    return PartialState().is_main_process


def probe(values: dict[str, Any], output: Path) -> None:
    """Fit the probe of a reminder anew, and print it beside its rivals."""
    config = TrainingConfig.parse(values["training"], "training")
    if values["test_on"]:
        raise ConfigError("probe answers no data sets; leave test_on out, and give the new pack to evaluate")
    vlm, reminder = _load(values)
    refitted, found = refit.refit_probe(vlm, reminder, load_rows(values), config, output, values["data"]["sets"])
    print(side_by_side(found))
    print(f"wrote {output / 'pack'}, auc.csv and plots")
    _print_threshold(refitted)


def calibrate(values: dict[str, Any], output: Path) -> None:
    """Set the threshold of a reminder anew."""
    options = {name: values[name] for name in TrainingConfig.marked("calibration")}
    config = TrainingConfig.parse(options)
    interval = values["interval"]
    if interval is not None and (not isinstance(interval, int) or interval < 1):
        raise ConfigError(f"interval must be a number of tokens, at least 1; got {interval!r}")
    vlm, reminder = _load(values)
    examples = load_rows(values, both_kinds=False)
    calibrated = refit.calibrate(vlm, reminder, examples, config, output, values["data"]["sets"], interval)
    print(f"wrote {output / 'pack'}: threshold {reminder.threshold:.4f} → {calibrated.threshold:.4f}")
    _print_threshold(calibrated)


def load_rows(values: dict[str, Any], *, both_kinds: bool = True) -> list[TrainingExample]:
    """The rows that ``data`` names, none of which are in the sets of ``check_against`` and ``test_on``.

    Raises:
        DataError: rows that cannot be read, or that are in one of these sets.
    """
    data = dict(values["data"])
    on_error = values.get("training", values).get("on_error", "stop")
    examples = load_training(data.pop("sets"), data.pop("root"), both_kinds=both_kinds, on_error=on_error, **data)
    # What a run is tested on must not be trained on either.
    evaluation = named_datasets("check_against", values.get("check_against"))
    evaluation |= named_datasets("test_on", values.get("test_on"))
    if evaluation and not values["allow_contamination"]:
        refuse_contamination(examples, evaluation)
    return examples


def named_datasets(option: str, entries: Sequence[str] | None) -> dict[str, list[Example]]:
    """``NAME:FOLDER`` entries of an option, perhaps with ``:key=value`` for the data set's options, → the data sets."""
    found = {}
    for entry in entries or []:
        name, colon, rest = str(entry).partition(":")
        if not colon:
            raise ConfigError(f"{option} needs NAME:FOLDER, for example figstep:data/FigStep; got {entry!r}")
        root, *options = re.split(r":(?=\w+=)", rest)
        try:
            given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(options))
        except YAMLError as error:
            raise ConfigError(f"{option}: an option of {entry!r} is not a value: {error}") from error
        if {"name", "root"} & set(given):
            raise ConfigError(f"{option}: {entry!r} gives name or root twice; it is NAME:FOLDER:key=value")
        found[str(entry)] = load_dataset(name, root, **given)
    return found


def _load(values: dict[str, Any]) -> tuple[Any, SafetyReminder]:
    if values["reminder"] == "header":
        vlm = load_vlm(values["model"], device=values["device"], dtype=values["dtype"])
        return vlm, SafetyReminder.of_header(vlm)
    guarded = load(
        values["model"], values["reminder"], device=values["device"], dtype=values["dtype"],
        check_base=values["check_base"],
    )  # fmt: skip
    if guarded.reminder is None:
        raise ConfigError("give reminder=NAME or a folder")
    return guarded.vlm, guarded.reminder


def _print_threshold(reminder: SafetyReminder) -> None:
    found = reminder.calibration
    print(f"the bare prompt is {'also' if reminder.prompt_check else 'not'} checked (prompt_check)")
    if found["guaranteed"] is None:
        print(f"threshold {reminder.threshold:.4f} from the validation rows: without a guarantee")
        return
    print(
        f"threshold {reminder.threshold:.4f} from {found['n']} safe responses: a new one like them, of up to "
        f"{found['tokens']} tokens, alarms with probability at most {found['guaranteed']:.4f}"
    )
    if found["n"] < found["needed"]:
        print(f"for the budget of {found['budget']} it takes {found['needed']} safe responses; there were {found['n']}")
