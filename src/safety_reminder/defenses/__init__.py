"""The reminder and its rivals on one seam. One file each, one row here."""

from __future__ import annotations

import inspect
import pkgutil
from typing import TYPE_CHECKING, Any

from safety_reminder.config.options import require_kinds
from safety_reminder.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from safety_reminder.defenses.base import Defense, Helpers
    from safety_reminder.guard import GuardedVLM

DEFENSES = {
    "none": "safety_reminder.defenses.plain:Undefended",
    "reminder": "safety_reminder.defenses.plain:Reminder",
    "text_reminder": "safety_reminder.defenses.text_reminder:TextReminder",
    "random_vectors": "safety_reminder.defenses.random_vectors:RandomVectors",
    "probe_only": "safety_reminder.defenses.probe_only:ProbeOnly",
    "checks_at": "safety_reminder.defenses.checks_at:ChecksAt",
    "system_prompt": "safety_reminder.defenses.system_prompt:SystemPrompt",
    "self_reminder": "safety_reminder.defenses.self_reminder:SelfReminder",
    "adashield_s": "safety_reminder.defenses.adashield_s:AdaShieldS",
    "ecso": "safety_reminder.defenses.ecso:ECSO",
    "prompt_tuning": "safety_reminder.defenses.prompt_tuning:PromptTuning",
    "dro": "safety_reminder.defenses.dro:DRO",
    "header_probe": "safety_reminder.defenses.header_probe:HeaderProbe",
    "bluesuffix": "safety_reminder.defenses.bluesuffix:BlueSuffix",
    "hidden_detect": "safety_reminder.defenses.hidden_detect:HiddenDetect",
    "post_hoc": "safety_reminder.defenses.post_hoc:PostHoc",
}

__all__ = ["DEFENSES", "Defense", "Helpers", "defense_options", "load_defense", "needs_reminder"]


def __getattr__(name: str) -> Any:
    """These import torch; whoever only wants the table above should not wait for that."""
    if name in ("Defense", "Helpers"):
        from safety_reminder.defenses import base

        return getattr(base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_defense(name: str, guarded: GuardedVLM, helpers: Helpers | None = None, **options: Any) -> Defense:
    """A defence by name.

    Args:
        guarded: the model, and the reminder if the defence needs one.
        helpers: gives it other models that ``options`` name.
        options: of the defence.

    Raises:
        ConfigError: unknown defence or option, or a reminder that is missing.
    """
    known = defense_options(name)
    for option in options:
        if option not in known:
            raise ConfigError(unknown_name(f"option of defense={name}", option, known))
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise ConfigError(f"defense={name} needs the option {option!r}")
    require_kinds(known, options, f"defense={name}")
    if needs_reminder(name) and guarded.reminder is None:
        raise ConfigError(f"defense={name} needs a reminder; give reminder=NAME or a folder")
    kind = _kind(name)
    if hasattr(kind, "from_options"):
        return kind.from_options(guarded, helpers, **options)
    return kind(guarded, **options)


def defense_options(name: str) -> dict[str, inspect.Parameter]:
    """The options of a defence, by name.

    Raises:
        ConfigError: unknown defence.
    """
    kind = _kind(name)
    parameters = inspect.signature(getattr(kind, "from_options", kind)).parameters
    return {option: parameter for option, parameter in parameters.items() if option not in ("guarded", "helpers")}


def needs_reminder(name: str) -> bool:
    """Whether the model that the defence is given must have a reminder.

    Raises:
        ConfigError: unknown defence.
    """
    return _kind(name).needs_reminder


def _kind(name: str) -> Any:
    if name not in DEFENSES:
        raise ConfigError(unknown_name("defense", name, DEFENSES))
    return pkgutil.resolve_name(DEFENSES[name])
