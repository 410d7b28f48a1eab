"""Rows of a batch that move in lockstep over one context."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safety_reminder.guard.answer import Answer, Finished
from safety_reminder.models.context import Context


@dataclass
class Lane:
    """Rows with one history of checks and interventions, so that they have equally many entries in the cache.

    Shapes: ``ids`` (rows, prompt + answer), left padded, without reminders, for logits processors and stopping
    criteria; ``logits`` (rows, vocabulary) float32 for the next token, and ``reminded``, during a check, what they are
    with the reminder left in; ``pending`` (rows,), chosen tokens that the model has not read yet.
    """

    rows: list[Answer]
    context: Context
    ids: Int[Tensor, "rows tokens"]
    logits: Float[Tensor, "rows vocabulary"]
    prompt_length: int
    pending: Int[Tensor, " rows"] | None = None
    reminded: Float[Tensor, "rows vocabulary"] | None = None
    whole: bool = True  # no row has left through an intervention: draws stay in step with the unguarded batch

    @property
    def answered(self) -> int:
        """Answer tokens so far, the pending one included."""
        return self.ids.shape[1] - self.prompt_length

    def extend(self, tokens: Int[Tensor, " rows"]) -> None:
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        self.pending = tokens

    def follow_answers(self) -> None:
        """Remove the tokens from ``ids`` that the rows' answers have taken back; the context looks after the cache."""
        count = self.answered - self.rows[0].written
        if count:
            self.ids = self.ids[:, :-count]
            self.pending = None

    def select(self, keep: Sequence[int]) -> Lane:
        """The rows ``keep`` as a lane of their own; this one must not be used again unless ``keep`` is all of it."""
        if len(keep) == len(self.rows):
            return self
        index = torch.tensor(keep, device=self.ids.device)
        return replace(
            self,
            rows=[self.rows[i] for i in keep],
            context=self.context.select(keep),
            ids=self.ids[index],
            logits=self.logits[index],
            pending=None if self.pending is None else self.pending[index],
            reminded=None if self.reminded is None else self.reminded[index],
        )

    def split(self, key: Callable[[Answer], Hashable]) -> list[Lane]:
        """Lanes of rows with equal keys, in the order in which these first occur. Rows that have finished leave."""
        groups: dict[Hashable, list[int]] = {}
        for i, row in enumerate(self.rows):
            if not isinstance(row.todo, Finished):
                groups.setdefault(key(row), []).append(i)
        return [self.select(rows) for rows in groups.values()]
