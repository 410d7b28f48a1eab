"""The pure steps of a search over tokens: losses of sequences, swaps drawn from a gradient, swaps merged, a buffer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def sequence_loss(
    each: Float[Tensor, "rows tokens"], *, first_token: float = 0.0, mellowmax: float = 0.0
) -> Float[Tensor, " rows"]:
    """One loss of each row from those of its tokens, in nats.

    Args:
        first_token: weight of the first token's loss, which is added: once that token is written, the others follow.
        mellowmax: 0: the mean. Above: log(mean(exp(mellowmax * each))) / mellowmax, which leans towards the worst token
            (arXiv:1612.05628; for suffixes, arXiv:2407.17447).
    """
    if mellowmax:
        loss = ((mellowmax * each).logsumexp(-1) - math.log(each.shape[-1])) / mellowmax
    else:
        loss = each.mean(-1)
    return loss + first_token * each[:, 0] if first_token else loss


def allowed_tokens(
    tokenizer: Any, *, non_ascii: bool = False, banned: Sequence[str] = ()
) -> Bool[Tensor, " vocabulary"]:
    """Of each token id of ``tokenizer``, whether a suffix may hold it: no special token, and by default printable
    ASCII alone, since what others paste must survive it. ``banned``: tokens with any of these texts in them are out."""
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)

    def good(number: int, text: str) -> bool:
        if number in special or not text or any(part in text for part in banned):
            return False
        return "\ufffd" not in text if non_ascii else text.isascii() and text.isprintable()

    return torch.tensor([good(number, text) for number, text in enumerate(texts)])


def top_swaps(
    gradient: Float[Tensor, "length vocabulary"], ids: Sequence[int], allowed: Bool[Tensor, " vocabulary"], count: int
) -> Int[Tensor, "length count"]:
    """For each position the ``count`` allowed tokens, other than the one there, that promise the lowest loss to first
    order (arXiv:2307.15043, algorithm 1)."""
    promise = gradient.masked_fill(~allowed.to(gradient.device), torch.inf)
    promise[torch.arange(len(ids)), torch.tensor(ids)] = torch.inf
    return promise.topk(count, largest=False).indices.cpu()


def draw_swaps(
    ids: Sequence[int], swaps: Int[Tensor, "length k"], count: int, replaced: int, generator: torch.Generator
) -> Int[Tensor, "count length"]:
    """``count`` copies of ``ids``, each with ``replaced`` tokens at random positions swapped for random ones of
    ``swaps``."""
    length, k = swaps.shape
    out = torch.tensor(ids).repeat(count, 1)
    at = torch.rand(count, length, generator=generator).argsort(1)[:, :replaced]
    which = torch.randint(k, at.shape, generator=generator)
    return out.scatter_(1, at, swaps[at, which])


def merged_swaps(
    ids: Sequence[int], candidates: Int[Tensor, "candidates length"], losses: Float[Tensor, " candidates"], most: int
) -> list[list[int]]:
    """The best candidates' swaps in one: of the best two, the best three, ... up to ``most``, of those that changed
    other positions than the better ones (arXiv:2405.21018 merges so)."""
    merged, changed, out = list(ids), set(), []
    used = 0
    for number in losses.argsort(stable=True).tolist():
        if used == most or not math.isfinite(float(losses[number])):
            break
        row = candidates[number].tolist()
        new = {at for at, (a, b) in enumerate(zip(ids, row, strict=True)) if a != b}
        if changed & new:
            continue
        changed |= new
        used += 1
        for at in new:
            merged[at] = row[at]
        if used > 1:
            out.append(list(merged))
    return out


def rank_agreement(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float:
    """Spearman's rank correlation, from -1 to 1; 0 where one of them is constant or there is one value."""
    ranks = [x.argsort(stable=True).argsort().double() for x in (a, b)]
    centred = [r - r.mean() for r in ranks]
    scale = float(centred[0].norm() * centred[1].norm())
    return float(centred[0] @ centred[1]) / scale if scale else 0.0


@dataclass
class Entry:
    """A suffix, its loss, and how often it was tried to be improved."""

    loss: float
    ids: list[int]
    visits: int = 0


@dataclass
class Buffer:
    """The best suffixes so far, ``size`` of them; with size 0 the newest one, better or not, as the paper has it."""

    size: int
    entries: list[Entry] = field(default_factory=list)

    def add(self, loss: float, ids: Sequence[int]) -> None:
        if self.size == 0:
            self.entries = [Entry(loss, list(ids))]
            return
        if any(entry.ids == list(ids) for entry in self.entries):
            return
        self.entries = sorted([*self.entries, Entry(loss, list(ids))], key=lambda entry: entry.loss)[: self.size]

    def pick(self) -> Entry:
        """What to improve next: of those tried least often, the best."""
        entry = min(self.entries, key=lambda entry: (entry.visits, entry.loss))
        entry.visits += 1
        return entry
