"""``model=llava_7b`` on a command line → the model, and what else the name stands for."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from safety_reminder.commands.command import Command, group_of
from safety_reminder.config.options import Options
from safety_reminder.config.presets import PRESETS, SAPT, preset_of
from safety_reminder.errors import ConfigError

_NO_REMINDER = ("", "none", "null")


def takes_presets(job: type[Options]) -> bool:
    return "model" in job.marked("preset")


def expand(command: Command[Any], arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """What stands on the command line, with the hub id in the place of a preset's name; and the defaults that the
    preset gives to other options, by their dotted names, which anything that is given changes.

    Raises:
        ConfigError: a model with its reminder where no reminder is given, or where it has no sense; a sweep over
            presets.
    """
    name = _given(arguments, "model")
    if name is None or not takes_presets(command.job):
        return list(arguments), {}
    if "," in name and any(preset_of(part) for part in name.split(",")):
        raise ConfigError(
            f"model={name}: each of these names brings options of its own, so they cannot be swept; give one command "
            "for each"
        )
    found = preset_of(name)
    if found is None:
        return list(arguments), {}
    preset, with_reminder = found
    defaults = {**preset.options, **_of_reminder(command, name, arguments, with_reminder=with_reminder)}
    known = {option: value for option, value in defaults.items() if _has(command.job, option)}
    return [re.sub(r"^(\+*model)=.*", rf"\1={preset.hub_id}", a, flags=re.DOTALL) for a in arguments], known


def _of_reminder(command: Command[Any], name: str, arguments: Sequence[str], *, with_reminder: bool) -> dict[str, Any]:
    has = "reminder" in command.job.model_fields
    if not with_reminder:
        return {"reminder": None} if has else {}
    if command.sapt is not None:
        return dict(command.sapt)
    model = name.removesuffix(SAPT)
    if not has:
        raise ConfigError(
            f"model={name} is the model with its reminder, and {command.name} takes the model alone: model={model}"
        )
    if (_given(arguments, "reminder") or "") in _NO_REMINDER:
        raise ConfigError(
            f"model={name} is the model with its reminder, so reminder=FOLDER must say which: the pack that "
            f"safety-reminder train model={name} data=... output=DIR leaves in DIR/pack, or one that safety-reminder "
            f"import-official makes of the paper's files; model={model} is the model without one"
        )
    return {}


def _given(arguments: Sequence[str], option: str) -> str | None:
    """The last value of an option on the command line."""
    values = [found[1] for a in arguments if (found := re.fullmatch(rf"\+*{option}=(.*)", a, flags=re.DOTALL))]
    return values[-1].strip("'\"") if values else None


def _has(job: type[Options], option: str) -> bool:
    first, _, rest = option.partition(".")
    info = job.model_fields.get(first)
    if info is None or not rest:
        return info is not None
    group = group_of(info)
    return group is not None and _has(group, rest)


def described(command: Command[Any], width: int) -> Iterator[str]:
    """Lines of ``--help``: the presets, and what they set for this command."""
    yield "== Models by the names that the paper's repository has (model=NAME) =="
    for name, preset in PRESETS.items():
        pixels = f", images of {preset.pixels[0]} to {preset.pixels[1]} pixels" if preset.pixels else ""
        yield f"  {name:<16}{preset.hub_id}, dtype={preset.dtype}{pixels}"
    if command.sapt:
        told = f"NAME{SAPT}: the published settings, " + ", ".join(f"{k}={_short(v)}" for k, v in command.sapt.items())
    elif "reminder" in command.job.model_fields:
        told = f"NAME: reminder=none. NAME{SAPT}: with a reminder, which reminder= must name"
    else:
        told = f"NAME{SAPT}: the same" if command.sapt is not None else ""
    yield from textwrap.wrap(
        f"{told}{'. ' if told else ''}Options that are given change what these names bring.",
        width - 2,
        initial_indent="  ",
        subsequent_indent="  ",
    )


def told(arguments: Sequence[str], defaults: Mapping[str, Any]) -> str:
    """One line: what a preset's name stands for, as far as nothing else is given."""
    given = {argument.lstrip("+").partition("=")[0] for argument in arguments}
    brought = {option: value for option, value in defaults.items() if option not in given}
    shown = [f"{k}={_short(v)}" for k, v in brought.items() if v is not None or k == "reminder"]
    return ", ".join([f"model={_given(arguments, 'model')}", *shown])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)
