"""What defences have learned, made up at random."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from checkpoints import tiny_vlm
from safety_reminder.defenses.dro import SoftPrompt, system_tokens
from safety_reminder.guard import SafetyReminder
from safety_reminder.models import fingerprint


@pytest.fixture
def header(tmp_path):
    """A pack after the header that alarms at once: a probe of zeros says 0.5."""
    return str(replace(SafetyReminder.of_header(tiny_vlm()), interval=4).save_pretrained(tmp_path / "header"))


@pytest.fixture
def soft_prompt(tmp_path):
    """A random one for the tiny model."""
    vlm = tiny_vlm()
    vectors = torch.randn(len(system_tokens(vlm, "Be good.")), 32, generator=torch.Generator().manual_seed(0))
    prompt = SoftPrompt("Be good.", vectors, base_model="tiny", fingerprint=fingerprint(vlm.model))
    return str(prompt.save_pretrained(tmp_path / "soft"))
