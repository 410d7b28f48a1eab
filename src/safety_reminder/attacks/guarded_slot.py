"""Tokens that are searched for behind a guard: beside the target's loss, what the probe reads at every check.

After the target stands the model's own continuation of it, which is written anew for each suffix that candidates are
made from; its candidates are compared on that one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safety_reminder.attacks.adaptive import GuardTerm
from safety_reminder.models.branches import Row, Scored, score_rows, write_rows
from safety_reminder.models.candidates import Base, Combine, Filter, Slot


class GuardedSlot(Slot):
    """As :class:`~safety_reminder.models.candidates.Slot`, with the guard's part in every loss.

    Args:
        term: the guard's part.
    """

    def __init__(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        start: int,
        length: int,
        target: Sequence[int],
        *,
        batch: int,
        term: GuardTerm,
    ) -> None:
        super().__init__(model, inputs, start, length, target, batch=batch)
        self.term = term
        self.after = self.following[: len(self.following) + 1 - len(self.target)]
        self._written: list[int] = []

    def gradient(self, ids: Sequence[int], combine: Combine) -> tuple[float, Float[Tensor, "length hidden_size"], Base]:
        loss, gradient, base = super().gradient(ids, combine)
        self.write(ids)
        row = torch.tensor([list(ids)], device=self.device)
        inside = self.model.get_input_embeddings()(row).detach().requires_grad_()
        with torch.enable_grad():
            added = self._weighed(self._scored([ids], inside))[0]
            if added.requires_grad:  # else no check was due
                (of_guard,) = torch.autograd.grad(added, inside)
                gradient = gradient + of_guard[0].float()
        return loss + added.item(), gradient, base

    @torch.no_grad()
    def losses(
        self, candidates: Int[Tensor, "candidates length"], base: Base, combine: Combine, chosen: Filter | None = None
    ) -> Float[Tensor, " candidates"]:
        losses = super().losses(candidates, base, combine, chosen)
        kept = losses.isfinite().nonzero()[:, 0].tolist()
        while kept:
            rows = kept[: self.batch]
            try:
                losses[rows] += self._weighed(self._scored(candidates[rows].tolist())).float().cpu()
            except RuntimeError as error:
                self.give_way(error, len(rows))
                continue
            kept = kept[len(rows) :]
        return losses

    @torch.no_grad()
    def added(self, ids: Sequence[int]) -> float:
        """The guard's part of the loss with ``ids`` in the slot, on their own continuation."""
        self.write(ids)
        return float(self._weighed(self._scored([ids]))[0])

    def write(self, ids: Sequence[int]) -> None:
        """The model's own continuation of the target, with ``ids`` in the slot."""
        self._written = []
        if missing := self.term.missing(self.target):
            [tokens] = write_rows(self.model, self.before, [[*ids, *self.after, *self.target]], missing)
            self._written = self.term.up_to_end(tokens)

    def _scored(self, suffixes: Sequence[Sequence[int]], leading: Tensor | None = None) -> list[Scored]:
        following = self.term.continuing(self.target, self._written)
        at = self.length + len(self.after)
        branches = [(at + place, script) for place, script in following.branches]
        rows = [Row([*ids, *self.after, *following.tokens], branches=branches) for ids in suffixes]
        return score_rows(self.model, self.before, rows, self.term.vectors, leading)

    def _weighed(self, scored: Sequence[Scored]) -> Float[Tensor, " rows"]:
        added = []
        for row in scored:
            term = self.term.of(row, self.target)
            parts = [part for part in (term.hinge, term.after) if part is not None]
            added.append(torch.stack(parts).sum() if parts else torch.zeros((), device=self.device))
        return self.term.config.weight * torch.stack(added)
