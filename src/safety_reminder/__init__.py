"""Wake a vision-language model's safety awareness while it writes. The method: arXiv:2506.15734."""

from typing import TYPE_CHECKING, Any

from safety_reminder.config import GuardConfig
from safety_reminder.errors import SafetyReminderError
from safety_reminder.types import Check, Done, Event, Intervention, Response, Retraction, Token

if TYPE_CHECKING:
    from safety_reminder.guard import GuardedVLM, SafetyReminder, guarded_decoding, load

__version__ = "0.1.0"

# These pull in torch and transformers, which `import safety_reminder` for a config or a type should not.
_LAZY = ("GuardedVLM", "SafetyReminder", "guarded_decoding", "load")

__all__ = [
    "Check",
    "Done",
    "Event",
    "GuardConfig",
    "GuardedVLM",
    "Intervention",
    "Response",
    "Retraction",
    "SafetyReminder",
    "SafetyReminderError",
    "Token",
    "guarded_decoding",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from safety_reminder import guard

        return getattr(guard, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
