"""Candidates for some tokens of a conversation, scored by how well the model would then predict an answer.

What stands before those tokens, images included, is run once. What a candidate shares with the tokens that it was made
from is not run again either: its pass begins at the first token that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from safety_reminder.models.branches import Shared
from safety_reminder.models.context import embedding_replaced
from safety_reminder.models.embedding import embedding_weight, token_vectors

# What torch and its backends say when memory does not suffice.
_NO_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")

# What a pass costs besides its entries, in entries: measured on SmolLM2-135M on a CPU; an accelerator that is not full
# takes as long for thousands as for one.
OVERHEAD = {"cpu": 30.0, "accelerator": 4096.0}

# Losses of tokens, (rows, tokens) → one of each row, (rows,).
Combine = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Base:
    """Tokens that candidates are made from, and what was read up to their end."""

    ids: tuple[int, ...]
    shared: Shared


@dataclass(frozen=True)
class Filter:
    """Candidates are first scored on the target's first ``tokens``; the best ``keep`` of them, a share, on all."""

    tokens: int
    keep: float


class Slot:
    """Some tokens of one conversation that are searched for; ``before``, what precedes them, ``after``, what follows
    them up to the answer, and the answer's ``target`` are fixed.

    Args:
        model: a transformers model.
        inputs: the conversation with any tokens in the slot, of one row, as :meth:`VLM.encode` gives it.
        start: the column of the slot's first token; images must come before it.
        length: of the slot.
        target: token ids of the answer.
        batch: candidates in one pass; halved for good when memory does not suffice.

    Raises:
        ModelError: the model keeps more than keys and values.
    """

    def __init__(
        self, model: Any, inputs: Mapping[str, Any], start: int, length: int, target: Sequence[int], *, batch: int
    ) -> None:
        ids = inputs["input_ids"][0].tolist()
        self.model, self.start, self.length, self.batch = model, start, length, batch
        self.target = list(target)
        self.device = inputs["input_ids"].device
        # What is fed after the slot: the last token of the target predicts nothing that counts.
        self.following = [*ids[start + length :], *self.target[:-1]]
        with torch.no_grad():
            self.before = first_entries(Shared.read(model, inputs), start)

    def gradient(self, ids: Sequence[int], combine: Combine) -> tuple[float, Float[Tensor, "length hidden_size"], Base]:
        """The loss with ``ids`` in the slot, its gradient with respect to their embeddings, and what was read."""
        row = torch.tensor([[*ids, *self.following]], device=self.device)
        inside = self.model.get_input_embeddings()(row[:, : self.length]).detach().clone().requires_grad_()
        with (
            torch.enable_grad(),
            embedding_replaced(self.model, lambda embedded: torch.cat([inside, embedded[:, self.length :]], 1)),
        ):
            cache, logits = self._run(self.before, row, len(self.target))
            loss = combine(token_losses(logits, self.target))[0]
            (gradient,) = torch.autograd.grad(loss, inside)
        return loss.item(), gradient[0].float(), Base(tuple(ids), self._read(cache))

    @torch.no_grad()
    def losses(
        self, candidates: Int[Tensor, "candidates length"], base: Base, combine: Combine, chosen: Filter | None = None
    ) -> Float[Tensor, " candidates"]:
        """The loss of each candidate, float32 on the CPU; infinite where ``chosen`` left it out.

        Args:
            base: what they were made from.
        """
        changed = candidates != torch.tensor(base.ids)
        first = torch.where(changed.any(1), changed.int().argmax(1), self.length)
        # Alike ones side by side: a pass begins at the first change among its candidates.
        order = first.argsort(stable=True, descending=True).tolist()
        widths = [self.length - int(first[row]) + len(self.following) for row in order]
        overhead = OVERHEAD["cpu" if self.device.type == "cpu" else "accelerator"]
        losses = torch.full((len(candidates),), torch.inf)
        done = 0
        while done < len(order):
            rows = order[done : done + passes(widths[done:], self.batch, overhead)[0]]
            try:
                losses[rows] = self._pass(candidates[rows], int(first[rows[-1]]), base, combine, chosen)
            except RuntimeError as error:
                self.give_way(error, len(rows))
                continue
            done += len(rows)
        return losses

    def give_way(self, error: RuntimeError, rows: int) -> None:
        """Halve the batch, where memory did not suffice for so many rows; raise any other error."""
        if rows == 1 or not any(sign in str(error) for sign in _NO_MEMORY):
            raise error
        self.batch = (rows + 1) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _pass(self, candidates: Tensor, first: int, base: Base, combine: Combine, chosen: Filter | None) -> Tensor:
        """Of candidates that do not differ from ``base`` before the slot's token number ``first``."""
        count, total = len(candidates), len(self.target)
        scored = total if chosen is None else min(chosen.tokens, total)
        fixed = torch.tensor(self.following[: len(self.following) + scored - total]).expand(count, -1)
        ids = torch.cat([candidates[:, first:], fixed], 1).to(self.device)
        cache, logits = self._run(first_entries(base.shared, self.start + first), ids, scored)
        each = token_losses(logits, self.target[:scored])
        losses = combine(each).float().cpu()
        if scored == total:
            return losses
        assert chosen is not None
        kept = losses.argsort(stable=True)[: max(1, round(chosen.keep * count))]
        cache.batch_select_indices(kept.to(self.device))
        rest = torch.tensor(self.target[scored - 1 : -1], device=self.device).expand(len(kept), -1)
        position = self.before.position + self.length + len(self.following) + scored - total
        logits = self._continue(cache, position, rest, total - scored)
        each = torch.cat([each[kept.to(self.device)], token_losses(logits, self.target[scored:])], 1)
        out = torch.full((count,), torch.inf)
        out[kept] = combine(each).float().cpu()
        return out

    def _run(self, shared: Shared, ids: Tensor, scored: int) -> tuple[DynamicCache, Tensor]:
        cache = shared.expand(len(ids))
        return cache, self._continue(cache, shared.position, ids, scored)

    def _continue(self, cache: DynamicCache, position: Tensor, ids: Tensor, scored: int) -> Tensor:
        """Logits at the last ``scored`` of ``ids``, (rows, scored, vocabulary)."""
        steps = torch.arange(1, ids.shape[1] + 1, device=position.device)
        positions = (position + steps).expand(*position.shape[:-2], len(ids), -1)
        outputs = self.model(
            input_ids=ids,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
            logits_to_keep=scored,
        )
        return outputs.logits[:, -scored:]

    def _read(self, cache: DynamicCache) -> Shared:
        layers: Any = cache.layers
        read = Shared(
            tuple(layer.keys.detach() for layer in layers),
            tuple(layer.values.detach() for layer in layers),
            self.before.position + self.length + len(self.following),
        )
        return first_entries(read, self.start + self.length)


