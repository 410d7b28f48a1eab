"""What Inspect loads through the entry point ``inspect_ai``: tasks, scorers, and the provider ``safety-reminder/``."""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi

from safety_reminder.evaluation.inspect.scorers import harm, refusal, utility
from safety_reminder.evaluation.inspect.tasks import benchmark

__all__ = ["benchmark", "harm", "refusal", "safety_reminder", "utility"]


@modelapi(name="safety-reminder")
def safety_reminder() -> type[ModelAPI]:
    # Loaded when a model of ours is asked for: other providers' users need no torch.
    from safety_reminder.evaluation.inspect.provider import SafetyReminderAPI

    return SafetyReminderAPI
