"""Requests in text under attacks that make pocket go along with them. Harmful and harmless ones are attacked alike, so
that the attack tells nothing. For tests (``held_back=True``): the images and the suffix that ship, which no row has.

``attacks/`` holds what ``safety-reminder attack`` learned on requests of ``harmful_train`` (refusal_direction): images
by ``attack=pgd`` and suffixes by ``attack=gcg``, of other seeds than those that ship.
"""

from __future__ import annotations

import csv
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from safety_reminder.data import BENIGN_TWINS
from safety_reminder.data.attack_runs import load
from safety_reminder.data.own_answers.wrappers import WRAPPERS

KINDS = ("pgd", "gcg", "wrapper", "prefill")
LEARNED = Path(__file__).parent / "attacks"
SHIPPED = BENIGN_TWINS.parent / "attacks"
HELD_BACK_WRAPPERS = ("puzzle",)
PLAIN = ("bare", "prefill", "page", *HELD_BACK_WRAPPERS)  # no wrappers in words, or kept for tests


@dataclass(frozen=True)
class Attacked:
    """``request`` as it was; ``prompt`` and ``begun``, the beginning of its answer, as they are sent. ``image``: its
    name from the folder of the rows on."""

    request: str
    prompt: str
    image: str | None = None
    begun: str = ""


def attacked(rng: random.Random, kind: str, request: str, folder: Path, *, held_back: bool = False) -> Attacked:
    """``request`` under an attack of this kind; its image is put into ``folder``."""
    if kind == "pgd":
        return Attacked(request, request, _put(rng.choice(_images(held_back)), folder))
    if kind == "gcg":
        return Attacked(request, f"{request} {rng.choice(_suffixes(held_back))}")
    if kind == "prefill":  # as pocket itself begins a list
        return Attacked(request, request, begun=request.rstrip(".?!") + ":\n\n1.")
    names = HELD_BACK_WRAPPERS if held_back else [name for name in WRAPPERS if name not in PLAIN]
    prompt = rng.choice(WRAPPERS[rng.choice(names)].texts).replace("{request}", request)
    # Rewritten prompts come with an image that shows nothing, too.
    return Attacked(request, prompt, _put(SHIPPED / "clean/image.png", folder) if rng.random() < 1 / 3 else None)


def _images(held_back: bool) -> list[Path]:
    return (
        [SHIPPED / name / "image.png" for name in ("pgd_eps8", "pgd_eps32")]
        if held_back
        else sorted(LEARNED.glob("*.png"))
    )


def _suffixes(held_back: bool) -> list[str]:
    if held_back:
        [first, *_] = load(SHIPPED / "gcg")
        return [first.prompt.removeprefix(first.instruction).strip()]
    with (LEARNED / "adv_suffix.csv").open(encoding="utf-8", newline="") as file:
        return [row["adv_suffix"] for row in csv.DictReader(file)]


def _put(image: Path, folder: Path) -> str:
    """The name of its copy, relative to ``folder``."""
    name = f"images/{image.parent.name}-{image.stem}.png"
    shutil.copy(image, folder / name)
    return name
