"""What a checkpoint holds: the best epoch, a step that goes on, and what belongs to another run or version."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from checkpoints import tiny_vlm
from helpers import full_disk
from safety_reminder.errors import ConfigError
from safety_reminder.models import fingerprint
from safety_reminder.models.pocket import reminder_folder
from safety_reminder.training import TrainingConfig
from safety_reminder.training.config import RENAMED, current_names
from safety_reminder.training.state import State, frozen, identity

CONFIG = TrainingConfig(k=2, weight_decay=0.1, empty_prob=0.5)
EARLIER = {today: earlier for earlier, today in RENAMED.items()}
MANIFEST = {"source": "mine", "sha256": "0" * 64, "safe": 1, "unsafe": 1}


def stepped(config: TrainingConfig = CONFIG) -> State:
    """After three steps on a made-up loss."""
    state = State.begin(tiny_vlm(), config)
    for _ in range(3):
        state.optimiser.zero_grad()
        (state.vectors.square().sum() + state.weight.sum() + state.bias).backward()
        state.optimiser.step()
        state.step += 1
    state.judge(2.0, 0)
    state.scale = 8.0
    return state


def save(state: State, path: Path, config: TrainingConfig = CONFIG) -> dict[str, Any]:
    vlm = tiny_vlm()
    state.save(path, identity(config, vlm, MANIFEST), fingerprint(vlm.model))
    return torch.load(path, weights_only=True)


def load(path: Path, config: TrainingConfig = CONFIG) -> State:
    vlm = tiny_vlm()
    state = State.begin(vlm, config)
    state.load(path, identity(config, vlm, MANIFEST), vlm.model)
    return state


def test_a_checkpoint_holds_all_that_the_next_step_needs(tmp_path):
    saved = stepped()
    save(saved, tmp_path / "checkpoint.pt")
    loaded = load(tmp_path / "checkpoint.pt")
    assert (loaded.step, loaded.best_loss, loaded.worse, loaded.stopped, loaded.scale) == (3, 2.0, 0, False, 8.0)
    assert torch.equal(loaded.applied[1], saved.weight / 8.0)
    for state in (saved, loaded):
        state.vectors.grad = torch.ones_like(state.vectors)
        state.optimiser.step()
    assert torch.equal(saved.vectors, loaded.vectors)
    assert loaded.best is not None
    assert saved.best is not None
    assert all(torch.equal(loaded.best[name], value) for name, value in saved.best.items())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_without_an_option_that_is_new_and_null_goes_on(tmp_path):
    path = tmp_path / "checkpoint.pt"
    saved = save(stepped(), path)
    assert "leave_out" in saved["identity"]
    assert saved["identity"].pop("leave_out") is None
    torch.save(saved, path)
    assert load(path).step == 3


@pytest.mark.parametrize("part", ["identity", "learned", "optimiser", "best_loss", "scale"])  # the last: earlier ones
def test_a_checkpoint_that_lacks_a_part_is_refused_in_one_line(tmp_path, part):
    path = tmp_path / "checkpoint.pt"
    saved = save(stepped(), path)
    del saved[part]
    torch.save(saved, path)
    with pytest.raises(ConfigError, match=r"no checkpoint that this version .* can go on from; remove it") as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("step", "3"), ("step", True), ("step", -1), ("stopped", 1), ("worse", None), ("best_loss", "low"),
        ("scale", 0.0), ("scale", "8"),
        ("identity", [1]), ("model", None), ("model", {"projections": {}}), ("optimiser", {"state": {}}),
        ("learned", {}), ("learned", {"vectors": torch.zeros(1)}), ("best", {"vectors": 1}),
        ("learned", {"vectors": torch.zeros(1, 32), "weight": torch.zeros(32), "bias": torch.zeros(())}),
        ("learned", {"vectors": torch.zeros(2, 32).long(), "weight": torch.zeros(32), "bias": torch.zeros(())}),
    ],
)  # fmt: skip
def test_a_foreign_checkpoint_is_refused_in_one_line(tmp_path, part, value):
    path = tmp_path / "checkpoint.pt"
    torch.save(save(stepped(), path) | {part: value}, path)
    with pytest.raises(ConfigError, match=r"checkpoint\.pt.*give another output=DIR") as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x80\x04\x95", b"{}", b"\x00" * 99])
def test_what_is_no_checkpoint_at_all_is_refused_in_one_line(tmp_path, data):
    (tmp_path / "checkpoint.pt").write_bytes(data)
    with pytest.raises(ConfigError, match=r"checkpoint\.pt .*; remove it, or give another output=DIR") as caught:
        load(tmp_path / "checkpoint.pt")
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_named_and_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save(stepped(), path)
    before = path.read_bytes()

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save(stepped(), path)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["checkpoint.pt"]


LATER: dict[str, Any] = {
    "on_error": "skip", "false_alarm_budget": 0.1, "prompt_check": True, "policy": "stop", "interval": 4,
    "prefix_cache": "cpu", "prefix_cache_gb": 1.0, "log_with": "none", "probe": "pca", "pca_components": 5,
    "refit": False, "rivals": True, "threshold": None, "thresholds": "image", "turn_rows": 3, "hold_back_checks": 2,
}  # fmt: skip


def test_what_only_matters_after_the_last_step_may_change_when_a_run_goes_on(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save(stepped(), path)
    assert TrainingConfig.marked("later") == LATER.keys()
    assert load(path, CONFIG.with_changes(**LATER)).step == 3
    assert load(path, CONFIG.with_changes(threshold=0.8)).step == 3


def test_a_policy_may_change_later_if_the_bare_prompt_was_trained_as_it_would_be_for_it(tmp_path):
    path, config = tmp_path / "checkpoint.pt", TrainingConfig(k=2)
    assert (config.emptied, config.with_changes(policy="continue").emptied) == (0.5, 1 / 3)
    save(stepped(config), path, config)
    assert load(path, config.with_changes(policy="restart")).step == 3
    assert load(path, config.with_changes(policy="continue", empty_prob=0.5)).step == 3
    with pytest.raises(ConfigError, match=r"other options, data or model \(empty_prob\); give another output=DIR"):
        load(path, config.with_changes(policy="continue"))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"max_grad_norm": 2.0}, {"batch_size": 9}, {"micro_batch_size": 3}, {"test": 0.2}]
)
def test_what_changes_a_step_or_the_parts_may_not(tmp_path, change):
    path = tmp_path / "checkpoint.pt"
    save(stepped(), path)
    [name] = change
    with pytest.raises(ConfigError, match=rf"other options, data or model \({name}\); give another output=DIR"):
        load(path, CONFIG.with_changes(**change))


def test_a_step_of_the_running_probe_over_long_states_does_not_overshoot():
    generator = torch.Generator().manual_seed(0)
    hidden = 20 * torch.randn(12, 32, generator=generator)
    unsafe = torch.arange(12) % 2
    logits = {}
    for scale in (None, float(hidden.norm(dim=-1).mean())):
        state = State.begin(tiny_vlm(), CONFIG.with_changes(learning_rate=0.02))
        state.scale = scale
        for _ in range(2):
            _, weight, bias = state.applied
            loss = F.binary_cross_entropy_with_logits(hidden @ weight + bias, unsafe.float())
            state.optimiser.zero_grad()
            loss.backward()
            state.optimiser.step()
            logits[scale] = float((hidden @ state.applied[1].detach()).abs().max())
    unscaled, scaled = logits.values()
    assert unscaled > 4  # after two steps
    assert 0 < scaled < 0.5


def test_the_best_epoch_is_the_first_of_the_lowest_loss_and_is_kept_as_it_was():
    state = State.begin(tiny_vlm(), CONFIG)
    seen = []
    for loss in (3.0, 1.0, 1.0, 2.0):
        with torch.no_grad():
            state.vectors.add_(1.0)
        seen.append(state.vectors.detach().clone())
        state.judge(loss, 0)
    assert state.best is not None
    assert torch.equal(state.best["vectors"], seen[1])
    assert (state.best_loss, state.worse, state.stopped) == (1.0, 2, False)


def test_a_better_epoch_begins_the_count_of_worse_ones_anew():
    state = State.begin(tiny_vlm(), CONFIG)
    stopped = []
    for loss in (3.0, 4.0, 2.0, 2.5, 2.0):
        state.judge(loss, 2)
        stopped.append(state.stopped)
    assert stopped == [False, False, False, False, True]


def test_a_loss_that_is_not_a_number_is_no_better():
    state = State.begin(tiny_vlm(), CONFIG)
    state.judge(float("nan"), 1)
    assert state.best is None
    assert state.stopped


def test_a_frozen_model_asks_for_gradients_again_afterwards():
    model = torch.nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    seen = []

    def break_off():
        with frozen(model):
            seen.append(model.weight.requires_grad)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert seen == [False]
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)


def test_a_pack_s_options_are_read_under_the_names_of_its_time_and_of_today():
    shipped = json.loads((reminder_folder() / "config.json").read_text())["training"]["config"]
    config = TrainingConfig.of_record(shipped)
    assert (config.batch_size, config.false_alarm_budget, config.target_tokens) == (4, 0.05, 6)
    assert TrainingConfig.of_record(config.model_dump()) == config
    assert TrainingConfig.of_record({EARLIER.get(k, k): v for k, v in config.model_dump().items()}) == config
    with pytest.raises(ConfigError, match="unknown training option 'batches'"):
        TrainingConfig.of_record({"batches": 4})


def test_no_option_of_today_has_the_name_of_another_one_of_before():
    assert not RENAMED.keys() & TrainingConfig.model_fields.keys()
    assert set(RENAMED.values()) <= TrainingConfig.model_fields.keys()
    assert current_names({"k": 1, "lr": 0.1}) == {"k": 1, "learning_rate": 0.1}


def test_every_option_says_what_it_is_for():
    assert [name for name, field in TrainingConfig.model_fields.items() if not field.description] == []
