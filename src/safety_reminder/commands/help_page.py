"""What ``safety-reminder COMMAND --help`` prints: examples, and every option with its default and what it is."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

import safety_reminder.config
from safety_reminder.commands.command import Command, group_of
from safety_reminder.commands.presets import described, takes_presets
from safety_reminder.config.options import Options
from safety_reminder.errors import ConfigError, unknown_name

WIDTH = 120
_COLUMN = 44  # where explanations begin
_FOLDER = Path(safety_reminder.config.__file__).parent


def help_page(command: Command[Any], arguments: Sequence[str] = ()) -> str:
    """``arguments``: of the command line; ``dataset=NAME`` among them shows that data set's options.

    Raises:
        ConfigError: no such choice.
    """
    lines = textwrap.wrap(f"safety-reminder {command.name}: {command.about}", WIDTH)
    lines += ["", *(f"  safety-reminder {example}" for example in command.examples)]
    lines += ["", "== Options and their defaults (key=value) ==", *_options(command.job, command.choices)]
    if takes_presets(command.job):
        lines += ["", *described(command, WIDTH)]
    for group, default in command.choices.items():
        lines += ["", *_choice(command, group, _chosen(command, group, default, arguments))]
    lines += ["", "--cfg job prints the resolved configuration, --multirun sweeps over comma-separated values."]
    return "\n".join(lines)


def _options(job: type[Options], choices: Any, front: str = "") -> Iterator[str]:
    """``front``: of every name."""
    own = [(name, info) for name, info in job.model_fields.items() if name not in choices]
    groups = [(name, info) for name, info in own if group_of(info)]
    for name, info in own:
        if not group_of(info):
            yield from _line(front + name, default_of(info), info.description)
    for name, info in groups:
        yield ""
        if info.description:
            yield from textwrap.wrap(f"{front}{name}: {info.description}", WIDTH)
        kind = group_of(info)
        assert kind is not None
        group = info.default if isinstance(info.default, kind) else None
        for inner, field in kind.model_fields.items():
            value = getattr(group, inner) if group is not None else default_of(field)
            yield from _line(f"{front}{name}.{inner}", value, field.description)


def default_of(info: FieldInfo) -> Any:
    """``???``, as Hydra has it, for one that must be given."""
    return "???" if info.is_required() else info.get_default(call_default_factory=True)


def _line(name: str, value: Any, description: str | None) -> Iterator[str]:
    option = f"  {name}={_shown(value)}"
    if not description:
        yield option
        return
    explained = textwrap.wrap(description, WIDTH - _COLUMN)
    if len(option) + 2 > _COLUMN:
        yield option
    else:
        yield option.ljust(_COLUMN) + explained.pop(0)
    yield from (" " * _COLUMN + line for line in explained)


def _shown(value: Any) -> str:
    """As one would type it."""
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./?-]*", value) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_shown, value))}]"
    return json.dumps(value)


def _chosen(command: Command[Any], group: str, default: str, arguments: Sequence[str]) -> str:
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{group}=")]
    name = values[-1] if values else default
    known = _names(command, group)
    if name not in known:
        raise ConfigError(unknown_name(group, name, known))
    return name


def _names(command: Command[Any], group: str) -> list[str]:
    if group in command.kinds:
        return list(command.kinds[group].known)
    return sorted(path.stem for path in (_FOLDER / group).glob("*.yaml"))


def _choice(command: Command[Any], group: str, chosen: str) -> Iterator[str]:
    yield f"== One of these ({group}=NAME) =="
    names = ", ".join(_names(command, group))
    yield from textwrap.wrap(names, WIDTH - 2, initial_indent="  ", subsequent_indent="  ")
    if group in command.kinds:
        kinds = command.kinds[group]
        yield ""
        yield from textwrap.wrap(f"{group}={chosen}:  {kinds.about(chosen)}", WIDTH)
        yield from _options(kinds.named(group, chosen), (), f"{group}.")
        return
    text = (_FOLDER / group / f"{chosen}.yaml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line != "# @package _global_"]
    yield ""
    yield f"{group}={chosen}:  {lines[0].removeprefix('# ')}"
    for line in lines[1:]:
        option, _, explained = line.partition("  # ")
        name, _, value = option.partition(": ")
        if name != "name":
            yield from _line(f"{group}.{name}", value, explained)
