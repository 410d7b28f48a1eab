"""Make a run of an attack on pocket an artefact that ships: its image or suffix, with the requests that ship.

    python recipes/pocket/ship_attacks.py runs/attacks/pgd-eps32-0 pgd_eps32

The run must have learned on other requests. What is written is a run folder like any other, which
``dataset=attack_run`` and ``suite=attacks`` read; beside it, ``clean`` holds the same requests in front of the grey
image that every attack began from.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from dataclasses import replace
from pathlib import Path

from safety_reminder.attacks.splits import without
from safety_reminder.attacks.suffix import with_suffix
from safety_reminder.data import DEMO_REQUESTS, TEXT_REQUESTS, load_dataset
from safety_reminder.data.attack_runs import EXAMPLES, load, write_examples
from safety_reminder.types import Example

SHIPPED = DEMO_REQUESTS.parent / "attacks"


def requests() -> list[Example]:
    """The harmful requests that ship, in words."""
    plain = [example for example in load_dataset("text", TEXT_REQUESTS) if example.harmful]
    with DEMO_REQUESTS.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["harmful"] == "true"]
    shown = [
        Example(id=row["id"], prompt=row["instruction"], category=row["category"], advice=row["advice"] == "true")
        for row in rows
    ]
    return [replace(example, instruction=example.prompt) for example in [*plain, *without(shown, plain)]]


def ship(run: Path, folder: Path) -> None:
    """Raises: SystemExit: the run has learned on a request that ships, or holds neither image nor suffix."""
    examples = requests()
    if len(without(examples, load(run, split="all"))) < len(examples):
        raise SystemExit(f"{run} has seen requests that ship")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EXAMPLES).unlink(missing_ok=True)
    if (run / "image.png").is_file():
        shutil.copy(run / "image.png", folder / "image.png")
        _ship_clean(run, folder.parent / "clean", examples)
        attacked = [replace(example, image=folder / "image.png") for example in examples]
    elif (run / "adv_suffix.csv").is_file():
        with (run / "adv_suffix.csv").open(encoding="utf-8", newline="") as file:
            suffix = next(csv.DictReader(file))["adv_suffix"]
        attacked = [with_suffix(example, " " + suffix) for example in examples]
    else:
        raise SystemExit(f"{run} holds neither image.png nor adv_suffix.csv")
    write_examples(folder, {"test": attacked})
    print(f"wrote {folder}: {len(attacked)} requests")


def _ship_clean(run: Path, folder: Path, examples: list[Example]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "clean.png", folder / "image.png")
    write_examples(folder, {"test": [replace(example, image=folder / "image.png") for example in examples]})


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", type=Path)
    options.add_argument("name", help="of the artefact: pgd_eps8, pgd_eps32, gcg, bap")
    chosen = options.parse_args()
    ship(chosen.run, SHIPPED / chosen.name)
