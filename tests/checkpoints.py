"""Tiny models loaded as users load them, from a folder, and random reminders for them."""

from __future__ import annotations

import functools
import tempfile

import torch

from safety_reminder.guard import GuardedVLM, Probe, SafetyReminder
from safety_reminder.models import VLM, load_vlm
from safety_reminder.models.tiny import tiny_checkpoint


@functools.cache
def tiny_vlm(family: str = "llava") -> VLM:
    with tempfile.TemporaryDirectory() as folder:
        return load_vlm(str(tiny_checkpoint(family, folder)), device="cpu")


def random_reminder(seed: int = 0, **fields) -> SafetyReminder:
    """Its probe fires now and then."""
    generator = torch.Generator().manual_seed(seed)
    probe = Probe(0.4 * torch.randn(32, generator=generator), 0.0)
    return SafetyReminder(0.2 * torch.randn(2, 32, generator=generator), probe, **fields)


@functools.cache
def tiny_guarded() -> GuardedVLM:
    return GuardedVLM(tiny_vlm(), random_reminder(), interval=4)
