"""AdvBench (Zou et al., arXiv:2307.15043): harmful requests in text, ``harmful_behaviors.csv`` with ``goal,target``.

``target`` is the beginning of an answer that upstream's attack searches for, and no right answer: it is not read.

Upstream has no splits. Those here are the ones that the Safety Reminder's authors draw (arXiv:2506.15734): 320 requests
to train on, 100 to validate on and 100 to test on.
"""

from __future__ import annotations

from pathlib import Path

from safety_reminder.data.draws import train_validation_test
from safety_reminder.data.files import find_file, need_columns, one_of
from safety_reminder.data.protocols import ADVBENCH_SPLITS as SPLITS
from safety_reminder.data.tables import read_rows, text_of
from safety_reminder.types import Example

FILE = "harmful_behaviors.csv"


def load(root: str | Path, *, split: str | None = None) -> list[Example]:
    """The requests, in upstream's order.

    Args:
        root: ``harmful_behaviors.csv``, its folder, or the folder above ``data/advbench``.
        split: ``train``, ``validation`` or ``test``, see :func:`parts`; by default, and with ``all``, all of them.

    Raises:
        DataError: no such file, or no column ``goal``. ConfigError: unknown split.
    """
    one_of("AdvBench split", split or "all", (*SPLITS, "all"))
    path = find_file(root, "advbench", FILE, FILE, f"data/advbench/{FILE}")
    rows = read_rows(path)
    need_columns(rows, ("goal", "target"), path)
    goals = [text_of(row, "goal", f"{path}, row {number}") for number, row in enumerate(rows, 1)]
    kept = range(len(goals)) if split in (None, "all") else parts(len(goals))[split]
    return [
        Example(id=f"advbench/{number:03d}", prompt=goals[number], harmful=True, instruction=goals[number])
        for number in kept
    ]


def parts(count: int) -> dict[str, list[int]]:
    """Which of ``count`` rows are in which split, in their order: of 520, the very rows of the authors' splits. Of
    fewer, the shares are the same."""
    held_back = SPLITS["validation"] + SPLITS["test"]
    return train_validation_test(count, round(count * held_back / sum(SPLITS.values())))
