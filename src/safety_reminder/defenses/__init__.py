"""The reminder and its rivals on one seam. One file each, one row here."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from safety_reminder.defenses.base import Defense, Messages
from safety_reminder.errors import ConfigError, unknown_name
from safety_reminder.guard import GuardedVLM

DEFENSES = {
    "none": "safety_reminder.defenses.plain:Undefended",
    "reminder": "safety_reminder.defenses.plain:Reminder",
    "system_prompt": "safety_reminder.defenses.system_prompt:SystemPrompt",
    "self_reminder": "safety_reminder.defenses.self_reminder:SelfReminder",
}

__all__ = ["DEFENSES", "Defense", "Messages", "load_defense"]


def load_defense(name: str, guarded: GuardedVLM, **options: Any) -> Defense:
    """A defence by name.

    Args:
        guarded: the model, and the reminder if the defence needs one.
        options: of the defence.

    Raises:
        ConfigError: unknown defence or option, or a reminder that is missing.
    """
    if name not in DEFENSES:
        raise ConfigError(unknown_name("defense", name, DEFENSES))
    module, _, attribute = DEFENSES[name].partition(":")
    make = getattr(importlib.import_module(module), attribute)
    known = set(inspect.signature(make).parameters) - {"guarded"}
    for option in options:
        if option not in known:
            raise ConfigError(unknown_name(f"option of defense={name}", option, known))
    return make(guarded, **options)
