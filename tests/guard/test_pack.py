"""Packs on disk: what is saved is what is loaded, and what is damaged is refused in one line."""

from __future__ import annotations

import functools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import safety_reminder
from checkpoints import random_reminder, tiny_vlm
from helpers import full_disk
from safety_reminder.errors import ConfigError, ModelError, PackError
from safety_reminder.guard import GuardedVLM, Probe, SafetyReminder
from safety_reminder.guard import pack as module
from safety_reminder.guard.guarded import guard_config
from safety_reminder.models import fingerprint, fingerprint_mismatch
from safety_reminder.models.tiny import tiny_checkpoint

FIELDS = {
    "base_model": "org/model",
    "interval": 7,
    "threshold": 0.375,
    "policy": "stop",
    "calibration": {"method": "by hand", "n": 3},
    "training": {"config": {"lr": 0.01}, "data": {"sha256": "0" * 64}},
}


FINGERPRINT = {"architecture": "X", "parameters": 5, "projections": {"w": [1.0] * 9}}


def full() -> SafetyReminder:
    return random_reminder(fingerprint=fingerprint(tiny_vlm().model), **FIELDS)


@pytest.fixture
def folder(tmp_path) -> Path:
    return full().save_pretrained(tmp_path / "pack")


def rewrite_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    config = {k: v for k, v in (config | changes).items() if v is not ...}
    (folder / "config.json").write_text(json.dumps(config))


def rewrite_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / "reminder.safetensors") | changes
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "reminder.safetensors")


def assert_same(left: SafetyReminder, right: SafetyReminder) -> None:
    assert torch.equal(left.vectors, right.vectors)
    assert torch.equal(left.probe.weight, right.probe.weight)
    assert left.probe.bias == pytest.approx(right.probe.bias, rel=1e-6)
    for name in ("base_model", "fingerprint", "interval", "threshold", "policy", "calibration", "training"):
        assert getattr(left, name) == getattr(right, name), name


def test_what_was_saved_is_loaded(folder):
    assert_same(SafetyReminder.from_pretrained(folder), full())
    assert_same(SafetyReminder.from_pretrained(str(folder)), full())


@settings(max_examples=15, deadline=None)
@given(
    k=st.integers(1, 6),
    size=st.integers(1, 40),
    bias=st.floats(-50, 50, width=32),
    threshold=st.floats(1e-6, 1.0),
    interval=st.integers(1, 99),
    seed=st.integers(0, 99),
)
def test_save_then_load_is_the_identity(tmp_path_factory, k, size, bias, threshold, interval, seed):
    generator = torch.Generator().manual_seed(seed)
    probe = Probe(torch.randn(size, generator=generator), bias)
    vectors = torch.randn(k, size, generator=generator)
    reminder = SafetyReminder(vectors, probe, threshold=threshold, interval=interval)
    saved = reminder.save_pretrained(tmp_path_factory.mktemp("pack"))
    assert_same(SafetyReminder.from_pretrained(saved), reminder)


def test_the_digest_is_of_all_that_a_guard_takes_from_the_pack():
    reminder = random_reminder()
    others = [
        replace(reminder, vectors=2 * reminder.vectors),
        replace(reminder, probe=Probe(reminder.probe.weight, 1.0)),
        replace(reminder, threshold=0.7),
        replace(reminder, interval=8),
        replace(reminder, policy="stop"),
        replace(reminder, calibration={"prompt_check": True}),
        replace(reminder, prompt_threshold=0.7),
        replace(reminder, image_threshold=0.7),
        replace(reminder, hold_back_checks=2),
    ]
    assert len({one.digest for one in [reminder, *others]}) == 10
    assert replace(reminder, calibration={"prompt_check": False}).digest == reminder.digest


def test_how_long_tokens_are_held_back_is_kept_and_refused_where_it_is_no_number_of_checks(tmp_path):
    plain = random_reminder()
    assert "hold_back_checks" not in (plain.save_pretrained(tmp_path) / "config.json").read_text()
    folder = replace(plain, hold_back_checks=2).save_pretrained(tmp_path)
    assert guard_config(SafetyReminder.from_pretrained(folder), None, {}).hold_back_checks == 2
    assert "shown after 2 passed checks" in (folder / "README.md").read_text()
    path = folder / "config.json"
    for wrong in (0, "two", 1.5):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"hold_back_checks": wrong}))
        with pytest.raises(PackError, match="hold_back_checks"):
            SafetyReminder.from_pretrained(folder)


