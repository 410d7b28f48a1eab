"""Pocket: the small VLM that ships, so that everything runs anywhere."""

from safety_reminder.models.pocket.assemble import (
    cache_folder,
    checkpoint_folder,
    header_folder,
    reminder_folder,
    soft_prompt_folder,
)

__all__ = ["cache_folder", "checkpoint_folder", "header_folder", "reminder_folder", "soft_prompt_folder"]
