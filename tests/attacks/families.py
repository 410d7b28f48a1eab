"""Tiny checkpoints of every family that sees, loaded with their real processors, once for all tests."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch

from checkpoints import random_reminder
from safety_reminder.attacks.base import Arena, Judge
from safety_reminder.attacks.splits import Splits
from safety_reminder.guard import GuardedVLM
from safety_reminder.models import VLM, load_vlm
from safety_reminder.models.tiny_vlms import tiny_vlm_checkpoint
from safety_reminder.types import Example


@cache
def tiny_vlm(family: str, dtype: torch.dtype = torch.float32) -> VLM:
    with tempfile.TemporaryDirectory() as folder:
        return load_vlm(str(tiny_vlm_checkpoint(family, Path(folder))), device="cpu", dtype=dtype)


def requests(count: int = 4) -> list[Example]:
    """Of several lengths."""
    return [Example(id=f"r{n}", prompt=f"Ask {n}" + " more" * n, category="x") for n in range(count)]


def quiet_arena(test: list[Example], folder: Path) -> Arena:
    """Requests to attack alone, and a judge that finds nothing in any answer."""
    guarded = GuardedVLM(tiny_vlm("llava"), random_reminder(), check_base=False)
    judge = Judge(lambda text: "none", lambda text, request, begun: False)
    return Arena(guarded, Splits([], [], test), judge, folder, tokens=2)
