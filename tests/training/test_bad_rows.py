"""Rows, images, losses and checkpoints that cannot be used: the run stops and names them, or leaves them out."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
import torch

from checkpoints import tiny_vlm
from safety_reminder.data.training_sets.loading import read_training_file, user
from safety_reminder.errors import ConfigError, DataError, SafetyReminderError
from safety_reminder.models.prefix import Prefix
from safety_reminder.training import objective, refit, train, trainer
from safety_reminder.training.samples import make_samples
from safety_reminder.types import TrainingExample
from training.test_trainer import CONFIG, fit, write_examples


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_row(tmp_path, monkeypatch):
    def broken(model, places, *_, **__):
        return objective.Losses(*(torch.full((len(places),), math.nan) for _ in range(4)))

    monkeypatch.setattr(trainer, "losses", broken)
    with pytest.raises(
        SafetyReminderError, match=r"not finite at batch 0 on '\w+ \d+\?'.*lower training\.learning_rate"
    ):
        fit(tmp_path)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    with pytest.raises(SafetyReminderError, match="no row of the last 3 batches has a finite loss"):
        fit(tmp_path, on_error="skip")


def test_rows_that_are_not_finite_can_be_left_out_and_are_named(tmp_path, monkeypatch, caplog):
    original = trainer.losses

    def broken(model, places, *arguments, **options):
        found = original(model, places, *arguments, **options)
        return replace(found, language=found.language.index_fill(0, torch.tensor([0]), math.inf))

    monkeypatch.setattr(trainer, "losses", broken)
    reminder = fit(tmp_path, on_error="skip", epochs=1)
    assert torch.isfinite(reminder.vectors).all()
    assert "left out: the loss is not finite at batch 0 on" in caplog.text


def test_a_row_whose_prefix_is_not_finite_is_left_out_and_spoils_no_gradient(tmp_path, monkeypatch, caplog):
    read = Prefix.read.__func__
    bad_answer = tiny_vlm().tokenizer("zz", add_special_tokens=False)["input_ids"]

    def broken(cls, model, inputs, answer):
        prefix = read(cls, model, inputs, answer)
        if list(answer) != bad_answer:
            return prefix
        return replace(prefix, values=tuple(torch.full_like(value, math.nan) for value in prefix.values))

    data = write_examples(tmp_path)
    bad = "".join(json.dumps({"prompt": f"Bad {i}?", "safe": True, "chosen": "zz"}) + "\n" for i in range(12))
    data.write_text(data.read_text() + bad)
    examples = read_training_file(data)
    monkeypatch.setattr(Prefix, "read", classmethod(broken))
    config = CONFIG.with_changes(on_error="skip", epochs=2)
    reminder = train(tiny_vlm(), examples, config, tmp_path / "run")
    assert torch.isfinite(reminder.vectors).all()
    assert torch.isfinite(reminder.probe.weight).all()
    assert all(math.isfinite(value) for value in reminder.calibration["highest"])
    assert re.search(r"left out: the loss is not finite at batch \d on 'Bad", caplog.text)
    assert "left out: the model's hidden state is not finite on 'Bad" in caplog.text
    with pytest.raises(SafetyReminderError, match=r"hidden state is not finite on 'Bad.*on_error=skip"):
        refit.refit_probe(tiny_vlm(), replace(reminder, training={}), examples, CONFIG, tmp_path / "probe")


def test_a_run_that_stopped_on_a_row_goes_on_with_such_rows_left_out(tmp_path, monkeypatch, caplog):
    original, calls = trainer.losses, []

    def broken(model, places, *arguments, **options):
        calls.append(None)
        found = original(model, places, *arguments, **options)
        return replace(found, language=found.language * math.nan) if len(calls) == 18 else found

    monkeypatch.setattr(trainer, "losses", broken)
    with pytest.raises(SafetyReminderError, match="leave such rows out with on_error=skip"):
        fit(tmp_path)
    monkeypatch.setattr(trainer, "losses", original)
    fit(tmp_path, on_error="skip")
    assert "resuming at batch 10" in caplog.text


def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ConfigError, match=r"checkpoint\.pt is damaged, or no checkpoint .*remove it"):
        fit(tmp_path)


def test_a_safe_row_without_an_answer_is_named(tmp_path):
    with pytest.raises(DataError, match="training row 1, 'p': a safe row needs chosen"):
        make_samples(tiny_vlm(), [TrainingExample(user("p"), True, " ")], CONFIG)


def test_a_broken_image_stops_the_run_before_training_or_is_left_out(tmp_path, caplog):
    data = write_examples(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows = data.read_text() + json.dumps({"prompt": "p", "safe": True, "chosen": "a", "image": "broken.png"}) + "\n"
    data.write_text(rows)
    with pytest.raises(DataError, match=r"training row 25, 'p': .*cannot read the image .*broken\.png"):
        train(tiny_vlm(), read_training_file(data), CONFIG, tmp_path / "run")
    config = CONFIG.with_changes(epochs=1, on_error="skip")
    reminder = train(tiny_vlm(), read_training_file(data), config, tmp_path / "run")
    assert reminder.training["data"]["safe"] == 12
    assert "left out: training row 25" in caplog.text
