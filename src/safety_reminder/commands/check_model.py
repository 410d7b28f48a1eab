"""``safety-reminder check-model``: does guarded decoding drive a model as the model drives itself?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safety_reminder.config.names import require_found
from safety_reminder.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from safety_reminder.models.self_check import Finding

_OPTIONS = ("device", "dtype")
_HELP = """safety-reminder check-model MODEL [device=cpu] [dtype=auto]: try on the loaded weights what guarding rests on

MODEL is pocket, a hub id or a folder. Each property is printed with how far predictions were off, as a share of their
spread, and how far rounding may take them. Where one does not hold the model is refused, and the exit code is 2."""


def _run(arguments: list[str]) -> None:
    """``MODEL`` and options."""
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(_HELP)
        return
    names = [argument for argument in arguments if "=" not in argument]
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    for option in options:
        if option not in _OPTIONS:
            raise ConfigError(unknown_name("option of check-model", option, _OPTIONS))
    if len(names) != 1:
        raise ConfigError("safety-reminder check-model takes one model: pocket, a hub id or a folder")
    require_found(names[0])
    from safety_reminder.models import open_vlm
    from safety_reminder.models.checked import check
    from safety_reminder.models.self_check import require_holds

    vlm = open_vlm(names[0], device=options.get("device"), dtype=options.get("dtype", "auto"))
    findings = check(vlm)
    for finding in findings:
        print(_line(finding))
    require_holds(findings, names[0])
    print(f"{names[0]} can be guarded ({type(vlm.model).__name__})")


def _line(finding: Finding) -> str:
    from safety_reminder.models.self_check import PROPERTIES

    word = "ok  " if finding.holds else "FAIL"
    figure = f"  ({finding.error:.1e})" if finding.error == finding.error and finding.name != "cache" else ""
    return f"{word} {finding.name:<10} {PROPERTIES[finding.name]}{figure}"


COMMAND = _run
