"""Losses by step: a CSV, and TensorBoard or Weights & Biases where they are installed."""

from __future__ import annotations

import csv
import importlib.util
import os
from pathlib import Path
from typing import Any

from safety_reminder.errors import ConfigError, MissingExtraError, unknown_name

TRACKERS = ("tensorboard", "wandb", "none")


class Logs:
    """Appends to ``losses.csv``. A run that goes on from ``step`` first drops the lines behind it, so that a run that
    was killed leaves the same file as one that was not.

    Args:
        log_with: ``tensorboard``, ``wandb``, both joined by a comma, or ``none``.
    """

    def __init__(self, output: Path, log_with: str, step: int, main: bool) -> None:
        wanted = [name.strip() for name in log_with.split(",") if name.strip()]
        for name in wanted:
            if name not in TRACKERS:
                raise ConfigError(unknown_name("training.log_with", name, TRACKERS))
        self.main, self.path = main, output / "losses.csv"
        self.tensorboard: Any = None
        self.wandb: Any = None
        if not main:
            return
        rows = self._rows(step)
        self.columns = ["step", *(name for name in (rows[0] if rows else {}) if name != "step")]
        self._rewrite(rows)
        if "tensorboard" in wanted:
            if importlib.util.find_spec("tensorboard") is None:
                raise MissingExtraError("tensorboard", "train")
            from torch.utils.tensorboard import SummaryWriter

            self.tensorboard = SummaryWriter(str(output / "tensorboard"), purge_step=step + 1)
        if "wandb" in wanted:
            if importlib.util.find_spec("wandb") is None:
                raise ConfigError("training.log_with=wandb, but wandb is not installed; run: pip install wandb")
            import wandb  # type: ignore[import-not-found]

            self.wandb = wandb.init(project="safety-reminder", name=output.name, dir=str(output), resume="allow")

    def write(self, step: int, values: dict[str, float]) -> None:
        if not self.main:
            return
        row = {"step": step, **{name: f"{value:.6g}" for name, value in values.items()}}
        if new := [name for name in row if name not in self.columns]:
            rows = self._rows(step - 1)
            self.columns += new
            self._rewrite(rows)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)
        for name, value in values.items():
            if self.tensorboard is not None:
                self.tensorboard.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(values, step=step)

    def close(self) -> None:
        if self.tensorboard is not None:
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish()

    def _rows(self, last: int) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            # A line that a killed run left unfinished has cells missing.
            rows = [row for row in csv.DictReader(file) if None not in row.values() and row["step"].isdigit()]
        return [row for row in rows if int(row["step"]) <= last]

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        scratch = self.path.with_suffix(".new")
        with scratch.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(scratch, self.path)
