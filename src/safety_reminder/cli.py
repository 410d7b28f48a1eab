"""The command line: ``safety-reminder COMMAND key=value ...``. What a command needs is imported when it is called."""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Callable

from safety_reminder.errors import ConfigError, SafetyReminderError, in_a_line, unknown_name

# What each does, in the order of the help. ``analyze WHAT`` is several.
COMMANDS = {
    "generate": "answer a data set, guarded or not, into a run folder",
    "demo": "unguarded and guarded side by side, and one HTML page",
    "evaluate": "data sets x defences: one table and one page",
    "make-rows": "training rows from a model's own answers",
    "train": "learn a reminder for a model",
    "probe": "fit a reminder's probe anew, beside two that need no reminder",
    "import-official": "a reminder that the paper's code trained, as a pack",
    "calibrate": "set a reminder's threshold from one's own safe responses",
    "generality": "each topic or attack left out in turn: does the probe know harm, or topics?",
    "attack": "make requests that carry an attack: pgd, gcg, bap, prefill and more",
    "dro": "train a soft safety prompt, a rival of the reminder",
    "judge-check": "a judge of harm against people's labels",
    "analyze": "what a model's own answers show: awareness",
    "check-model": "whether a model can be guarded: its own generate against guarded decoding",
    "fetch": "get a public data set",
    "pocket": "assemble the small VLM that ships, and print its folder",
}
ANALYSES = {"awareness": "p_unsafe and the log-odds of a refusal along unguarded answers"}
_HELP = ("-h", "--help", "help")


def main() -> None:
    """Entry point. Exit code 0 on success, 2 with one line on stderr for anything the user can put right."""
    shown = warnings.formatwarning
    warnings.formatwarning = lambda message, *where, **more: f"{' '.join(str(message).split())}\n"  # no source line
    try:
        _call(sys.argv[1:])
    except (SafetyReminderError, OSError) as error:
        _end_progress()
        print(f"error: {in_a_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        _end_progress()
        print("interrupted; run the same command again", file=sys.stderr)
        sys.exit(130)
    finally:
        warnings.formatwarning = shown


def _end_progress() -> None:
    """Close progress bars that are still open, so that what is said next stands on a line of its own."""
    tqdm = sys.modules.get("tqdm")
    for bar in list(getattr(tqdm.tqdm, "_instances", ())) if tqdm else []:
        bar.close()


def _call(arguments: list[str]) -> None:
    if not arguments or arguments[0] in _HELP:
        print(_usage("COMMAND", COMMANDS))
        print("\nsafety-reminder COMMAND --help lists a command's options.")
    elif arguments[0] == "--version":
        from safety_reminder import __version__

        print(__version__)
    elif arguments[0] == "analyze":
        _analyze(arguments[1:])
    elif arguments[0] in COMMANDS:
        call(arguments[0], arguments[1:])
    else:
        raise ConfigError(unknown_name("command", arguments[0], COMMANDS))


def _analyze(arguments: list[str]) -> None:
    if not arguments or arguments[0] in _HELP:
        print(_usage("analyze WHAT", ANALYSES))
    elif arguments[0] in ANALYSES:
        call(arguments[0], arguments[1:])
    else:
        raise ConfigError(unknown_name("analysis", arguments[0], ANALYSES))


def call(name: str, arguments: list[str]) -> None:
    """Run a command with the arguments that stand after its name."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    command(name)(arguments)


def command(name: str) -> Callable[[list[str]], None]:
    """What the module ``commands/NAME.py`` has as ``COMMAND``."""
    module = importlib.import_module(f"safety_reminder.commands.{name.replace('-', '_')}")
    return module.COMMAND


def _usage(what: str, known: dict[str, str]) -> str:
    lines = [f"  {name:<15} {about}" for name, about in known.items()]
    return "\n".join([f"safety-reminder {what} [key=value ...]", "", *lines])


if __name__ == "__main__":
    main()
