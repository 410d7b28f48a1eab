"""A command: what it is called, its options, and what it does with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from safety_reminder.config.options import Options

Job = TypeVar("Job", bound=Options)


@dataclass(frozen=True)
class Command(Generic[Job]):
    """Calling one takes the arguments that stand after its name on the command line.

    Args:
        name: as it is typed, such as ``judge-check`` or ``analyze awareness``.
        about: what it does, for ``--help``; some sentences.
        examples: whole command lines, for ``--help``.
        job: the class of its options, among them ``output``.
        run: does it, with the options and the folder to write into, which in a sweep is one in ``output``.
        choices: groups of options of which one file of ``config/GROUP`` is taken, and which it is by default.
    """

    name: str
    about: str
    examples: tuple[str, ...]
    job: type[Job]
    run: Callable[[Job, Path], Any]
    choices: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, arguments: list[str]) -> None:
        if any(argument in ("-h", "--help") for argument in arguments):
            from safety_reminder.commands.help_page import help_page

            print(help_page(self, arguments))
            return
        from safety_reminder.commands.composing import call  # Hydra takes half a second

        call(self, arguments)
