"""A command: what it is called, its options, and what it does with them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic.fields import FieldInfo

from safety_reminder.config.options import Options
from safety_reminder.errors import ConfigError, unknown_name

Job = TypeVar("Job", bound=Options)


def group_of(info: FieldInfo) -> type[Options] | None:
    """The option class of a field that holds a group of options."""
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Options) else None


@dataclass(frozen=True)
class Kinds:
    """Choices of a group of options. ``known``: their names; ``options``: the option class of one, imported when it is
    asked for; ``about``: what one is."""

    known: Collection[str]
    options: Callable[[str], type[Options]]
    about: Callable[[str], str]

    def named(self, group: str, name: str) -> type[Options]:
        """Raises: ConfigError: no such choice."""
        if name not in self.known:
            raise ConfigError(unknown_name(group, name, self.known))
        return self.options(name)


@dataclass(frozen=True)
class Command(Generic[Job]):
    """Calling one takes the arguments that stand after its name on the command line.

    Args:
        name: as it is typed, such as ``judge-check`` or ``analyze awareness``.
        about: what it does, for ``--help``; some sentences.
        examples: whole command lines, for ``--help``.
        job: the class of its options, among them ``output``.
        run: does it, with the options and the folder to write into, which in a sweep is one in ``output``.
        choices: groups of options of which one file of ``config/GROUP`` is taken, or one of ``kinds``, and which it
            is by default.
        kinds: groups whose choices are option classes.
        expand: what stands on the command line → that with short forms written out.
        sapt: what ``model=NAME_SAPT`` sets beside the model, by dotted names; None: it is the model with a reminder,
            which must be given.
    """

    name: str
    about: str
    examples: tuple[str, ...]
    job: type[Job]
    run: Callable[[Job, Path], Any]
    choices: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, Kinds] = field(default_factory=dict)
    expand: Callable[[list[str]], list[str]] = list
    sapt: Mapping[str, Any] | None = None

    def __call__(self, arguments: list[str]) -> None:
        if any(argument in ("-h", "--help") for argument in arguments):
            from safety_reminder.commands.help_page import help_page

            print(help_page(self, arguments))
            return
        from safety_reminder.commands.composing import call  # Hydra takes half a second

        call(self, arguments)
