"""MME's rule (Fu et al., arXiv:2306.13394): the first ``yes`` or ``no`` in the answer against the right one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from safety_reminder.evaluation.judges.base import Item, Judgement, unreadable

_WORD = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


class YesNo:
    """A judge of answers: score 1 or 0, label ``yes``, ``no``, or ``neither``, which is wrong, as in MME."""

    name = "yes_no"
    version = "1"

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        """An item whose target is neither yes nor no is unreadable."""
        return [self._one(item) for item in items]

    def _one(self, item: Item) -> Judgement:
        target = item.target.strip().lower()
        if target not in ("yes", "no"):
            return unreadable(f"judge=yes_no needs a target of yes or no, got {item.target[:60]!r}")
        match = _WORD.search(item.response)
        if match is None:
            return Judgement(None, 0.0, "neither", item.response)
        word = match[1].lower()
        return Judgement(None, float(word == target), word, item.response)
