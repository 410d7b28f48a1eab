"""Rows that begin alike, scored together: what they share is run once, with its gradient, and each row may branch.

A row is a run of tokens after the shared beginning, its *trunk*. A *branch* is a script that follows the first so many
tokens of the trunk, such as the reminder at a check: it sees those and itself, and nothing sees it. All branches of a
row are entries of the same pass, told apart by the attention mask. So the probe at every check costs a few positions
each, and one forward pass in all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, DynamicLayer, PreTrainedModel

from safety_reminder.errors import ModelError
from safety_reminder.models import caches
from safety_reminder.models.context import STAND_IN, embedding_replaced, final_hidden_states, first_pass, scattered
from safety_reminder.models.scoring import Script, width

Branch = tuple[int, Script]  # after so many tokens of the trunk, this follows


@dataclass(frozen=True)
class Shared:
    """Tokens that several rows begin with, images among them, in keys and values.

    Shapes: ``keys`` and ``values``, one of each a layer, (1, heads, tokens, head size); ``position`` (..., 1, 1), of
    the last entry. They carry the gradient of what they were computed from.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    position: Int[Tensor, "*axes 1 1"]

    @classmethod
    def read(cls, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Shared:
        """Run the beginning of one conversation.

        Args:
            inputs: of one row, without padding, as :meth:`VLM.encode` gives them; ``pixel_values`` may require a
                gradient. Under ``torch.no_grad()`` none is kept.

        Raises:
            ModelError: the model keeps more than keys and values.
        """
        caches.require_keys_and_values(model, from_within=True)
        # A cache without the model's configuration keeps everything, also where attention only looks back so far.
        cache = DynamicCache()
        prepared = first_pass(model, inputs, cache)
        run: Any = model
        run(**prepared, return_dict=True)
        layers: Any = cache.layers
        position = prepared.get("position_ids")
        if position is None:
            position = torch.full((1, 1), inputs["input_ids"].shape[1] - 1, device=inputs["input_ids"].device)
        return cls(
            tuple(layer.keys for layer in layers), tuple(layer.values for layer in layers), position[..., -1:].long()
        )

    @property
    def length(self) -> int:
        """Entries that are shared."""
        return self.keys[0].shape[-2]

    def expand(self, rows: int) -> DynamicCache:
        """A cache in which every one of ``rows`` begins with these entries, without copying them."""
        cache = DynamicCache()
        for keys, values in zip(self.keys, self.values, strict=True):
            layer = DynamicLayer()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)
            cache.layers.append(layer)
        return cache

    def detach(self) -> Shared:
        """The same without gradient."""
        return Shared(
            tuple(keys.detach() for keys in self.keys), tuple(values.detach() for values in self.values), self.position
        )


@dataclass(frozen=True)
class Row:
    """What follows the shared beginning in one row.

    Args:
        tokens: the trunk; not empty.
        scored: the tokens, from the first number up to the second, whose predictions are wanted; the first token of a
            trunk has none.
        branches: may follow any token of the trunk, so from 1 to all of them.
    """

    tokens: Sequence[int]
    scored: tuple[int, int] = (1, 1)
    branches: Sequence[Branch] = ()


@dataclass(frozen=True)
class Scored:
    """What the model makes of one row.

    ``logits``: (scored, vocabulary), what it predicts in the place of the scored tokens. ``branches``: of each
    branch, logits of its runs of tokens, a list of (tokens, vocabulary); and ``hidden``: of each branch, (reminders,
    hidden_size), final hidden states at the last vector of each reminder, where the probe reads.
    """

    logits: Float[Tensor, "scored vocabulary"]
    branches: list[list[Tensor]]
    hidden: list[Tensor]


