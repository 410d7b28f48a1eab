"""``safety-reminder pocket``: assemble the small VLM that ships."""

from __future__ import annotations

from safety_reminder.errors import ConfigError


def _run(arguments: list[str]) -> None:
    """Takes none; prints the folder."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print("safety-reminder pocket: assemble the checkpoint, once, in $SAFETY_REMINDER_CACHE; print its folder")
        return
    if arguments:
        raise ConfigError("safety-reminder pocket takes no options; SAFETY_REMINDER_CACHE says where it goes")
    from safety_reminder.models.pocket import checkpoint_folder

    print(checkpoint_folder())


COMMAND = _run
