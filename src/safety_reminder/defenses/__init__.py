"""The reminder and its rivals on one seam. One file each, one row here."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from safety_reminder.defenses.base import Defense
from safety_reminder.errors import ConfigError, unknown_name
from safety_reminder.guard import GuardedVLM

DEFENSES = {
    "none": "safety_reminder.defenses.plain:Undefended",
    "reminder": "safety_reminder.defenses.plain:Reminder",
    "system_prompt": "safety_reminder.defenses.system_prompt:SystemPrompt",
    "self_reminder": "safety_reminder.defenses.self_reminder:SelfReminder",
    "adashield_s": "safety_reminder.defenses.adashield_s:AdaShieldS",
    "ecso": "safety_reminder.defenses.ecso:ECSO",
    "prompt_tuning": "safety_reminder.defenses.prompt_tuning:PromptTuning",
    "dro": "safety_reminder.defenses.dro:DRO",
    "header_probe": "safety_reminder.defenses.header_probe:HeaderProbe",
    "bluesuffix": "safety_reminder.defenses.bluesuffix:BlueSuffix",
    "post_hoc": "safety_reminder.defenses.post_hoc:PostHoc",
}

__all__ = ["DEFENSES", "Defense", "defense_options", "load_defense"]


def load_defense(name: str, guarded: GuardedVLM, **options: Any) -> Defense:
    """A defence by name.

    Args:
        guarded: the model, and the reminder if the defence needs one.
        options: of the defence.

    Raises:
        ConfigError: unknown defence or option, or a reminder that is missing.
    """
    known = defense_options(name)
    make: Callable[..., Defense] = pkgutil.resolve_name(DEFENSES[name])
    for option in options:
        if option not in known:
            raise ConfigError(unknown_name(f"option of defense={name}", option, known))
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise ConfigError(f"defense={name} needs the option {option!r}")
    return make(guarded, **options)


def defense_options(name: str) -> dict[str, inspect.Parameter]:
    """The options of a defence, by name.

    Raises:
        ConfigError: unknown defence.
    """
    if name not in DEFENSES:
        raise ConfigError(unknown_name("defense", name, DEFENSES))
    parameters = inspect.signature(pkgutil.resolve_name(DEFENSES[name])).parameters
    return {option: parameter for option, parameter in parameters.items() if option != "guarded"}
