"""Suites: which data sets are answered with which defences. A YAML file each; ``quick`` and ``full`` ship."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import safety_reminder.config
import safety_reminder.data
from safety_reminder.config.options import Field, checked
from safety_reminder.data import DATASETS
from safety_reminder.defenses import DEFENSES, needs_reminder
from safety_reminder.errors import ConfigError, unknown_name
from safety_reminder.evaluation.judges import JUDGES
from safety_reminder.outside import require_writable

SHIPPED = Path(safety_reminder.config.__file__).parent / "suites"
_DATA = Path(safety_reminder.data.__file__).parent / "shipped"
_SHIPPED_FILE = "shipped:"
PLAIN, MONITOR = "none", "monitor"


@dataclass(frozen=True)
class SuiteTask:
    """A data set with its loader's options, and judges beside the refusal rules."""

    dataset: str
    root: str
    options: dict[str, Any] = field(default_factory=dict)
    judges: tuple[str, ...] = ()
    judge_options: dict[str, Any] = field(default_factory=dict)
    max_tokens: int = 128


@dataclass(frozen=True)
class Suite:
    """``tasks`` by name, and ``defenses``: the options of the model provider for each, by its label."""

    tasks: dict[str, SuiteTask]
    defenses: dict[str, dict[str, Any]]


def load_suite(
    name: str,
    *,
    root: str | None = None,
    reminder: bool = True,
    defenses: Sequence[str] | None = None,
    limit: int | None = None,
    max_tokens: int | None = None,
) -> Suite:
    """A suite that ships, by name, or one's own file.

    ``none`` comes first in every suite, and with a ``reminder`` there is ``monitor``, which watches unguarded answers.

    Args:
        root: the folder that relative roots are in. defenses: only these defences of the suite, by label.
        limit: rows of each task, at most. max_tokens: of answers, whatever the suite says.

    Raises:
        ConfigError: no such suite, or something in it that is unknown or missing.
    """
    path = SHIPPED / f"{name}.yaml" if (SHIPPED / f"{name}.yaml").is_file() else Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"no suite {name!r}: {', '.join(sorted(p.stem for p in SHIPPED.glob('*.yaml')))}, or a file")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        require_writable(json.dumps(content, default=str, ensure_ascii=False), str(path), ConfigError)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise ConfigError(f"{path} is not a suite: {' '.join(str(error).split())}") from error
    options = _mapping(content, str(path), {"max_tokens", "tasks", "defenses"})
    length = max_tokens if max_tokens is not None else options.get("max_tokens", 128)
    if not isinstance(length, int) or length < 1:
        raise ConfigError(f"max_tokens must be a whole number from 1, got {length!r}")
    tasks = {
        label: _task(entry, f"{path}, task {label}", root, limit, length, final=max_tokens is not None)
        for label, entry in _mapping(options.get("tasks"), f"{path}, tasks").items()
    }
    if not tasks:
        raise ConfigError(f"{path} has no tasks")
    entries = _defenses(options.get("defenses"), path, defenses, reminder=reminder)
    if reminder:
        entries[MONITOR] = {"defense": "reminder", "policy": "monitor"}
    return Suite(tasks, entries)


def _defenses(given: Any, path: Path, chosen: Sequence[str] | None, *, reminder: bool) -> dict[str, dict[str, Any]]:
    """``none``, and the chosen defences of the suite that are available."""
    entries: dict[str, dict[str, Any]] = {PLAIN: {"defense": "none"}}
    for label, entry in _mapping(given, f"{path}, defenses").items():
        options = _mapping(entry, f"{path}, defense {label}")
        if options.setdefault("defense", label) not in DEFENSES:
            raise ConfigError(f"{path}, defense {label}: {unknown_name('defense', options['defense'], DEFENSES)}")
        if label in (PLAIN, MONITOR):
            raise ConfigError(f"{path}: a defence cannot be called {label!r}, which every suite has")
        if reminder or not needs_reminder(options["defense"]):
            entries[label] = options
    if chosen is None:
        return entries
    for label in chosen:
        if label not in entries:
            raise ConfigError(unknown_name("defense of the suite", str(label), entries))
    return {label: options for label, options in entries.items() if label == PLAIN or label in chosen}


def _task(entry: Any, where: str, root: str | None, limit: int | None, length: int, *, final: bool) -> SuiteTask:
    values = _mapping(entry, where, {f.name for f in fields(SuiteTask)})
    for name in ("dataset", "root"):
        if not isinstance(values.get(name), str):
            raise ConfigError(f"{where} needs {name}")
    judges = checked(list[str], values.get("judges") or [], f"{where}: judges")
    choices = {name: _mapping(values.get(name), f"{where}, {name}") for name in ("options", "judge_options")}
    checked(Annotated[int, Field(ge=1)], values.get("max_tokens", length), f"{where}: max_tokens")
    task = SuiteTask(**{**values, **choices, "judges": tuple(judges)})
    if task.dataset not in DATASETS:
        raise ConfigError(f"{where}: {unknown_name('dataset', task.dataset, DATASETS)}")
    for judge in task.judges:
        if judge not in JUDGES:
            raise ConfigError(f"{where}: {unknown_name('judge', judge, JUDGES)}")
    options = dict(task.options)
    if limit is not None:
        options["limit"] = min(limit, options.get("limit") or limit)
        options.setdefault("seed", 0)  # the first rows of a file are often of one kind
    return replace(
        task,
        root=_root(task.root, where, root),
        options=options,
        max_tokens=length if final else values.get("max_tokens", length),
    )


def _root(place: str, where: str, root: str | None) -> str:
    if place.startswith(_SHIPPED_FILE):
        return str(_DATA / place.removeprefix(_SHIPPED_FILE))
    path = Path(place).expanduser()
    if path.is_absolute():
        return str(path)
    if root is None:
        raise ConfigError(f"{where} is in a folder {place!r}; say where that is with root=DIR")
    return str(Path(root).expanduser() / path)


def _mapping(value: Any, where: str, known: set[str] | None = None) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must be names with options, got {value!r}")
    for name in value:
        if known is not None and name not in known:
            raise ConfigError(f"{where}: {unknown_name('option', str(name), known)}")
    return {str(name): option for name, option in value.items()}
