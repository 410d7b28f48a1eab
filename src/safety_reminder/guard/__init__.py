"""The method: reminder, probe, decode loop, policies, and the pack they are shared as."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safety_reminder.guard.decoding import Guard, decode
    from safety_reminder.guard.generate_method import GuardedGenerateOutput, guarded_decoding
    from safety_reminder.guard.guarded import GuardedVLM, collect, load, load_reminder
    from safety_reminder.guard.probe import Probe
    from safety_reminder.guard.reminder import SafetyReminder

# Loaded when they are asked for: what decides (answer, policy, schedule, options) needs no torch, and whoever drives
# another engine with it should not have to wait for torch.
_WHERE = {
    "Guard": "decoding",
    "GuardedGenerateOutput": "generate_method",
    "GuardedVLM": "guarded",
    "Probe": "probe",
    "SafetyReminder": "reminder",
    "collect": "guarded",
    "decode": "decoding",
    "guarded_decoding": "generate_method",
    "load": "guarded",
    "load_reminder": "guarded",
}

__all__ = [
    "Guard",
    "GuardedGenerateOutput",
    "GuardedVLM",
    "Probe",
    "SafetyReminder",
    "collect",
    "decode",
    "guarded_decoding",
    "load",
    "load_reminder",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
