"""One model and one goal of a search for a suffix, and all of them together: gradients and losses, summed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safety_reminder.attacks.adaptive import GuardTerm, guard_of
from safety_reminder.attacks.gcg_options import GCGConfig
from safety_reminder.attacks.goals import Goal
from safety_reminder.attacks.guarded_slot import GuardedSlot
from safety_reminder.attacks.prompts import no_vectors
from safety_reminder.attacks.suffix import place
from safety_reminder.errors import ConfigError, ModelError
from safety_reminder.guard.decoding import Guard
from safety_reminder.models import VLM
from safety_reminder.models.candidates import Base, Combine, Filter, Slot, embedding_table, token_losses
from safety_reminder.models.scoring import score


class Party:
    """One goal for one model.

    Raises:
        ConfigError: an empty target; more tokens than the model reads; an ``init`` that the tokenizer does not keep.
    """

    def __init__(self, vlm: VLM, goal: Goal, config: GCGConfig, batch: int, guard: Guard | None = None) -> None:
        self.vlm, self.goal, self.batch = vlm, goal, batch
        self.term = None
        if config.adaptive.knows_guard:
            found = guard_of(guard, config.adaptive)
            self.term = GuardTerm(vlm, found, config.adaptive, first_weight=config.first_token)
        [self.target] = vlm.answer_ids([goal.target])
        if not self.target:
            raise ConfigError(f"the target of goal {goal.example.id!r} is empty")
        if config.init:
            self.place, self.first_ids = place(vlm, goal.example, config.init, config.separator)
        else:
            self.place, self.first_ids = self._of_length(config)
        self.inputs = self.place.sent(self.first_ids)
        if self.inputs is None:
            raise ModelError(f"{vlm.name} does not keep the suffix as it is")
        whole = self.inputs["input_ids"].shape[1] + len(self.target)
        most = getattr(vlm.model.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and whole > most:
            raise ConfigError(
                f"goal {goal.example.id!r} needs {whole} tokens with its target, and {vlm.name} reads {most}"
            )

    def _of_length(self, config: GCGConfig) -> tuple:
        for text in (" ".join("x" * config.length), "x" * config.length):
            found, ids = place(self.vlm, self.goal.example, text, config.separator)
            if len(ids) == config.length:
                return found, ids
        raise ConfigError(f"no row of x has {config.length} tokens for {self.vlm.name}; give a text as attack.init")

    @cached_property
    def slot(self) -> Slot:
        """Read when it is first needed: a goal may never join."""
        assert self.inputs is not None
        start = self.inputs["input_ids"].shape[1] - len(self.place.after) - len(self.first_ids)
        place = self.vlm.model, self.inputs, start, len(self.first_ids), self.target
        if self.term is not None:
            return GuardedSlot(*place, batch=self.batch, term=self.term)
        return Slot(*place, batch=self.batch)

    def added(self, ids: Sequence[int]) -> float:
        """The guard's part of the loss, where the guard is attacked."""
        return self.slot.added(ids) if isinstance(self.slot, GuardedSlot) else 0.0

    def rescored(self, ids: Sequence[int]) -> Float[Tensor, " target"]:
        """Losses of the target's tokens by one plain forward pass over the conversation as it is sent."""
        inputs = self.place.sent(ids)
        if inputs is None:
            raise ModelError(f"{self.vlm.name} does not keep the suffix as it is")
        with torch.no_grad():
            [read] = score(self.vlm.model, inputs, [[self.target]], no_vectors(self.vlm))
        return token_losses(read.logits[0][None], self.target)[0].cpu()


@dataclass(frozen=True)
class Read:
    """At some suffix: the loss, its gradient with respect to one-hot tokens, and what each party read."""

    loss: float
    gradient: Float[Tensor, "length vocabulary"]
    bases: tuple[Base, ...]


class Readers:
    """All parties: of each goal, one for each of ``models``.

    Args:
        combine: losses of a target's tokens → one.
    """

    def __init__(self, parties: Sequence[Party], models: int, combine: Combine) -> None:
        self.parties, self.models, self.combine = parties, models, combine
        self._tables: dict[int, Tensor] = {}
        self._last: tuple[Any, Read] | None = None

    def active(self, goals: int) -> Sequence[Party]:
        return self.parties[: goals * self.models]

    def gradients(self, ids: Sequence[int], goals: int) -> Read:
        """Of the first ``goals``. Where there are several parties, each one's gradient counts alike. A suffix that was
        not improved is read once."""
        asked = (tuple(ids), goals)
        if self._last is None or self._last[0] != asked:
            self._last = asked, self._gradients(ids, goals)
        return self._last[1]

    def _gradients(self, ids: Sequence[int], goals: int) -> Read:
        active = self.active(goals)
        total, loss, bases = None, 0.0, []
        by_model: dict[int, Tensor] = {}
        for party in active:
            value, gradient, base = party.slot.gradient(ids, self.combine)
            loss += value / len(active)
            bases.append(base)
            share = gradient / gradient.norm().clamp(min=1e-12) if len(active) > 1 else gradient
            key = id(party.vlm)
            by_model[key] = by_model[key] + share if key in by_model else share
        for party in active[: self.models]:
            table = self._table(party.vlm)
            of_tokens = (by_model[id(party.vlm)].to(table.dtype) @ table.T).float().cpu()
            total = of_tokens if total is None else total + of_tokens
        assert total is not None
        return Read(loss, total, tuple(bases))

    def losses(
        self, candidates: Int[Tensor, "candidates length"], read: Read, chosen: Filter | None = None
    ) -> Float[Tensor, " candidates"]:
        """Mean over the parties that ``read`` is of."""
        losses = torch.zeros(len(candidates))
        left = torch.arange(len(candidates))
        for party, base in zip(self.parties, read.bases, strict=False):
            losses[left] += party.slot.losses(candidates[left], base, self.combine, chosen) / len(read.bases)
            # What one party left out need not be shown to the next.
            left = left[losses[left].isfinite()]
        return losses

    def surviving(self, suffixes: list[list[int]]) -> list[list[int]]:
        """Those that are tokenised into themselves again, in every prompt."""
        for party in self.parties[:: self.models]:
            suffixes = [s for s, good in zip(suffixes, party.place.survive(suffixes), strict=True) if good]
        return suffixes

    def sent(self, ids: Sequence[int]) -> bool:
        """Whether every prompt holds the suffix token for token, template and processor included."""
        return all(party.place.sent(ids) is not None for party in self.parties)

    def _table(self, vlm: VLM) -> Tensor:
        if id(vlm) not in self._tables:
            self._tables[id(vlm)] = embedding_table(vlm.model)[: len(vlm.tokenizer)]
        return self._tables[id(vlm)]


def require_one_tokenizer(vlms: Sequence[VLM]) -> None:
    """Raises:
    ConfigError: a model with another vocabulary than the first.
    """
    vocabulary = vlms[0].tokenizer.get_vocab()
    for vlm in vlms[1:]:
        if vlm.tokenizer.get_vocab() != vocabulary:
            raise ConfigError(f"{vlm.name} has another tokenizer than {vlms[0].name}; a suffix is searched in one")
