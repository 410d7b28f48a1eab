"""The command line: ``safety-reminder COMMAND key=value ...``. Configuration is Hydra's; the work is done elsewhere."""

from __future__ import annotations

import logging
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from safety_reminder.errors import ConfigError, SafetyReminderError, unknown_name

CONFIG = "safety_reminder.config"


def main() -> None:
    """Entry point. Exit code 0 on success, 2 with one line on stderr for anything the user can put right."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return
    if arguments[0] == "--version":
        from safety_reminder import __version__

        print(__version__)
        return
    try:
        command = COMMANDS.get(arguments[0])
        if command is None:
            raise ConfigError(unknown_name("command", arguments[0], COMMANDS))
        _quieten()
        command[0](arguments[1:])
    except (SafetyReminderError, OSError) as error:
        _fail(_in_a_line(error))
    except KeyboardInterrupt:
        print("interrupted; run the same command again", file=sys.stderr)
        sys.exit(130)


def _in_a_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        # A full disk, a folder that may not be written, a file in a folder's place.
        return f"{error.filename}: {error.strerror}"
    text = _first_line(error) if isinstance(error, OmegaConfBaseException) else str(error)
    return " ".join(text.split())


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _usage() -> str:
    lines = ["safety-reminder COMMAND [key=value ...]", ""]
    lines += [f"  {name:<11} {help}" for name, (_, help) in COMMANDS.items()]
    return "\n".join([*lines, "", "safety-reminder COMMAND --help lists a command's options."])


def _quieten() -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


def _with_hydra(name: str, task: str) -> Callable[[list[str]], None]:
    """A command whose options are Hydra's configuration ``name``, and which calls ``task`` (``module:function``) with
    them and the output folder. The module is imported when it is needed: torch takes seconds."""

    failed: list[str] = []

    def job(config: DictConfig) -> None:
        swept = _name_of_job(given=sys.argv[1:]) if HydraConfig.get().mode == RunMode.MULTIRUN else ""
        try:
            values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            assert isinstance(values, dict)
            _require_groups(values)
            pkgutil.resolve_name(task)(values, Path(values["output"]).expanduser() / swept)
        except (SafetyReminderError, OmegaConfBaseException, OSError) as error:
            line = _in_a_line(error)
            if not swept:
                _fail(line)
            print(f"{swept}: {line}", file=sys.stderr)  # and the sweep goes on
            failed.append(swept)

    def command(arguments: list[str]) -> None:
        _register_resolvers()
        arguments = _in_full(arguments)
        if not any(a in ("-h", "--help", "--hydra-help") for a in arguments):
            _try_out(name, arguments)
        # Hydra takes its own flags only in front of the overrides.
        arguments = sorted(arguments, key=lambda argument: "=" in argument and not argument.startswith("-"))
        sys.argv = [f"safety-reminder {name}", *arguments]
        failed.clear()
        hydra.main(version_base="1.3", config_path="pkg://" + CONFIG, config_name=name)(job)()
        if failed:
            raise SafetyReminderError(f"of the sweep, what is said above failed: {'; '.join(failed)}")

    return command


def _in_full(arguments: Sequence[str]) -> list[str]:
    """``data`` is a group of options; its plain value names the sets."""
    return [re.sub(r"^data=", "data.sets=", argument) for argument in arguments]


def _try_out(name: str, arguments: Sequence[str]) -> None:
    """Compose once ahead, since Hydra's own runner prints several lines and a hint at a traceback.

    Of a sweep, the first job.
    """
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    for value in ("--cfg", "-c", "--package", "-p"):  # flags with a value of their own
        if value in arguments[:-1]:
            overrides.remove(arguments[list(arguments).index(value) + 1])
    try:
        if any(argument in ("-m", "--multirun") for argument in arguments):
            overrides = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)[0][0]
        with hydra.initialize_config_module(CONFIG, version_base="1.3"):
            hydra.compose(name, overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error)) from error


def _require_groups(values: Mapping[Any, Any]) -> None:
    """An override may put a plain value where options are."""
    for key in ("dataset", "guard", "generation", "training", "data"):
        if key in values and not isinstance(values[key], dict):
            raise ConfigError(f"{key}={values[key]} is not an option; set single ones with {key}.NAME=VALUE")
    if not isinstance(values["output"], str):
        raise ConfigError(f"output must be a folder, got {values['output']!r}")


def _name_of_job(given: Sequence[str]) -> str:
    """Of a sweep, each job's folder: the options that vary, or its number."""
    varying = [override for override in HydraConfig.get().overrides.task if override not in given]
    return ",".join(varying).replace("/", "_") or str(HydraConfig.get().job.num)


