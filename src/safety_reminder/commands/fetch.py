"""``safety-reminder fetch``: get a public data set."""

from __future__ import annotations

from safety_reminder.errors import ConfigError


def _run(arguments: list[str]) -> None:
    """``NAME FOLDER``; without them, the data sets and their licences."""
    from safety_reminder.data.fetch import fetch
    from safety_reminder.data.sources import SOURCES

    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(
            "safety-reminder fetch NAME FOLDER: get a public data set; prints its licence; goes on where it broke off"
        )
        print("\n".join(f"  {name:<15} {source.licence}" for name, source in SOURCES.items()))
        return
    if len(arguments) != 2:
        raise ConfigError("safety-reminder fetch takes a data set's name and a folder")
    fetch(*arguments)


COMMAND = _run
