"""Judges of harm and of answers, by name. One file a judge, one row here."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from safety_reminder.config.options import require_kinds
from safety_reminder.errors import ConfigError, unknown_name
from safety_reminder.evaluation.judges.base import UNREADABLE, Item, Judge, Judgement, NoAnswer, judge_each, unreadable
from safety_reminder.evaluation.judges.cache import cached

_HERE = "safety_reminder.evaluation.judges"
JUDGES: dict[str, str] = {
    "refusal": f"{_HERE}.refusal:RefusalJudge",
    "fitted": f"{_HERE}.fitted:Fitted",
    "asked": f"{_HERE}.asked:Asked",
    "llama_guard_3": f"{_HERE}.llama_guard:LlamaGuard3",
    "llama_guard_3_vision": f"{_HERE}.llama_guard:LlamaGuard3Vision",
    "llama_guard_4": f"{_HERE}.llama_guard:LlamaGuard4",
    "harmbench": f"{_HERE}.harmbench:HarmBench",
    "qwen3guard": f"{_HERE}.qwen3guard:Qwen3Guard",
    "md_judge": f"{_HERE}.md_judge:MDJudge",
    "md_judge_v02": f"{_HERE}.md_judge:MDJudgeV2",
    "strongreject": f"{_HERE}.strongreject:StrongReject",
    "panel": f"{_HERE}.panel:Panel",
    "mmvet": f"{_HERE}.mmvet:MMVet",
    "mmvet_match": f"{_HERE}.mmvet:MMVetMatch",
    "yes_no": f"{_HERE}.yes_no:YesNo",
}
OF_ANSWERS = frozenset({"mmvet", "mmvet_match", "yes_no"})  # the others judge harm


def load_judge(name: str, **options: Any) -> Judge:
    """A judge by name.

    Args:
        options: of its class, as documented there; for a judge that is a model, ``model``, ``device``, ``dtype``, ...

    Raises:
        ConfigError: no such judge, no such option, or a missing option.
        ModelError: a judge model that cannot be loaded.
    """
    return judge_class(name, options)(**options)


def judge_class(name: str, options: Mapping[str, Any]) -> Any:
    """The class of the judge of that name, which takes these options. Nothing is loaded.

    Raises:
        ConfigError: as :func:`load_judge`.
    """
    if name not in JUDGES:
        raise ConfigError(unknown_name("judge", name, JUDGES))
    module, _, attribute = JUDGES[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    parameters = inspect.signature(kind).parameters
    for option in options:
        if not parameters:
            raise ConfigError(f"judge={name} takes no options, got {option!r}")
        if option not in parameters:
            raise ConfigError(unknown_name(f"option of judge={name}", option, parameters))
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in options:
            raise ConfigError(f"judge={name} needs the option {option!r}")
    # A device may be a number, whatever the judge calls it.
    require_kinds(parameters, {k: v for k, v in options.items() if k != "device"}, f"judge={name}")
    return kind


__all__ = [
    "JUDGES",
    "OF_ANSWERS",
    "UNREADABLE",
    "Item",
    "Judge",
    "Judgement",
    "NoAnswer",
    "cached",
    "judge_class",
    "judge_each",
    "load_judge",
    "unreadable",
]
