"""``safety-reminder check-model``: the properties one by one, and what comes of one that does not hold."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from safety_reminder.models import context


@pytest.fixture(scope="module")
def folder(models) -> str:
    return str(models / "llava")


@pytest.fixture
def run(call, monkeypatch, tmp_path):
    monkeypatch.setenv("SAFETY_REMINDER_CACHE", str(tmp_path))
    return lambda *arguments: dataclasses.astuple(call("check-model", *arguments))


def test_every_property_is_printed_and_a_model_that_has_them_all_is_remembered(run, folder, tmp_path):
    code, out, _ = run(folder, "device=cpu", "dtype=float32")
    *lines, last = [line for line in out.splitlines() if line]
    assert code == 0
    assert [line.split()[:2] for line in lines[-7:]] == [
        ["ok", name] for name in ("cache", "image", "silent", "check", "roll-back", "restart", "batch")
    ]
    assert last == f"{folder} can be guarded (LlavaForConditionalGeneration)"
    assert len(json.loads((tmp_path / "checked_models.json").read_text())) == 1


def test_a_model_that_is_driven_wrongly_ends_with_code_2_and_the_property(run, folder, monkeypatch):
    monkeypatch.setattr(context, "next_positions", lambda last, count: last + torch.arange(2, count + 2))
    code, out, err = run(folder, "device=cpu")
    assert code == 2
    assert "FAIL silent" in out
    assert err.splitlines()[-1].startswith(f"error: {folder} cannot be guarded: it does not hold that checks that pass")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b"], "takes one model"),
        (["device=cpu"], "takes one model"),
        (["a", "dtyp=float32"], "did you mean 'dtype'?"),
        (["no/such/folder/x"], "no model at"),
    ],
)
def test_a_command_that_is_wrong_says_so(run, arguments, message):
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help(run, arguments):
    code, out, _ = run(*arguments)
    assert code == 0
    assert "check-model MODEL" in out