def score_rows(
    model: PreTrainedModel,
    shared: Shared,
    rows: Sequence[Row],
    vectors: Float[Tensor, "k hidden_size"],
    leading: Float[Tensor, "rows leading hidden_size"] | None = None,
) -> list[Scored]:
    """All rows and their branches in one forward pass. The gradient reaches ``shared``, ``vectors`` and ``leading``.

    Args:
        leading: embeddings in place of those of each trunk's first tokens.

    Raises:
        ModelError: a kind of attention whose mask is not known here.
    """
    run: Any = model
    plans = [_Plan.of(row, vectors.shape[0]) for row in rows]
    longest = max(plan.entries for plan in plans)
    wanted = sorted({at for plan in plans for at in plan.wanted})
    device = shared.position.device
    place = torch.tensor([plan.places + [0] * (longest - plan.entries) for plan in plans], device=device)
    ids = torch.tensor([plan.ids + [STAND_IN] * (longest - plan.entries) for plan in plans], device=device)
    starts = [(row, begin) for row, plan in enumerate(plans) for begin in plan.reminders]
    placed = scattered(vectors, starts)

    def embedded(tokens: Tensor) -> Tensor:
        if leading is not None:
            tokens = torch.cat([leading.to(tokens), tokens[:, leading.shape[1] :]], dim=1)
        return placed(tokens)

    with embedding_replaced(model, embedded), final_hidden_states(model) as states:
        outputs = run(
            input_ids=ids,
            attention_mask=_mask(run, shared.length, plans, place),
            position_ids=shared.position + 1 + place,
            past_key_values=shared.expand(len(rows)),
            use_cache=True,
            return_dict=True,
            logits_to_keep=torch.tensor(wanted, device=device),
        )
    column = {at: n for n, at in enumerate(wanted)}
    # Row by row: the gradient of a slice is as large as what it was cut from.
    per_row = zip(plans, outputs.logits.unbind(), states[-1].unbind(), strict=True)
    return [plan.scored(logits, hidden, column) for plan, logits, hidden in per_row]


