"""From a job class to what Hydra composes from, and from a command line to jobs."""

from __future__ import annotations

import difflib
import functools
import operator
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from safety_reminder.commands import presets
from safety_reminder.commands.command import Command, Job, group_of
from safety_reminder.commands.help_page import default_of
from safety_reminder.config.options import Options
from safety_reminder.data.protocols import PROTOCOLS
from safety_reminder.errors import ConfigError, SafetyReminderError, in_a_line, unknown_name
from safety_reminder.outside import require_writable

CONFIG = "safety_reminder.config"
# Everything is written into ``output``, and nothing beside it: no folder of Hydra's own, and no log file.
_HYDRA = {
    "run": {"dir": "."},
    "sweep": {"dir": "${output}", "subdir": "."},
    "output_subdir": None,
    "job": {"chdir": False},
    "job_logging": {"root": None},
    "hydra_logging": {"root": None},  # else warnings would go to stdout under Hydra's name
}
_FLAGS_WITH_A_VALUE = ("--cfg", "-c", "--package", "-p")

# Hydra reads these without quotes, beside letters and digits of ASCII; and in lists and objects, their marks.
_NEEDS_QUOTES = re.compile(r"[^A-Za-z0-9_/\\+.$%*@?|: \t-]")
_IN_QUOTES = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_OF_LISTS = "[]{},"


def call(command: Command[Any], arguments: Sequence[str]) -> None:
    """Run a command, once or as a sweep.

    Raises:
        SafetyReminderError: of a sweep, when all jobs that can be done are done.
    """
    for argument in arguments:
        _require_option(argument)
    arguments, defaults = _in_full(command, arguments)
    if defaults:
        print(presets.told(arguments, defaults), file=sys.stderr)
    config = _compose(command, arguments, defaults)  # Hydra's own runner would print several lines for a mistake
    if all("=" in argument and not re.match(r"\W*hydra\W", argument) for argument in arguments):
        job = _parse(command, config)
        command.run(job, Path(job.output).expanduser())
        return
    _hand_over(command, arguments)


def _require_option(argument: str) -> None:
    require_writable(argument, f"the argument {argument!a}", ConfigError)
    if re.match(r"[~+]*=", argument):
        raise ConfigError(f"{argument!r} names no option; options are key=value")


def compose(command: Command[Job], overrides: Sequence[str] = ()) -> Job:
    """The job of a command line, which names options only.

    Raises:
        ConfigError: in one line.
    """
    return _parse(command, _compose(command, *_in_full(command, overrides)))


def _hand_over(command: Command[Any], arguments: Sequence[str]) -> None:
    """Hand over to Hydra's own runner, which knows its flags."""
    failed: list[str] = []
    errors: list[Exception] = []

    def run(config: DictConfig) -> None:
        swept = _name_of_job(given=sys.argv[1:]) if HydraConfig.get().mode == RunMode.MULTIRUN else ""
        if swept:
            print(f"== {swept} ==", file=sys.stderr)
        try:
            job = _parse(command, config)
            command.run(job, Path(job.output).expanduser() / swept)
        except (SafetyReminderError, OSError) as error:
            if swept:
                print(f"{swept}: {in_a_line(error)}", file=sys.stderr)  # and the sweep goes on
                failed.append(swept)
            else:
                errors.append(error)

    # Hydra takes its own flags only in front of the overrides.
    arguments = sorted(arguments, key=lambda argument: "=" in argument and not argument.startswith("-"))
    sys.argv = [f"safety-reminder {command.name}", *arguments]
    hydra.main(version_base="1.3", config_path="pkg://" + CONFIG, config_name=_stored(command))(run)()
    if errors:
        raise errors[0]
    if failed:
        raise SafetyReminderError(f"of the sweep, what is said above failed: {'; '.join(failed)}")


