"""What a run reports while it learns: losses by step as a CSV, and accelerate's trackers on request."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from safety_reminder.errors import ConfigError, MissingExtraError, unknown_name
from safety_reminder.run_files import naming


def trackers(log_with: str) -> list[str]:
    """Names of accelerate's trackers, such as ``tensorboard`` and ``wandb``, from a list with commas; ``none`` stands
    for no tracker.

    Raises:
        ConfigError: an unknown one, or one whose package is not installed; says what to install.
    """
    names = list(dict.fromkeys(name.strip() for name in log_with.split(",") if name.strip()))
    for name in names:
        if name not in (*LOGGER_TYPE_TO_CLASS, "none"):
            raise ConfigError(unknown_name("training.log_with", name, (*LOGGER_TYPE_TO_CLASS, "none")))
    asked_for = [name for name in names if name != "none"]
    installed = {str(name) for name in get_available_trackers()}
    for name in asked_for:
        if name in installed:
            continue
        if name == "tensorboard":
            raise MissingExtraError(name, "train")
        package = name.replace("_", "-")
        raise ConfigError(f"training.log_with={name}, but {package} is not installed; run: pip install {package}")
    return asked_for


class LossFile:
    """Appends to ``losses.csv`` in ``output``. A run that goes on from ``step`` first drops the lines after it, so that
    a run that was killed leaves the same file as one that was not."""

    def __init__(self, output: Path, step: int = 0) -> None:
        self.path = output / "losses.csv"
        rows = self._rows(step)
        self.columns = ["step", *(name for name in (rows[0] if rows else {}) if name != "step")]
        self._rewrite(rows)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line. A new name becomes a new column, empty in earlier lines."""
        row = {"step": step, **{name: f"{value:.6g}" for name, value in values.items()}}
        if new := [name for name in row if name not in self.columns]:
            rows = self._rows(step - 1)
            self.columns += new
            self._rewrite(rows)
        with naming(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def _rows(self, last: int) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            # A line that a killed run left unfinished has cells missing.
            rows = [row for row in csv.DictReader(file) if None not in row.values() and row["step"].isdigit()]
        return [row for row in rows if int(row["step"]) <= last]

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        scratch = self.path.with_suffix(".new")
        with naming(self.path), scratch.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(scratch, self.path)