def test_thresholds_of_their_own_are_kept_and_a_pack_without_them_says_nothing_of_them(tmp_path):
    plain = random_reminder(threshold=0.6)
    written = (plain.save_pretrained(tmp_path) / "config.json").read_text()
    assert "_threshold" not in written
    several = replace(plain, prompt_threshold=0.3, image_threshold=0.8)
    loaded = SafetyReminder.from_pretrained(several.save_pretrained(tmp_path))
    assert loaded.other_thresholds == {"prompt_threshold": 0.3, "image_threshold": 0.8}
    config = guard_config(loaded, None, {})
    assert (config.threshold, config.prompt_threshold, config.image_threshold) == (0.6, 0.3, 0.8)
    assert guard_config(loaded, None, {"threshold": 0.9}).lowest_threshold == 0.9
    assert (
        "unsafe at p ≥ 0.6, prompt_threshold 0.3, image_threshold 0.8, policy" in (tmp_path / "README.md").read_text()
    )


def test_lower_precision_is_saved_as_float32(tmp_path):
    reminder = random_reminder()
    half = SafetyReminder(reminder.vectors.bfloat16(), reminder.probe)
    tensors = load_file(half.save_pretrained(tmp_path) / "reminder.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert torch.equal(tensors["reminder"], reminder.vectors.bfloat16().float())


def test_a_pack_is_three_files_without_pickle_and_with_a_card(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "reminder.safetensors"]
    assert not any(p.read_bytes()[:2] in (b"\x80\x02", b"PK") for p in folder.iterdir())
    config = json.loads((folder / "config.json").read_text())
    assert (config["format"], config["k"], config["hidden_size"]) == (1, 2, 32)
    card = (folder / "README.md").read_text()
    assert "org/model" in card
    assert "0.375" in card


def test_others_can_read_a_pack(folder):
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


@pytest.mark.parametrize("name", ["reminder.safetensors", "config.json"])
def test_a_file_that_is_missing_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(PackError, match=f"is not a reminder pack: it has no {name}"):
        SafetyReminder.from_pretrained(folder)


@pytest.mark.parametrize("turned", [["all"], {"rates": {"harmful": 0.9}}, {"rates": {"harmful": {"all": "90 %"}}}])
def test_turn_rates_of_another_form_are_one_line(turned):
    with pytest.raises(ConfigError, match=r"^training\.turned") as caught:
        module.card(replace(random_reminder(), training={"turned": turned}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_damaged_weights_are_an_error(folder, keep):
    path = folder / "reminder.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PackError, match=r"reminder\.safetensors is damaged"):
        SafetyReminder.from_pretrained(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[1]", b"{}"])
def test_a_damaged_config_is_an_error(folder, text):
    (folder / "config.json").write_bytes(text)
    with pytest.raises(PackError, match=r"config\.json is not"):
        SafetyReminder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has pack format 2, this version reads 1; upgrade safety-reminder"),
        ({"k": 3}, "config.json says k=3, hidden_size=32, but the reminder has shape (2, 32)"),
        ({"hidden_size": ...}, "hidden_size is not given"),
        ({"threshold": 0}, "threshold must lie in (0, 1], got 0"),
        ({"threshold": 1.5}, "threshold must lie in (0, 1]"),
        ({"threshold": "high"}, "threshold must be a number, got 'high'"),
        ({"threshold": ...}, "threshold is not given"),
        ({"threshold": float("nan")}, "NaN is no number of JSON"),
        ({"threshold": True}, "threshold must be a number, got True"),
        ({"threshold": "0.5"}, "threshold must be a number, got '0.5'"),
        ({"format": True}, "format must be a whole number, got True"),
        ({"k": 2.0}, "k must be a whole number, got 2.0"),
        ({"interval": True}, "interval must be a whole number, got True"),
        ({"interval": 10**9}, "interval must be at most 4096"),
        ({"interval": 0}, "interval must be at least 1, got 0"),
        ({"interval": "often"}, "interval must be a whole number, got 'often'"),
        ({"policy": "rewnd"}, "unknown policy 'rewnd'; did you mean 'rewind'?"),
        ({"policy": None}, "policy must be"),
        ({"policy": ...}, "policy is not given"),
        ({"calibration": {"prompt_check": "false"}}, "calibration.prompt_check must be true or false, got 'false'"),
        ({"calibration": {"prompt_check": 0}}, "calibration.prompt_check must be true or false, got 0"),
        ({"calibration": None}, "calibration"),
        ({"training": [1]}, "training"),
        ({"base_model": 5}, "base_model must be a text, got 5"),
        ({"treshold": 0.5}, "did you mean 'threshold'?"),
        ({"training": {"notes": "\ud800"}}, "half of a character"),
        ({"training": functools.reduce(lambda inner, _: [inner], range(90), [])}, "levels deep"),
        ({"fingerprint": ...}, "fingerprint is not given"),
        ({"fingerprint": {"architecture": "X"}}, "fingerprint.parameters is not given"),
        ({"fingerprint": {**FINGERPRINT, "projections": {}}}, "fingerprint.projections"),
        ({"fingerprint": {**FINGERPRINT, "projections": {"w": []}}}, "fingerprint.projections.w"),
        ({"fingerprint": {**FINGERPRINT, "projections": {"w": [1e999] * 9}}}, "Infinity is no number of JSON"),
        ({"fingerprint": {**FINGERPRINT, "parameters": "5"}}, "fingerprint.parameters must be a whole number"),
    ],
)
def test_a_config_that_does_not_fit_says_what_is_wrong(folder, changes, message):
    rewrite_config(folder, **changes)
    with pytest.raises(PackError) as caught:
        SafetyReminder.from_pretrained(folder)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probe.bias": None}, "should hold reminder, probe.weight, probe.bias"),
        ({"more": torch.zeros(1)}, "should hold reminder, probe.weight, probe.bias"),
        ({"probe.bias": torch.zeros(2)}, "probe.bias is one number"),
        ({"probe.weight": torch.zeros(16)}, "the probe reads hidden states of size 16"),
        ({"probe.weight": torch.full((32,), torch.nan)}, "the probe holds values that are not finite"),
        ({"probe.bias": torch.tensor(torch.inf)}, "the probe holds values that are not finite"),
        ({"reminder": torch.full((2, 32), torch.inf)}, "the reminder holds values that are not finite"),
    ],
)
def test_tensors_that_cannot_guard_are_refused(folder, changes, message):
    rewrite_tensors(folder, **changes)
    with pytest.raises(PackError) as caught:
        SafetyReminder.from_pretrained(folder)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text", [b'{"format": 1, "threshold": 0.1, "threshold": 1.0}', b'{"format": 1, "training": ' + b"[" * 10**5]
)
def test_json_that_two_readers_would_read_differently_is_refused(folder, text):
    (folder / "config.json").write_bytes(text)
    with pytest.raises(PackError, match=r"config\.json is not valid JSON: (it|Expecting)") as caught:
        SafetyReminder.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.int64, torch.float64])
