"""What Inspect loads through the entry point ``inspect_ai``: tasks, solvers, scorers, and the provider
``safety-reminder/``."""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi

from safety_reminder.evaluation.inspect.scorers import harm, refusal, utility
from safety_reminder.evaluation.inspect.solvers import multi_turn, prefill, system_override, typographic
from safety_reminder.evaluation.inspect.tasks import benchmark

__all__ = [
    "benchmark",
    "harm",
    "multi_turn",
    "prefill",
    "refusal",
    "safety_reminder",
    "system_override",
    "typographic",
    "utility",
]


@modelapi(name="safety-reminder")
def safety_reminder() -> type[ModelAPI]:
    # Loaded when a model of ours is asked for: other providers' users need no torch.
    from safety_reminder.evaluation.inspect.provider import SafetyReminderAPI

    return SafetyReminderAPI
