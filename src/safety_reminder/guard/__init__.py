"""The method: reminder, probe, decode loop, policies, and the pack they are shared as."""

from safety_reminder.guard.decode import Guard, decode
from safety_reminder.guard.generate_method import GuardedGenerateOutput, guarded_decoding
from safety_reminder.guard.guarded import GuardedVLM, collect, load, load_reminder
from safety_reminder.guard.probe import Probe
from safety_reminder.guard.reminder import SafetyReminder

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
