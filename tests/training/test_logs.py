"""Losses in a file, and what accelerate's trackers are told."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from safety_reminder.errors import ConfigError, MissingExtraError
from safety_reminder.training import logs, trainer
from safety_reminder.training.logs import LossFile, trackers
from training.test_trainer import fit, logged


@pytest.mark.parametrize(
    ("log_with", "names"),
    [
        ("tensorboard", ["tensorboard"]),
        (" tensorboard , none", ["tensorboard"]),
        ("tensorboard,tensorboard", ["tensorboard"]),
        ("none", []),
        ("", []),
    ],
)
def test_trackers_are_named_in_a_list_with_commas(log_with, names):
    assert trackers(log_with) == names


def test_a_tracker_that_is_unknown_or_not_installed_is_named_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "get_available_trackers", list)
    with pytest.raises(ConfigError, match=r"unknown training\.log_with 'tensorbord'; did you mean 'tensorboard'\?"):
        trackers("none,tensorbord")
    with pytest.raises(MissingExtraError, match=r"tensorboard is not installed; run: pip install '.*\[train\]'"):
        trackers("tensorboard")
    for name, package in (("wandb", "wandb"), ("comet_ml", "comet-ml")):
        message = f"training.log_with={name}, but {package} is not installed; run: pip install {package}"
        with pytest.raises(ConfigError, match=message):
            trackers(name)
    monkeypatch.setattr(trainer, "make_samples", lambda *arguments: 1 / 0)
    with pytest.raises(ConfigError, match="wandb is not installed"):
        fit(tmp_path, log_with="wandb")


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_a_tracker_is_told_what_the_file_says_also_by_a_run_that_goes_on(tmp_path, monkeypatch):
    step, calls = trainer.Trainer._train_batch, []

    def break_off(*arguments):
        calls.append(None)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(trainer.Trainer, "_train_batch", break_off)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, log_with="tensorboard")
    monkeypatch.undo()
    fit(tmp_path, log_with="tensorboard")
    [folder] = {path.parent for path in (tmp_path / "run" / "tensorboard").rglob("events.*")}
    for name in ("loss", "gradient_norm", "learning_rate", "validation_loss"):
        steps, told = zip(*scalars(folder, name), strict=True)
        written = [(int(row["step"]), float(row[name])) for row in logged(tmp_path) if row[name]]
        assert list(steps) == [step for step, _ in written]  # none twice, though it was taken twice
        assert list(told) == pytest.approx([value for _, value in written], rel=1e-4)


def lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "losses.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_loss_file_grows_a_column_when_there_is_more_to_say(tmp_path):
    losses = LossFile(tmp_path)
    losses.write(1, {"loss": 1.5})
    losses.write(2, {"loss": 1.25, "validation_loss": 2.0})
    assert lines(tmp_path) == [
        {"step": "1", "loss": "1.5", "validation_loss": ""},
        {"step": "2", "loss": "1.25", "validation_loss": "2"},
    ]


def test_a_run_that_goes_on_drops_later_lines_and_one_that_was_cut_off(tmp_path):
    losses = LossFile(tmp_path)
    for step in range(1, 5):
        losses.write(step, {"loss": step / 2, "kl": 0.0})
    path = tmp_path / "losses.csv"
    path.write_text(path.read_text() + "5")
    LossFile(tmp_path, 3).write(4, {"loss": 9.0, "kl": 0.0})
    assert [(row["step"], row["loss"]) for row in lines(tmp_path)] == [
        ("1", "0.5"),
        ("2", "1"),
        ("3", "1.5"),
        ("4", "9"),
    ]
    assert len(lines(tmp_path)) == 4
    LossFile(tmp_path)
    assert lines(tmp_path) == []
