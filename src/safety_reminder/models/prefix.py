"""A frozen prefix, run once and reused: prompt and answer as decoding would have cached them.

Training stands on this: what it optimises is what inference runs. The reminder comes after a prefix that has no
gradient, so the prefix is run once, and every cut of the answer is a slice of its keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from transformers import Cache, DynamicCache, DynamicLayer, PreTrainedModel

from safety_reminder.models import caches
from safety_reminder.models.context import Runner, prepare
from safety_reminder.models.positions import next_positions


@dataclass(frozen=True)
class Prefix:
    """One prompt and its answer, in keys and values.

    Shapes: ``keys`` and ``values``, one of each for layers of one shape (most models have no others), (layers, heads,
    prompt + answer, head size), without gradient; ``position`` (..., 1, 1), of the prompt's last entry. ``tokens``: the
    prompt's last token and the answer's. ``prompt_length``: entries before the answer.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    position: torch.Tensor
    tokens: tuple[int, ...]
    prompt_length: int

    @classmethod
    @torch.no_grad()
    def read(cls, model: PreTrainedModel, inputs: Mapping[str, Any], answer: Sequence[int]) -> Prefix:
        """Run the prompt of one conversation, as :meth:`VLM.encode` gives it, and after it the tokens ``answer``.

        Raises:
            ModelError: the model keeps more than keys and values (a recurrent state cannot be sliced).
        """
        caches.require_keys_and_values(model)
        input_ids, kwargs = prepare(model, inputs)
        # A cache without the model's configuration keeps everything, also where attention only looks back so far:
        # a cut near the beginning needs what a later one has forgotten.
        kwargs["past_key_values"] = DynamicCache()
        runner = Runner(model)
        context, _ = runner.prefill(input_ids, kwargs, roll_back=False)
        position = context.position
        if len(answer):
            runner.append(context, torch.tensor([list(answer)], device=input_ids.device))
        layers: Any = context.cache.layers
        runs = [list(run) for _, run in groupby(layers, key=lambda layer: (layer.keys.shape, layer.values.shape))]
        return cls(
            tuple(torch.cat([layer.keys for layer in run]) for run in runs),
            tuple(torch.cat([layer.values for layer in run]) for run in runs),
            position,
            (int(input_ids[0, -1]), *answer),
            input_ids.shape[1],
        )

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def to(self, device: torch.device | str, *, pinned: bool = False) -> Prefix:
        """The same with its keys and values on another device, or in the host's pinned memory."""

        def move(tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            moved = (tensor.to(device, non_blocking=True) for tensor in tensors)
            return tuple(tensor.pin_memory() if pinned else tensor for tensor in moved)

        return replace(self, keys=move(self.keys), values=move(self.values))


def side_by_side(cuts: Sequence[tuple[Prefix, int]], room: int) -> tuple[Cache, torch.Tensor | None, torch.Tensor]:
    """Prefixes, each with so many of its answer tokens, side by side, with ``room`` for entries after them: a cache,
    the mask over all entries (None: nothing is padded), and the positions (..., cuts, room) of what is to come."""
    lengths = [prefix.prompt_length + kept for prefix, kept in cuts]
    longest = max(lengths)
    cache = Cache(layers=[*_preallocated([prefix for prefix, _ in cuts], lengths, longest, room)])
    positions = torch.cat([next_positions(prefix.position + kept, room) for prefix, kept in cuts], dim=-2)
    if min(lengths) == longest:
        return cache, None, positions
    start = torch.tensor([longest - n for n in lengths], device=positions.device)[:, None]
    return cache, (torch.arange(longest + room, device=positions.device) >= start).long(), positions


def _preallocated(
    prefixes: Sequence[Prefix], lengths: Sequence[int], longest: int, room: int
) -> list[PreallocatedLayer]:
    """Layers of a cache whose first ``longest`` entries hold the first ``lengths`` of the prefixes, padded on the left,
    and which have ``room`` for more. All layers of one shape are copied at once: on an accelerator a training step
    would otherwise wait until thousands of small copies have been asked for."""

    device = prefixes[0].position.device  # the model's, wherever keys and values are kept

    def joined(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
        layers, heads, _, size = pieces[0].shape
        out = pieces[0].new_empty(layers, len(pieces), heads, longest + room, size, device=device)
        for row, (piece, length) in enumerate(zip(pieces, lengths, strict=True)):
            start = longest - length
            out[:, row, :, :start] = 0  # nothing looks there, but what is not a number would spread
            out[:, row, :, start:longest] = piece[:, :, :length]
        return out

    joined_layers: list[PreallocatedLayer] = []
    for run in range(len(prefixes[0].keys)):
        keys = joined([prefix.keys[run] for prefix in prefixes])
        values = joined([prefix.values[run] for prefix in prefixes])
        joined_layers += [PreallocatedLayer(k, v, longest) for k, v in zip(keys, values, strict=True)]
    return joined_layers


class PreallocatedLayer(DynamicLayer):
    """A cache layer over existing tensors, (rows, heads, entries, head size) with room after the first ``filled``: a
    layer that grew would copy them all again, and copies are what a training step waits for."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, filled: int) -> None:
        super().__init__()
        self.room, self.filled = (keys, values), filled

    def get_seq_length(self) -> int:
        return self.filled

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start, self.filled = self.filled, self.filled + key_states.shape[-2]
        # As tensors of their own: autograd would take the filling of one layer for a change to the others.
        keys, values = (side[:, :, : self.filled].data for side in self.room)
        return _Fill.apply(key_states, keys, start), _Fill.apply(value_states, values, start)


class _Fill(torch.autograd.Function):
    """``room`` with ``new`` (rows, heads, m, head size), which alone has a gradient, after its first entries."""

    @staticmethod
    def forward(ctx: Any, new: torch.Tensor, room: torch.Tensor, longest: int) -> torch.Tensor:
        ctx.longest = longest
        # Under autocast the model may run in another precision than the one in which its prefixes were.
        wider = room.to(torch.promote_types(new.dtype, room.dtype))
        if wider is room:
            ctx.mark_dirty(room)
        wider[:, :, longest:] = new
        return wider

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        return grad[:, :, ctx.longest :], None, None