@pytest.mark.parametrize("name", ["reminder", "probe.weight", "probe.bias"])
def test_tensors_of_another_type_are_not_cast(folder, kind, name):
    tensors = load_file(folder / "reminder.safetensors")
    rewrite_tensors(folder, **{name: tensors[name].to(kind)})
    with pytest.raises(PackError, match=f"{name} should be float32, got {str(kind).removeprefix('torch.')}"):
        SafetyReminder.from_pretrained(folder)


def test_a_pack_that_only_watches_disarms_nobody_without_a_word(folder):
    rewrite_config(folder, policy="monitor")
    reminder = SafetyReminder.from_pretrained(folder)
    with pytest.raises(ConfigError, match=r"the pack's own policy is monitor.*policy=rewind guards"):
        GuardedVLM(tiny_vlm(), reminder)
    for policy in ("rewind", "monitor"):
        guard = GuardedVLM(tiny_vlm(), reminder, policy=policy).guard
        assert guard is not None
        assert guard.config.policy == policy


def test_a_pack_that_names_no_weights_says_so(folder, caplog):
    rewrite_config(folder, fingerprint={})
    SafetyReminder.from_pretrained(folder)
    assert "does not say which weights it was trained on" in caplog.text


@pytest.mark.parametrize("stored", [None, [], 0, {"projections": {}}])
def test_what_cannot_be_compared_is_another_model(stored):
    reason = fingerprint_mismatch(stored, tiny_vlm().model)
    assert "cannot be told" in (reason or "")