@torch.no_grad()
def write_rows(model: PreTrainedModel, shared: Shared, rows: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """``count`` greedy tokens after each row, which follows the shared beginning and has a token at least; what comes
    after an end-of-sequence token is no answer any more."""
    run: Any = model
    if len({len(row) for row in rows}) > 1 and _slides(model):
        # A window would count what pads a row.
        return [write_rows(model, shared, [row], count)[0] for row in rows]
    longest = max(map(len, rows))
    # Padded on the left, between the shared beginning and the row, where the mask hides it.
    padding = torch.tensor([longest - len(row) for row in rows], device=shared.position.device)[:, None]
    ids = torch.tensor([[STAND_IN] * (longest - len(row)) + list(row) for row in rows], device=padding.device)
    column = torch.arange(longest + count, device=padding.device)
    mask = torch.cat([column.new_ones(len(rows), shared.length), (column >= padding).long()], dim=1)
    place = (column - padding).clamp(min=0)
    cache, written, seen = shared.expand(len(rows)), [], 0
    for _ in range(count):
        until = seen + ids.shape[1]
        outputs = run(
            input_ids=ids,
            attention_mask=mask[:, : shared.length + until] if int(padding.max()) else None,
            position_ids=shared.position + 1 + place[:, seen:until],
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
            logits_to_keep=1,
        )
        ids, seen = outputs.logits[:, -1:].argmax(-1), until
        written.append(ids)
    return torch.cat(written, dim=1).tolist()


@dataclass(frozen=True)
class _Plan:
    """Where everything of one row stands among its entries: trunk, then one branch after the other.

    ``ids`` and ``places`` (entries): tokens, with a stand-in for vectors, and how far each is from the shared
    beginning. ``owner``: 0 for the trunk, else the number of the branch, from 1. ``cut``: of each branch, the tokens of
    the trunk that it sees. ``reminders``: columns at which vectors begin. ``predictors``: the columns that predict the
    scored tokens of the trunk; ``runs``: those that predict each branch's runs of tokens. ``ends``: of each branch, the
    columns that the probe reads.
    """

    ids: list[int]
    places: list[int]
    owner: list[int]
    cut: list[int]
    reminders: list[int]
    predictors: list[int]
    runs: list[list[list[int]]]
    ends: list[list[int]]

    @classmethod
    def of(cls, row: Row, k: int) -> _Plan:
        trunk = len(row.tokens)
        first, last = row.scored
        if not 1 <= first <= last <= trunk:
            raise ValueError(f"a row of {trunk} tokens has predictions of those from 1 to {trunk}, got {row.scored}")
        predictors = [*range(first - 1, last - 1)]
        plan = cls([*row.tokens], [*range(trunk)], [0] * trunk, [], [], predictors, [], [])
        for number, (after, script) in enumerate(row.branches, 1):
            if not 1 <= after <= trunk:
                raise ValueError(f"a branch must follow a token of the trunk, 1 to {trunk}; got {after}")
            plan._add_branch(number, after, script, k)
        return plan

    def _add_branch(self, number: int, after: int, script: Script, k: int) -> None:
        self.cut.append(after)
        runs, ends, previous = [], [], after - 1
        for part in script:
            begin, length = len(self.ids), k if part is None else len(part)
            if part is None:
                self.reminders.append(begin)
                ends.append(begin + k - 1)
            else:
                runs.append([previous, *range(begin, begin + length - 1)])
            self.ids.extend([STAND_IN] * k if part is None else part)
            previous = begin + length - 1
        total = width(script, k)
        self.places.extend(range(after, after + total))
        self.owner.extend([number] * total)
        self.runs.append(runs)
        self.ends.append(ends)

    @property
    def entries(self) -> int:
        return len(self.ids)

    @property
    def wanted(self) -> list[int]:
        """Columns whose final hidden states are looked at."""
        in_runs = [column for runs in self.runs for run in runs for column in run]
        # The last entry, so that there is always one.
        return [*self.predictors, *in_runs, *(end for ends in self.ends for end in ends), len(self.ids) - 1]

    def scored(self, logits: Tensor, hidden: Tensor, column: Mapping[int, int]) -> Scored:
        def at(columns: Sequence[int]) -> list[int]:
            return [column[c] for c in columns]

        return Scored(
            logits[at(self.predictors)],
            [[logits[at(run)] for run in runs] for runs in self.runs],
            [hidden[at(ends)] for ends in self.ends],
        )


def _mask(model: Any, shared: int, plans: Sequence[_Plan], place: Int[Tensor, "rows entries"]) -> Any:
    """The attention mask, in the form that the model takes: None where every row is its trunk alone."""
    if not any(plan.cut for plan in plans):
        return None  # what pads a short row comes after its end, where nothing looks
    rows, longest = place.shape
    device = place.device
    owner = torch.tensor([plan.owner + [-1] * (longest - plan.entries) for plan in plans], device=device)
    # How far into the trunk each entry sees: a trunk's token up to itself, a branch's as far as it follows it.
    cuts = [[*range(1, plan.owner.count(0) + 1), *(plan.cut[n - 1] for n in plan.owner if n)] for plan in plans]
    sees = torch.tensor([cut + [0] * (longest - len(cut)) for cut in cuts], device=device)
    column = torch.arange(longest, device=device)
    of_trunk = (owner == 0)[:, None] & (column < sees[..., None])
    of_itself = (owner[:, :, None] == owner[:, None]) & (column <= column[:, None])
    own = of_trunk | (of_itself & (owner != 0)[:, :, None])
    allowed = torch.cat([own.new_ones(rows, longest, shared), own], dim=2)
    query = shared + place
    key = torch.cat([torch.arange(shared, device=device).expand(rows, -1), query], dim=1)
    return _as_taken(model, allowed, query[:, :, None] - key[:, None])


def _slides(model: Any) -> bool:
    return "sliding_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ())


def _as_taken(
    model: Any, allowed: Bool[Tensor, "rows entries keys"], distance: Int[Tensor, "rows entries keys"]
) -> Tensor | dict[str, Tensor]:
    """Additive masks, (rows, 1, entries, keys), one for each kind of layer where a model has several."""
    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise ModelError(f"{type(model).__name__} has layers of {', '.join(sorted(unknown))}, which cannot branch")

    def additive(seen: Tensor) -> Tensor:
        hidden = torch.finfo(model.dtype).min
        return torch.zeros(seen.shape, dtype=model.dtype, device=seen.device).masked_fill(~seen, hidden)[:, None]

    if kinds == {"full_attention"}:
        return additive(allowed)
    masks = {"full_attention": additive(allowed)}
    return masks | {"sliding_attention": additive(allowed & (distance < text.sliding_window))}
