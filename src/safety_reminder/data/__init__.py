"""Benchmarks and prompt files → :class:`~safety_reminder.types.Example`. One loader a file, one row here."""

from __future__ import annotations

import itertools
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from safety_reminder.config.options import checked
from safety_reminder.data.protocols import protocol_of
from safety_reminder.data.tables import sample_rows
from safety_reminder.errors import ConfigError, DataError, unknown_name
from safety_reminder.types import Example

DATASETS = {
    "figstep": "safety_reminder.data.benchmarks.figstep:load",
    "mm_safetybench": "safety_reminder.data.benchmarks.mm_safetybench:load",
    "mmvet": "safety_reminder.data.benchmarks.mmvet:load",
    "advbench": "safety_reminder.data.benchmarks.advbench:load",
    "xstest": "safety_reminder.data.benchmarks.xstest:load",
    "harmbench": "safety_reminder.data.benchmarks.harmbench:load",
    "spa_vl": "safety_reminder.data.benchmarks.spa_vl:load",
    "vlsafe": "safety_reminder.data.benchmarks.vlsafe:load",
    "vlguard": "safety_reminder.data.benchmarks.vlguard:load",
    "jailbreakv": "safety_reminder.data.benchmarks.jailbreakv:load",
    "mossbench": "safety_reminder.data.benchmarks.mossbench:load",
    "siuo": "safety_reminder.data.benchmarks.siuo:load",
    "mme": "safety_reminder.data.benchmarks.mme:load",
    "visual_adv": "safety_reminder.data.benchmarks.visual_adv:load",
    "attack_run": "safety_reminder.data.attack_runs:load",
    "adv_suffix": "safety_reminder.data.benchmarks.adv_suffix:load",
    "adv_images": "safety_reminder.data.benchmarks.adv_images:load",
    "bap": "safety_reminder.data.benchmarks.bap:load",
    "typographic": "safety_reminder.data.benchmarks.typographic:load",
    "text": "safety_reminder.data.benchmarks.text:load",
}
# Files that ship, none of them trained on: typographic requests and their harmless twins, more twins, and plain text.
DEMO_REQUESTS = Path(__file__).parent / "shipped" / "demo.csv"
BENIGN_TWINS = Path(__file__).parent / "shipped" / "benign_twins.csv"
SENSITIVE_TWINS = Path(__file__).parent / "shipped" / "sensitive_twins.csv"  # harmless, and near harm
TEXT_REQUESTS = Path(__file__).parent / "shipped" / "requests.csv"
# What detectors that need a few requests choose and calibrate on. Nothing is evaluated on these.
DETECTOR_REQUESTS = Path(__file__).parent / "shipped" / "detector_requests.csv"


def load_dataset(
    name: str,
    root: str | Path,
    *,
    protocol: str | None = None,
    limit: int | None = None,
    per_category: int | None = None,
    seed: int | None = None,
    **options: Any,
) -> list[Example]:
    """Examples of a data set by name.

    Args:
        root: file or folder, in the form the loader documents.
        protocol: only the rows of a published evaluation, of :data:`~safety_reminder.data.protocols.PROTOCOLS`; where
            fewer of them are there than in full, a warning says how many. By default, all rows.
        limit: of these, take this many; with ``seed``, a random sample of them, in their original order.
        per_category: before that, take this many of each category, likewise.
        options: passed on to the loader.

    Raises:
        ConfigError: an unknown name, a protocol that is not this data set's, or an option that is unknown or of the
            wrong type.
        DataError: files that are missing or do not fit, or two rows of one id.
    """
    if not isinstance(name, str) or name not in DATASETS:
        raise ConfigError(unknown_name("dataset", str(name), DATASETS))
    if not isinstance(root, str | Path):
        raise ConfigError(f"dataset.root must be a path, got {root!r:.60}")
    for option, value in (("limit", limit), ("per_category", per_category)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError(f"dataset.{option} must be a whole number from 1, got {value!r}")
    loader: Callable[..., list[Example]] = pkgutil.resolve_name(DATASETS[name])
    kinds = get_type_hints(loader)
    known = kinds.keys() - {"root", "return"}
    for option, value in options.items():
        if option not in known:
            raise ConfigError(
                unknown_name(f"option of dataset={name}", option, known | {"limit", "per_category", "seed"})
            )
        _require_kind(f"dataset.{option}", kinds[option], value)
    chosen = None if protocol is None else protocol_of(name, protocol)
    if chosen is not None:
        options = chosen.loading(f"dataset={name} protocol={protocol}", options)
    examples = loader(root, **options)
    if not examples:
        raise DataError(f"{root} leaves no examples; check the options of dataset={name}")
    _require_unique(examples, root)
    if chosen is not None:
        examples = chosen.select(f"dataset={name} protocol={protocol}", examples, options)
    if per_category is not None:
        examples = _of_each_category(examples, per_category, seed)
    return list(examples[:limit] if seed is None else sample_rows(examples, limit, seed))


def _of_each_category(examples: Sequence[Example], count: int, seed: int | None) -> list[Example]:
    places: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        places.setdefault(example.category, []).append(place)
    kept = (
        own[:count] if seed is None else sample_rows(own, count, f"{seed}/{category}")
        for category, own in places.items()
    )
    return [examples[place] for place in sorted(itertools.chain.from_iterable(kept))]


_WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", NoneType: "null"}


def _require_kind(option: str, kind: Any, value: Any) -> None:
    try:
        checked(kind, value, option)
    except ConfigError as error:
        kinds = get_args(kind) if get_origin(kind) not in (None, list, Sequence) else (kind,)
        words = [_WORDS.get(of, "a list of texts") for of in kinds if of is not Path]
        raise ConfigError(f"{option} must be {' or '.join(words)}, got {value!r:.60}") from error


def _require_unique(examples: Sequence[Example], root: str | Path) -> None:
    rows: dict[str, int] = {}
    for number, example in enumerate(examples, 1):
        if example.id in rows:
            both = f"examples {rows[example.id]} and {number}"
            raise DataError(f"{root} has the id {example.id[:80]!r} twice ({both}); ids must be unique")
        rows[example.id] = number


def load_detector_rows(name: str) -> list[Example]:
    """What a detector that needs a few requests chooses and calibrates on: with ``shipped`` the requests that ship,
    four as pages, four as text, and so on; or a file as for ``dataset=text``.

    Raises:
        DataError: a file that cannot be read, or a font that is not there.
    """
    if name != "shipped":
        return load_dataset("text", name)
    pages, texts = (load_dataset(form, DETECTOR_REQUESTS) for form in ("typographic", "text"))
    return [texts[n] if n // 4 % 2 else pages[n] for n in range(len(pages))]