def test_the_fingerprint_is_compared_in_both_directions_and_by_the_model_s_own_norm():
    model = tiny_vlm().model
    own = fingerprint(model)
    assert fingerprint_mismatch(own, model) is None
    name, values = next(iter(own["projections"].items()))
    rest = {other: found for other, found in own["projections"].items() if other != name}
    for projections, reason in (
        (rest, "nothing is known of its weight"),
        ({**rest, name: [1e30, *values[1:]]}, "its weights differ"),
        ({**rest, name: [values[0], *[v + values[0] for v in values[1:]]]}, "its weights differ"),
    ):
        assert reason in (fingerprint_mismatch({**own, "projections": projections}, model) or "")


def test_a_full_disk_is_named_and_leaves_the_old_pack(tmp_path, monkeypatch):
    folder = random_reminder(1).save_pretrained(tmp_path / "pack")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left on device") as caught:
        full().save_pretrained(folder)
    assert caught.value.filename == str(folder)
    assert_same(SafetyReminder.from_pretrained(folder), random_reminder(1))


@pytest.mark.parametrize("name", ["./gone", "/gone", "gone", "~/gone", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(name):
    with pytest.raises(PackError, match=f"no reminder pack at '{name}'"):
        SafetyReminder.from_pretrained(name)


@pytest.mark.parametrize("name", ["nobody/nothing-of-this-name", "no body/x..y"])
def test_a_hub_id_that_cannot_be_had_is_one_clear_line(name):
    with pytest.raises(PackError, match=f"cannot get the reminder pack '{name}' from the hub"):
        SafetyReminder.from_pretrained(name)


@pytest.mark.parametrize(
    ("vectors", "weight"), [((2, 3, 4), (4,)), ((0, 4), (4,)), ((4,), (4,)), ((2, 4), (5,)), ((2, 4), (4, 1))]
)
def test_shapes_that_do_not_fit_are_refused(vectors, weight):
    with pytest.raises(PackError):
        SafetyReminder(torch.zeros(vectors), Probe(torch.zeros(weight)))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("before", ["nothing", "another pack"])
def test_a_folder_whose_saving_was_killed_is_never_a_mixture(tmp_path, monkeypatch, step, before):
    folder = tmp_path / "pack"
    old = random_reminder(1, threshold=0.25)
    if before == "another pack":
        old.save_pretrained(folder)
    calls, replace = [], os.replace

    def killed(source, target):
        if len(calls) == step:
            raise Killed
        calls.append(target)
        replace(source, target)

    monkeypatch.setattr(module.os, "replace", killed)
    with pytest.raises(Killed):
        full().save_pretrained(folder)
    monkeypatch.undo()
    with pytest.raises(PackError, match="is not a reminder pack"):
        SafetyReminder.from_pretrained(folder)
    assert_same(SafetyReminder.from_pretrained(full().save_pretrained(folder)), full())


def test_a_write_that_fails_before_the_end_leaves_the_old_pack(tmp_path, monkeypatch):
    old = random_reminder(1)
    folder = old.save_pretrained(tmp_path / "pack")
    monkeypatch.setattr(module, "card", lambda reminder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        full().save_pretrained(folder)
    assert_same(SafetyReminder.from_pretrained(folder), old)
    assert len(list(folder.iterdir())) == 3


def test_a_pack_guards_the_model_it_was_made_for(folder):
    guarded = GuardedVLM(tiny_vlm(), SafetyReminder.from_pretrained(folder))
    assert guarded.guard is not None
    config = guarded.guard.config
    assert (config.interval, config.threshold, config.policy) == (7, 0.375, "stop")


def test_a_pack_made_for_another_model_is_refused_unless_that_is_wanted(folder, tmp_path):
    other = str(tiny_checkpoint("llava", tmp_path / "other", seed=1))
    with pytest.raises(ModelError, match=r"trained for org/model, but .*other is not that model: its weights differ"):
        safety_reminder.load(other, str(folder), device="cpu")
    guarded = safety_reminder.load(other, str(folder), device="cpu", check_base=False)
    assert guarded.generate([{"role": "user", "content": "Hi"}], max_new_tokens=4).checks


def test_a_pack_of_another_size_is_refused_even_if_unchecked():
    reminder = SafetyReminder(torch.zeros(2, 16), Probe(torch.zeros(16)), base_model="org/small")
    with pytest.raises(ModelError, match=r"org/small with hidden size 16, but .* has hidden size 32"):
        GuardedVLM(tiny_vlm(), reminder, check_base=False)


def test_a_pack_can_be_moved(folder, tmp_path):
    shutil.move(folder, tmp_path / "elsewhere")
    assert_same(SafetyReminder.from_pretrained(tmp_path / "elsewhere"), full())
