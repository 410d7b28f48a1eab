"""Data → pack: examples, objective and trainer for reminder and probe."""

from typing import TYPE_CHECKING, Any

from safety_reminder.training.config import TrainingConfig

if TYPE_CHECKING:
    from safety_reminder.training.trainer import train

__all__ = ["TrainingConfig", "train"]


def __getattr__(name: str) -> Any:
    """The trainer imports torch; whoever only wants the options should not wait for that."""
    if name == "train":
        from safety_reminder.training.trainer import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
