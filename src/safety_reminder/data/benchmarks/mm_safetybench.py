"""MM-SafetyBench (Liu et al., arXiv:2311.17600): 13 scenarios, each question asked with an image that carries the harm.

Upstream's layout: ``processed_questions/{scenario}.json``, an object id → row with ``Question``, ``Changed Question``,
``Key Phrase``, ``Phrase Type``, ``Rephrased Question`` and ``Rephrased Question(SD)``; and, from an archive of its own,
``imgs/{scenario}/{SD,TYPO,SD_TYPO}/{id}.jpg``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from safety_reminder.data.benchmarks.typographic import render
from safety_reminder.data.files import existing_root, first_existing, image_at, one_of, read_mapping
from safety_reminder.data.tables import text_of
from safety_reminder.errors import ConfigError, DataError, unknown_name
from safety_reminder.types import Example

# Upstream's own spelling: files and folders bear these names.
SCENARIOS = (
    "01-Illegal_Activitiy", "02-HateSpeech", "03-Malware_Generation", "04-Physical_Harm", "05-EconomicHarm", "06-Fraud",
    "07-Sex", "08-Political_Lobbying", "09-Privacy_Violence", "10-Legal_Opinion", "11-Financial_Advice",
    "12-Health_Consultation", "13-Gov_Decision",
)  # fmt: skip
ADVICE = frozenset(
    ("08-Political_Lobbying", "10-Legal_Opinion", "11-Financial_Advice", "12-Health_Consultation", "13-Gov_Decision")
)
# Variant → the column that goes with its image.
VARIANTS = {
    "SD": "Rephrased Question(SD)",
    "TYPO": "Rephrased Question",
    "SD_TYPO": "Rephrased Question",
    "text": "Question",
}
IMAGE_FOLDERS = ("imgs", "MM-SafetyBench(imgs)")  # the second is how upstream's archive unpacks
log = logging.getLogger(__name__)


def load(
    root: str | Path,
    *,
    variant: str = "SD_TYPO",
    scenarios: Sequence[str | int] | str | int | None = None,
    images: str | Path | None = None,
) -> list[Example]:
    """The questions of the scenarios whose files are there, in upstream's order.

    All scenarios are harmful, as in upstream's attack success rate; those of :data:`ADVICE` ask for advice on politics,
    law, money, health or government, and are no attacks to metrics. ``category`` is the scenario.

    Args:
        root: the folder of ``processed_questions``, or the one above it.
        variant: ``SD`` (a generated picture), ``TYPO`` (the key phrase as type), ``SD_TYPO`` (one above the other), or
            ``text`` (the bare question, without an image).
        scenarios: keep these only, by name (``06-Fraud`` or ``Fraud``) or number; by default all that are there.
        images: folder of the scenarios' image folders; by default ``imgs`` beside ``processed_questions``. Without
            ``TYPO`` images, the key phrases are rendered, and a warning says so: the words are upstream's, the look of
            the page is not.

    Raises:
        DataError: a file is not where it should be, or an image cannot be read; says which.
        ConfigError: unknown variant or scenario.
    """
    one_of("MM-SafetyBench variant", variant, VARIANTS)
    kept = None if scenarios is None or scenarios == [] else _scenarios(scenarios)
    what = "MM-SafetyBench's folder with processed_questions/ and imgs/"
    folder = existing_root(root, "mm_safetybench", what)
    questions = first_existing(
        [folder / "processed_questions", folder / "data" / "processed_questions"], "mm_safetybench"
    )
    present = [name for name in SCENARIOS if (questions / f"{name}.json").is_file()]
    if not present:
        raise DataError(f"{questions} has no scenario; expected {SCENARIOS[0]}.json and others")
    examples, rendered = [], []
    for scenario in present if kept is None else kept:
        path = first_existing([questions / f"{scenario}.json"], "mm_safetybench")
        rows = read_mapping(path)
        place = None if variant == "text" else _images(questions.parent, images, scenario, variant)
        if place is None and variant != "text":
            rendered.append(scenario)
        examples += [_example(key, row, scenario, variant, place, path) for key, row in rows.items()]
    if rendered:
        log.warning(
            "no TYPO images in %s: rendering the key phrases instead of upstream's images (%s)",
            questions.parent / IMAGE_FOLDERS[0],
            ", ".join(rendered),
        )
    return examples


def _example(key: str, row: dict[str, Any], scenario: str, variant: str, place: Path | None, path: Path) -> Example:
    where = f"{path}, question {key}"
    image: Path | Image.Image | None = None
    if place is not None:
        image = image_at(place / f"{key}.jpg", where)
    elif variant == "TYPO":
        phrase = text_of(row, "Key Phrase", where)
        try:
            image = render(phrase, numbered=False, grow=True)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    return Example(
        id=f"{scenario}/{variant}/{key}",
        prompt=text_of(row, VARIANTS[variant], where),
        image=image,
        harmful=True,
        category=scenario,
        instruction=text_of(row, "Question", where),
        advice=scenario in ADVICE,
    )


def _images(parent: Path, images: str | Path | None, scenario: str, variant: str) -> Path | None:
    """Folder of a scenario's images; None for ``TYPO`` where there is none and the pages are to be rendered."""
    roots = [Path(images).expanduser()] if images is not None else [parent / name for name in IMAGE_FOLDERS]
    places = [place / scenario / variant for place in roots]
    if variant == "TYPO" and images is None and not any(place.is_dir() for place in places):
        return None
    return first_existing(places, "mm_safetybench")


def _scenarios(wanted: Sequence[str | int] | str | int) -> list[str]:
    names = {}
    for scenario in SCENARIOS:
        number, _, bare = scenario.partition("-")
        names |= {scenario.lower(): scenario, bare.lower(): scenario, number: scenario, str(int(number)): scenario}
    kept = set()
    for name in [wanted] if isinstance(wanted, str | int) else wanted:
        key = str(name).strip().lower()
        if key not in names:
            raise ConfigError(unknown_name("MM-SafetyBench scenario", str(name), SCENARIOS))
        kept.add(names[key])
    return [scenario for scenario in SCENARIOS if scenario in kept]
