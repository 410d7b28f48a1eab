"""Configuration values, and (beside this file, as YAML) what the command line starts from."""

from safety_reminder.config.guard import GuardConfig

__all__ = ["GuardConfig"]
