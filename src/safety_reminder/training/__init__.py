"""Data → pack: examples, objective and trainer for reminder and probe."""

from safety_reminder.training.examples import TrainingExample, read_examples
from safety_reminder.training.trainer import TrainingConfig, train

__all__ = ["TrainingConfig", "TrainingExample", "read_examples", "train"]