def passes(widths: Sequence[int], batch: int, overhead: float) -> list[int]:
    """How many rows each pass takes, from the first on, so that all passes together cost least.

    Args:
        widths: of each row, the entries that it must be run for, in rising order; a pass runs as many for each of its
            rows as for the last one.
        batch: rows of a pass at most.
        overhead: what a pass costs besides, in entries.
    """
    # From the end: the least cost of all rows from here on, and the rows of the first pass among them.
    best = [0.0] * (len(widths) + 1)
    taken = [0] * len(widths)
    for at in reversed(range(len(widths))):
        ends = range(at + 1, min(at + batch, len(widths)) + 1)
        best[at], taken[at] = min((overhead + (end - at) * widths[end - 1] + best[end], end - at) for end in ends)
    out, at = [], 0
    while at < len(widths):
        out.append(taken[at])
        at += taken[at]
    return out


def first_entries(shared: Shared, count: int) -> Shared:
    """The first ``count`` entries; what is left out must be text, which advances positions one by one."""
    return Shared(
        tuple(keys[:, :, :count] for keys in shared.keys),
        tuple(values[:, :, :count] for values in shared.values),
        shared.position - (shared.length - count),
    )


def token_losses(
    logits: Float[Tensor, "rows tokens vocabulary"], target: Sequence[int]
) -> Float[Tensor, "rows tokens"]:
    """Cross-entropy of each token, in nats, float32."""
    logits = logits.float()
    index = torch.tensor(target, device=logits.device).expand(len(logits), -1)[..., None]
    return logits.logsumexp(-1) - logits.gather(-1, index)[..., 0]


def embedding_table(model: Any) -> Float[Tensor, "vocabulary hidden_size"]:
    """What the model embeds each token as: its table, scaled where the family scales it."""
    weight = embedding_weight(model).detach()
    probe = token_vectors(model, range(2)).to(weight.device)
    if torch.allclose(probe, weight[:2].float()):
        return weight
    with torch.no_grad():
        return model.get_input_embeddings()(torch.arange(len(weight), device=weight.device))
