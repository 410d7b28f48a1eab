"""Several judges, and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safety_reminder.errors import ConfigError
from safety_reminder.evaluation.judges.agreement import cohen_kappa
from safety_reminder.evaluation.judges.base import Item, Judge, Judgement, unreadable
from safety_reminder.evaluation.metrics import Metric


class Panel:
    """The majority of several judges of harm.

    Args:
        judges: at least two: judges, names, or names with options. Two of the same kind need different options.

    Those whose verdict cannot be read abstain. A tie leaves ``unsafe`` open. The score is the share that said unsafe,
    the label says how many of how many.
    """

    def __init__(self, judges: Sequence[Judge | str] | Mapping[str, Mapping[str, Any]]) -> None:
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
        return [majority(votes) for votes in zip(*verdicts, strict=True)]


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


def agreement_matrix(verdicts: Mapping[str, Sequence[Judgement]]) -> dict[str, dict[str, Metric | None]]:
    """Cohen's kappa of every two judges, ``matrix[a][b] == matrix[b][a]``; a judge with itself is left out.

    Args:
        verdicts: by judge, of the same items in the same order. Unreadable ones do not count.

    Raises:
        ConfigError: two judges have different numbers of verdicts, or none in common.
    """
    labels = {name: [judgement.unsafe for judgement in found] for name, found in verdicts.items()}
    matrix: dict[str, dict[str, Metric | None]] = {name: {} for name in labels}
    names = list(labels)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            matrix[a][b] = matrix[b][a] = cohen_kappa(labels[a], labels[b])
    return matrix


def _load(judge: Judge | str, options: Any) -> Judge:
    if not isinstance(judge, str):
        return judge
    from safety_reminder.evaluation.judges import load_judge

    return load_judge(judge, **(options[judge] or {}) if isinstance(options, Mapping) else {})