def _in_full(command: Command[Any], arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Short forms written out. The plain value of a group whose first option must be given stands for that option:
    ``data`` names the sets. The name of a preset stands for a model, and for other defaults, which are returned too."""
    groups = {name: group_of(info) for name, info in command.job.model_fields.items()}
    firsts = {name: next(iter(kind.model_fields.items())) for name, kind in groups.items() if kind}
    for name, (first, info) in firsts.items():
        if info.is_required() and name not in command.choices:
            arguments = [re.sub(f"^{name}=", f"{name}.{first}=", argument) for argument in arguments]
    arguments, defaults = presets.expand(command, arguments)
    return command.expand(arguments), defaults


def _compose(command: Command[Any], arguments: Sequence[str], defaults: Mapping[str, Any]) -> DictConfig:
    """The configuration; of a sweep, the first job's. ``defaults``: by dotted names, in the place of the classes'."""
    _store(command, arguments, defaults)
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    for flag in _FLAGS_WITH_A_VALUE:
        if flag in arguments[:-1]:
            overrides.remove(arguments[list(arguments).index(flag) + 1])
    try:
        if _sweeps(arguments):
            overrides = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)[0][0]
        with hydra.initialize_config_module(CONFIG, version_base="1.3"):
            return hydra.compose(_stored(command), overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error)) from error
    except ValueError as error:  # Hydra's, of a choice that is a number or null
        if "Config group override" not in str(error):
            raise
        names = " and ".join(command.choices)
        raise ConfigError(f"{names} must be one of the names that --help lists; {_first_line(error)}") from error


def _parse(command: Command[Job], config: DictConfig) -> Job:
    try:
        values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error)) from error
    return command.job.parse(values)


def _store(command: Command[Any], arguments: Sequence[str], defaults: Mapping[str, Any]) -> None:
    from safety_reminder.data import DEMO_REQUESTS

    OmegaConf.register_new_resolver("demo_requests", lambda: str(DEMO_REQUESTS), replace=True)
    node: dict[str, Any] = {
        "defaults": ["_self_", *({group: chosen} for group, chosen in command.choices.items())],
        **_defaults(command.job, leave_out=command.choices),
        "hydra": _HYDRA,
    }
    for name, value in defaults.items():
        *groups, option = name.split(".")
        functools.reduce(operator.getitem, groups, node)[option] = value
    ConfigStore.instance().store(_stored(command), node)
    for group, kinds in command.kinds.items():
        default = [command.choices[group]] if _sweeps(arguments) else []  # a sweep begins from it
        for name in dict.fromkeys([*default, *chosen_of(group, command.choices[group], arguments)]):
            ConfigStore.instance().store(
                name, {"name": name, **_defaults(kinds.named(group, name))}, group=group, package=group
            )


def _sweeps(arguments: Sequence[str]) -> bool:
    return any(argument in ("-m", "--multirun") for argument in arguments)


def chosen_of(group: str, default: str, arguments: Sequence[str]) -> list[str]:
    """The names that ``group=NAME``, or in a sweep ``group=NAME,NAME``, has on the command line."""
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{group}=")]
    return values[-1].split(",") if values else [default]


def _stored(command: Command[Any]) -> str:
    return re.sub(r"\W", "_", command.name)


def _defaults(kind: type[Options], given: Options | None = None, leave_out: Any = ()) -> dict[str, Any]:
    """Plain values, as they would stand in a YAML file."""
    values: dict[str, Any] = {}
    for name, info in kind.model_fields.items():
        if name in leave_out:
            continue
        value = getattr(given, name) if given is not None else default_of(info)
        if group := group_of(info):
            value = _defaults(group, value if isinstance(value, group) else None)
        values[name] = list(value) if isinstance(value, tuple) else value
    return values


def _name_of_job(given: Sequence[str]) -> str:
    """The folder of a sweep's job: the options that vary, or its number."""
    varying = [override for override in HydraConfig.get().overrides.task if override not in given]
    return ",".join(varying).replace("/", "_") or str(HydraConfig.get().job.num)


def _explain(error: Exception) -> str:
    """Hydra's and OmegaConf's messages, in one line that says what to do."""
    cause = error.__cause__ or error
    text = str(error)
    if isinstance(error, OverrideParseException):
        name, equals, value = error.override.partition("=")
        if not equals:
            return f"{error.override!r} is not an option; options are key=value"
        return _say_what_needs_quotes(name, value)
    if "is not in struct" in str(cause) and isinstance(cause, OmegaConfBaseException) and cause.full_key:
        if cause.full_key == "dataset.protocol":
            return f"this data set has no protocol; those that have one: {', '.join(PROTOCOLS['official'])}"
        near = difflib.get_close_matches(cause.full_key, _names(cause.parent_node), n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown option {cause.full_key!r}; {meant}--help lists the options"
    if missing := re.search(r"Could not find '(\w+)/([^']+)'", text):
        lines = [line.strip() for line in text.splitlines()[1:]]
        options = [line for line in lines if re.fullmatch(r"\w+", line)]
        return unknown_name(missing[1], missing[2], options)
    return _first_line(error)


def _say_what_needs_quotes(name: str, value: str) -> str:
    """Of a value that Hydra cannot read: which characters it trips over, and how to write it."""
    if not re.fullmatch(r"[+~]*[A-Za-z_][\w.@/-]*", name, re.ASCII):
        return f"{name!r} is not the name of an option; --help lists the options"
    bare = _IN_QUOTES.sub("", value)
    listed = value.startswith(("[", "{"))
    odd = dict.fromkeys(_NEEDS_QUOTES.findall(bare))
    named = [c for c in odd if not (listed and c in _OF_LISTS)] or list(odd)
    if not named:
        return f"cannot read {name}={value}: write it as in \"{name}='a b'\""
    example = f"{name}=['a{named[0]}b','c']" if listed else f"{name}='{value.replace(chr(39), chr(92) + chr(39))}'"
    return (
        f"cannot read {name}={value}: what holds {' '.join(named)} needs quotes of its own inside the shell's, as in "
        f'"{example}"'
    )


def _names(node: Any) -> list[str]:
    """The names of all options, as they are typed."""

    def names(values: Any, front: str) -> Iterator[str]:
        for name, value in values.items():
            yield f"{front}{name}"
            if isinstance(value, dict):
                yield from names(value, f"{front}{name}.")

    return list(names(OmegaConf.to_container(node._get_root()), "")) if node is not None else []


def _first_line(error: Exception) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    key = getattr(error, "full_key", None)
    if "Missing mandatory value" in text and key:
        key = key.removesuffix(".sets")  # the plain value of its group
        return f"{key} is not given; add {key}=..."
    return text
