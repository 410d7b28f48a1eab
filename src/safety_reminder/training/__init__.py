"""Data → pack: examples, objective and trainer for reminder and probe."""

from safety_reminder.training.trainer import TrainingConfig, train

__all__ = ["TrainingConfig", "train"]
