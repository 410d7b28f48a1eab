"""Several judges, and how far they agree."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from safety_reminder.errors import ConfigError
from safety_reminder.evaluation.judges.agreement import cohen_kappa, krippendorff_alpha
from safety_reminder.evaluation.judges.base import Item, Judge, Judgement, unreadable
from safety_reminder.evaluation.statistics import Metric


class Panel:
    """The majority of several judges of harm.

    Args:
        judges: at least two: judges, names, or names with options. Two of the same kind need different options.

    Those whose verdict cannot be read abstain. A tie leaves ``unsafe`` open. The score is the share that said unsafe,
    the label says how many of how many.
    """

    def __init__(self, judges: Sequence[Judge | str] | Mapping[str, Mapping[str, Any] | None]) -> None:
        if isinstance(judges, str):
            raise ConfigError(f"a panel needs a list of judges, got {judges!r}")
        self.members = [_load(judge, judges) for judge in judges]
        if len(self.members) < 2:
            raise ConfigError(f"a panel needs at least two judges, got {len(self.members)}")
        identities = [(member.name, member.version) for member in self.members]
        if len(set(identities)) < len(identities):
            raise ConfigError("a panel has the same judge twice, whose vote would count double")
        self.name = f"panel({','.join(member.name for member in self.members)})"
        self.version = ";".join(member.version for member in self.members)

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        verdicts = [member.judge(items) for member in self.members]
        names = _distinct([member.name for member in self.members])
        return [
            replace(majority(votes), votes={name: vote.unsafe for name, vote in zip(names, votes, strict=True)})
            for votes in zip(*verdicts, strict=True)
        ]


def majority(votes: Sequence[Judgement]) -> Judgement:
    """What most of those that could be read say."""
    read = [vote.unsafe for vote in votes if vote.unsafe is not None]
    raw = " | ".join(vote.label for vote in votes)
    if not read:
        return unreadable(raw)
    unsafe = sum(read)
    tie = 2 * unsafe == len(read)
    label = f"{unsafe} of {len(read)} unsafe"
    return Judgement(None if tie else 2 * unsafe > len(read), unsafe / len(read), label, raw)


@dataclass(frozen=True)
class Agreement:
    """How far judges agree. ``alpha``: Krippendorff's, of all of them; ``kappa``: Cohen's, of every two, ``a, b``. None
    where it is undefined: they gave only one label, or none on the same item."""

    alpha: float | None
    kappa: dict[str, Metric | None]

    def as_json(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "kappa": {pair: k.as_json() if k else None for pair, k in self.kappa.items()}}


def agreement(votes: Sequence[Mapping[str, bool | None]]) -> Agreement:
    """Of a panel's members.

    Args:
        votes: of each item, by judge. Those that could not be read, None, do not count.
    """
    names = list(dict.fromkeys(name for vote in votes for name in vote))
    units = [[vote.get(name) for name in names] for vote in votes]
    compared = any(sum(label is not None for label in unit) > 1 for unit in units)
    kappa: dict[str, Metric | None] = {}
    for (i, a), (j, b) in itertools.combinations(enumerate(names), 2):
        both = [(unit[i], unit[j]) for unit in units if unit[i] is not None and unit[j] is not None]
        kappa[f"{a}, {b}"] = cohen_kappa(*zip(*both, strict=True)) if both else None
    return Agreement(krippendorff_alpha(units) if compared else None, kappa)


def _distinct(names: Sequence[str]) -> list[str]:
    """Members of one kind with different options are told apart by a number."""
    return [name if names.count(name) == 1 else f"{name} {names[:i].count(name) + 1}" for i, name in enumerate(names)]


def _load(judge: Judge | str, options: Any) -> Judge:
    if not isinstance(judge, str):
        return judge
    from safety_reminder.evaluation.judges import load_judge

    return load_judge(judge, **(options[judge] or {}) if isinstance(options, Mapping) else {})
