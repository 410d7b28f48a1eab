"""Data → pack: examples, objective and trainer for reminder and probe."""

from safety_reminder.training.config import TrainingConfig
from safety_reminder.training.trainer import train

__all__ = ["TrainingConfig", "train"]