def _register_resolvers() -> None:
    from safety_reminder.data import DEMO_REQUESTS

    OmegaConf.register_new_resolver("demo_requests", lambda: str(DEMO_REQUESTS), replace=True)


def _explain(error: Exception) -> str:
    """Hydra's and OmegaConf's messages, in one line that says what to do."""
    cause = error.__cause__ or error
    text = str(error)
    key = getattr(cause, "full_key", None)
    if isinstance(error, OverrideParseException):
        name, given, value = error.override.partition("=")
        if not given:
            return f"{error.override!r} is not an option; options are key=value"
        return (
            f"cannot read {name}={value}: what holds = , ( ) [ ] or {{ }} needs quotes of its own inside the "
            f"shell's, as in \"{name}='a=b'\", and in a list as in \"{name}=['a=b','c']\""
        )
    if "is not in struct" in str(cause) and key:
        return f"unknown option {key!r}; --help lists the options"
    if missing := re.search(r"Could not find '(\w+)/([^']+)'", text):
        lines = [line.strip() for line in text.splitlines()[1:]]
        options = [line for line in lines if re.fullmatch(r"\w+", line)]
        return unknown_name(missing[1], missing[2], options)
    return _first_line(error)


def _first_line(error: Exception) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    key = getattr(error, "full_key", None)
    if "Missing mandatory value" in text and key:
        key = key.removesuffix(".sets")  # the plain value of its group
        return f"{key} is not given; add {key}=..."
    return text


def _pocket(arguments: list[str]) -> None:
    if arguments in (["-h"], ["--help"]):
        print("safety-reminder pocket: assemble the checkpoint, once, in $SAFETY_REMINDER_CACHE; print its folder")
        return
    if arguments:
        raise ConfigError("safety-reminder pocket takes no options; SAFETY_REMINDER_CACHE says where it goes")
    from safety_reminder.models.pocket import checkpoint_folder

    print(checkpoint_folder())


def _fetch(arguments: list[str]) -> None:
    from safety_reminder.data.fetch import fetch
    from safety_reminder.data.sources import SOURCES

    if arguments in ([], ["-h"], ["--help"]):
        print(
            "safety-reminder fetch NAME FOLDER: get a public data set; prints its licence; goes on where it broke off"
        )
        print("\n".join(f"  {name:<15} {source.licence}" for name, source in SOURCES.items()))
        return
    if len(arguments) != 2:
        raise ConfigError("safety-reminder fetch takes a data set's name and a folder")
    fetch(*arguments)


ANALYSES = {
    "awareness": (
        _with_hydra("awareness", "safety_reminder.commands.awareness:awareness"),
        "p_unsafe and the log-odds of a refusal along unguarded answers",
    ),
}


def _analyze(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {name:<10} {help}" for name, (_, help) in ANALYSES.items()]
        print("\n".join(["safety-reminder analyze WHAT [key=value ...]", "", *lines]))
        return
    analysis = ANALYSES.get(arguments[0])
    if analysis is None:
        raise ConfigError(unknown_name("analysis", arguments[0], ANALYSES))
    analysis[0](arguments[1:])


COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "generate": (
        _with_hydra("generate", "safety_reminder.commands.generate:generate"),
        "answer a data set, guarded or not, into a run folder",
    ),
    "demo": (
        _with_hydra("demo", "safety_reminder.commands.generate:demo"),
        "unguarded and guarded side by side, and one HTML page",
    ),
    "evaluate": (
        _with_hydra("evaluate", "safety_reminder.commands.evaluate:evaluate"),
        "data sets x defences: one table and one page",
    ),
    "train": (_with_hydra("train", "safety_reminder.commands.generate:train"), "learn a reminder for a model"),
    "probe": (
        _with_hydra("probe", "safety_reminder.commands.train:probe"),
        "fit a reminder's probe anew, beside two that need no reminder",
    ),
    "calibrate": (
        _with_hydra("calibrate", "safety_reminder.commands.train:calibrate"),
        "set a reminder's threshold from one's own safe responses",
    ),
    "dro": (
        _with_hydra("dro", "safety_reminder.commands.generate:dro"),
        "train a soft safety prompt, a rival of the reminder",
    ),
    "judge-check": (
        _with_hydra("judge_check", "safety_reminder.commands.judge_check:judge_check"),
        "a judge of harm against people's labels",
    ),
    "analyze": (_analyze, "what a model's own answers show: awareness"),
    "fetch": (_fetch, "get a public data set"),
    "pocket": (_pocket, "assemble the small VLM that ships, and print its folder"),
}

if __name__ == "__main__":
    main()
