"""The scripts of examples/, run as a newcomer runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(name: str, folder: Path) -> str:
    """What a script prints. It leaves what it makes in ``folder``."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        cwd=folder, env=os.environ | {"TMPDIR": str(folder)}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_example_is_short_and_run_here():
    tested = Path(__file__).read_text(encoding="utf-8")
    scripts = sorted((ROOT / "examples").glob("*.py"))
    assert len(scripts) == 3
    for script in scripts:
        assert f'run("{script.name}"' in tested
        assert len(script.read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.slow
@pytest.mark.pocket
def test_a_model_is_guarded(tmp_path):
    shown = run("guard_your_model.py", tmp_path)
    harmful, harmless = shown.split("== harmful.png")[1].split("== harmless.png")
    assert "intervened after" in harmful
    assert "intervened after" not in harmless
    assert "would have intervened: True" in shown


@pytest.mark.slow
def test_a_reminder_is_trained_and_used(tmp_path):
    shown = run("train_a_reminder.py", tmp_path)
    assert "threshold 0." in shown
    [pack] = tmp_path.glob("reminder-*/calibrated/pack/reminder.safetensors")
    assert pack.stat().st_size < 10_000


@pytest.mark.slow
@pytest.mark.pocket
def test_defences_are_compared(tmp_path):
    shown = run("evaluate_defences.py", tmp_path)
    for label in ("none", "reminder", "strict", "self_reminder"):
        assert f"{label:<14} attack_success_rate" in shown
        assert f"{label:<14} over_refusal_rate" in shown
    assert len(list(tmp_path.glob("defences-*/run/report.html"))) == 1
