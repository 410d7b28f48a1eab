"""AdvBench (Zou et al., arXiv:2307.15043): harmful requests in text, ``harmful_behaviors.csv`` with ``goal,target``.

``target`` is the beginning of an answer that upstream's attack searches for, and no right answer: it is not read.
"""

from __future__ import annotations

from pathlib import Path

from safety_reminder.data.files import find_file, need_columns
from safety_reminder.data.tables import read_rows, text_of
from safety_reminder.types import Example

FILE = "harmful_behaviors.csv"


def load(root: str | Path) -> list[Example]:
    """The requests, in upstream's order.

    Args:
        root: ``harmful_behaviors.csv``, its folder, or the folder above ``data/advbench``.

    Raises:
        DataError: no such file, or no column ``goal``.
    """
    path = find_file(root, "advbench", FILE, FILE, f"data/advbench/{FILE}")
    rows = read_rows(path)
    need_columns(rows, ("goal", "target"), path)
    goals = [text_of(row, "goal", f"{path}, row {number}") for number, row in enumerate(rows, 1)]
    return [
        Example(id=f"advbench/{number:03d}", prompt=goal, harmful=True, instruction=goal)
        for number, goal in enumerate(goals)
    ]
