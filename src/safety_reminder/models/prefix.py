"""Prompt and answer as decoding would have cached them, so that the reminder can be tried behind any of its tokens.

Training stands on this: what it optimises is what inference runs. The reminder comes after a frozen prefix, so the
prefix is run once, without gradient, and every cut of the answer is a slice of its keys and values.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from transformers import Cache, DynamicCache, DynamicLayer, PreTrainedModel

from safety_reminder.errors import ModelError
from safety_reminder.guard.lane import Row, Stepper
from safety_reminder.guard.text import Transcript
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
        """Run the prompt of one conversation, as :meth:`VLM.encode` gives it, and behind it the tokens ``answer``.

        Raises:
            ModelError: the model keeps more than keys and values (a recurrent state cannot be sliced).
        """
        input_ids, kwargs = prepare(model, inputs)
        # A cache without the model's configuration keeps everything, also where attention only looks back so far:
        # a cut near the beginning needs what a later one has forgotten.
        kwargs["past_key_values"] = DynamicCache()
        lane = Stepper(model, None, kwargs).prefill(input_ids, [Row(0, Transcript(None, 0))], kwargs)
        if len(answer):
            ids = torch.tensor([list(answer)], device=input_ids.device)
            positions = next_positions(lane.position, len(answer))
            run: Any = model
            # Only the keys and values are wanted: no logits of the answer, where the model can leave them out.
            few = {"logits_to_keep": 1} if "logits_to_keep" in kwargs else {}
            run(input_ids=ids, position_ids=positions, past_key_values=lane.cache, use_cache=True, **few)
        layers: Any = lane.cache.layers
        if any(getattr(layer, "keys", None) is None for layer in layers):
            raise ModelError(f"{type(model).__name__} keeps more than keys and values; its prefixes cannot be reused")
        runs = [list(run) for _, run in groupby(layers, key=lambda layer: (layer.keys.shape, layer.values.shape))]
        return cls(
            tuple(torch.cat([layer.keys for layer in run]) for run in runs),
            tuple(torch.cat([layer.values for layer in run]) for run in runs),
            lane.position,
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


# What stands behind a cut: token ids, or None for the reminder.
Script = Sequence[Sequence[int] | None]


def width(script: Script, k: int) -> int:
    """Entries of a script whose reminders have ``k`` vectors."""
    return sum(k if part is None else len(part) for part in script)


@dataclass(frozen=True)
class Place:
    """The first ``kept`` answer tokens of ``prefix`` (-1: the prompt less its last token), and what follows them."""

    prefix: Prefix
    kept: int
    script: Script


@dataclass(frozen=True)
class Continuation:
    """What the model makes of one place.

    ``logits``: of each run of tokens in the script, if wanted, (tokens, vocabulary), what it predicted in their stead;
    where a script begins with tokens, nothing in it predicts the first of them, and its row is missing. ``hidden``:
    (reminders, hidden_size), final hidden states at the last vector of each reminder, where the probe reads. ``last``:
    (hidden_size,), that of the last entry.
    """

    logits: list[torch.Tensor]
    hidden: torch.Tensor
    last: torch.Tensor


def follow(
    model: PreTrainedModel, places: Sequence[Place], vectors: torch.Tensor, *, logits: bool = True
) -> list[Continuation]:
    """Run what follows each place, all in one forward pass over the prefixes' keys and values.

    Args:
        vectors: (k, hidden_size), of the reminder; the gradient reaches them.
        logits: False: only hidden states are wanted.
    """
    run: Any = model
    embedding: Any = model.get_input_embeddings()
    weight, k = embedding.weight, vectors.shape[0]
    widths = [width(place.script, k) for place in places]
    widest = max(widths)
    cache, mask, positions = _laid_out([(place.prefix, place.kept) for place in places], widest)
    reminder = vectors.to(weight.device, weight.dtype)
    rows = []
    for place, used in zip(places, widths, strict=True):
        parts = [
            reminder if part is None else embedding(torch.tensor(list(part), device=weight.device))
            for part in place.script
        ]
        # What a short script is filled up with stands behind it, where nothing looks.
        rows.append(F.pad(torch.cat(parts), (0, 0, 0, widest - used)))
    can_save = not logits and "logits_to_keep" in inspect.signature(model.forward).parameters
    outputs = run(
        inputs_embeds=torch.stack(rows),
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        output_hidden_states=True,
        return_dict=True,
        **({"logits_to_keep": 1} if can_save else {}),
    )
    found = []
    # Row by row: the gradient of a slice is as large as what it was cut from.
    per_row = zip(outputs.logits.unbind(), outputs.hidden_states[-1].unbind(), places, widths, strict=True)
    for predicted, hidden, place, used in per_row:
        at, runs, ends = 0, [], []
        for part in place.script:
            length = k if part is None else len(part)
            if part is None:
                ends.append(at + length - 1)
            elif logits:
                runs.append(predicted[max(at - 1, 0) : at + length - 1])
            at += length
        found.append(Continuation(runs, hidden[ends], hidden[used - 1]))
    return found


@torch.no_grad()
def go_on(
    model: PreTrainedModel, cuts: Sequence[tuple[Prefix, int]], vectors: torch.Tensor, count: int
) -> list[list[int]]:
    """``count`` greedy tokens behind the reminder, which stands behind the first so many answer tokens of each prefix.

    The model must run in the precision in which the prefixes were.
    """
    run: Any = model
    embedding: Any = model.get_input_embeddings()
    cache, mask, positions = _laid_out(cuts, vectors.shape[0] + count - 1)
    entries = vectors.to(embedding.weight.device, embedding.weight.dtype).expand(len(cuts), -1, -1)
    written: list[torch.Tensor] = []
    for _ in range(count):
        seen, new = cache.get_seq_length(), entries.shape[1]
        here, positions = positions[..., :new], positions[..., new:]
        outputs = run(
            inputs_embeds=entries,
            attention_mask=None if mask is None else mask[:, : seen + new],
            position_ids=here,
            past_key_values=cache,
            use_cache=True,
        )
        written.append(outputs.logits[:, -1].argmax(-1))
        entries = embedding(written[-1])[:, None]
    return torch.stack(written, dim=1).tolist()


def _laid_out(cuts: Sequence[tuple[Prefix, int]], room: int) -> tuple[Cache, torch.Tensor | None, torch.Tensor]:
    """Prefixes of which so many answer tokens are kept, side by side, with ``room`` for entries behind them: a cache,
    the mask over all entries (None: nothing is padded), and the positions (..., cuts, room) of what is to come."""
    lengths = [prefix.prompt_length + kept for prefix, kept in cuts]
    longest = max(lengths)
    cache = Cache(layers=[*_borrowed([prefix for prefix, _ in cuts], lengths, longest, room)])
    positions = torch.cat([next_positions(prefix.position + kept, room) for prefix, kept in cuts], dim=-2)
    if min(lengths) == longest:
        return cache, None, positions
    start = torch.tensor([longest - n for n in lengths], device=positions.device)[:, None]
    return cache, (torch.arange(longest + room, device=positions.device) >= start).long(), positions


def _borrowed(prefixes: Sequence[Prefix], lengths: Sequence[int], longest: int, room: int) -> list[_Borrowed]:
    """Layers of a cache whose first ``longest`` entries hold the first ``lengths`` of the prefixes, padded on the left,
    and which have ``room`` for more. All layers of one shape are copied at once: on an accelerator a training step
    would otherwise wait until thousands of small copies have been asked for."""

    device = prefixes[0].position.device  # the model's, wherever keys and values are kept

    def side_by_side(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
        layers, heads, _, size = pieces[0].shape
        out = pieces[0].new_empty(layers, len(pieces), heads, longest + room, size, device=device)
        for row, (piece, length) in enumerate(zip(pieces, lengths, strict=True)):
            start = longest - length
            out[:, row, :, :start] = 0  # nothing looks there, but what is not a number would spread
            out[:, row, :, start:longest] = piece[:, :, :length]
        return out

    made: list[_Borrowed] = []
    for run in range(len(prefixes[0].keys)):
        keys = side_by_side([prefix.keys[run] for prefix in prefixes])
        values = side_by_side([prefix.values[run] for prefix in prefixes])
        made += [_Borrowed(k, v, longest) for k, v in zip(keys, values, strict=True)]
    return made


class _Borrowed(DynamicLayer):
    """A cache layer of what is there already, (rows, heads, entries, head size) with room behind the first ``filled``:
    one that grew would copy it all again, and copies are what a training step waits for."""

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
    """``room`` with ``new`` (rows, heads, m, head size), which alone has a gradient, behind its first entries."""

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


def prepare(model: Any, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
    """What ``generate`` would hand to a decoding method for ``inputs``: ids, positions, mask and image inputs."""

    def capture(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
        return input_ids, {k: v for k, v in model_kwargs.items() if k not in ("synced_gpus", "streamer")}

    return model.generate(**inputs, custom_generate=capture, max_new_tokens=1, do_sample=False)


def prompt_hidden(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """(rows, hidden_size): final hidden states at the last token of each prompt, as :meth:`VLM.encode` gives them. The
    gradient reaches what the model embeds."""
    input_ids, kwargs = prepare(model, inputs)
    prepared = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **kwargs)
    return model(**prepared, output_hidden_states=True, return_dict=True).hidden_states[-1][:, -1]
