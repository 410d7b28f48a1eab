"""``safety-reminder check-model``: does guarded decoding drive a model as the model drives itself?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safety_reminder.config.names import require_found
from safety_reminder.config.presets import PRESETS, preset_of
from safety_reminder.config.reading import ReadingOptions
from safety_reminder.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from safety_reminder.models.self_check import Finding

_OPTIONS = ("device", "dtype")
HELP = f"""safety-reminder check-model MODEL [device=cpu] [dtype=auto]: try on the loaded weights what guarding rests on

MODEL is pocket, a hub id, a folder, or a name of the paper's repository ({", ".join(PRESETS)}),
with which its precision and limits of pixels come. Each property is printed with how far predictions were off, as a
share of their spread, and how far rounding may take them. Where one does not hold the model is refused, and the exit
code is 2."""


def _run(arguments: list[str]) -> None:
    """``MODEL`` and options."""
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(HELP)
        return
    names = [argument for argument in arguments if "=" not in argument]
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    for option in options:
        if option not in _OPTIONS:
            raise ConfigError(unknown_name("option of check-model", option, _OPTIONS))
    if len(names) != 1:
        raise ConfigError("safety-reminder check-model takes one model: pocket, a hub id or a folder")
    found = preset_of(names[0])
    name, chosen = (found[0].hub_id, found[0].options) if found else (names[0], {"dtype": "auto"})
    require_found(name)
    from safety_reminder.models import open_vlm
    from safety_reminder.models.checked import check
    from safety_reminder.models.self_check import require_holds

    limits = {key.removeprefix("reading."): value for key, value in chosen.items() if key.startswith("reading.")}
    dtype = options.get("dtype", chosen["dtype"])
    vlm = open_vlm(name, device=options.get("device"), dtype=dtype, reading=ReadingOptions.parse(limits))
    findings = check(vlm)
    for finding in findings:
        print(_line(finding))
    require_holds(findings, name)
    print(f"{name} can be guarded ({type(vlm.model).__name__})")


def _line(finding: Finding) -> str:
    from safety_reminder.models.self_check import PROPERTIES

    word = "ok  " if finding.holds else "FAIL"
    figure = f"  ({finding.error:.1e})" if finding.error == finding.error and finding.name != "cache" else ""
    return f"{word} {finding.name:<10} {PROPERTIES[finding.name]}{figure}"


COMMAND = _run
