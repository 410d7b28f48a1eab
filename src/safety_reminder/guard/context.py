"""Prompt and answer as decoding would have cached them, so that the reminder can be tried behind any of its tokens.

Training stands on this: what it optimises is what inference runs. The reminder comes after a frozen prefix, so the
prefix is run once, without gradient, and every cut of the answer is a slice of its keys and values.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from safety_reminder.errors import ModelError
from safety_reminder.guard.lane import Row, Stepper
from safety_reminder.guard.placement import next_positions
from safety_reminder.guard.text import Transcript


@dataclass(frozen=True)
class Prefix:
    """One prompt and its answer, in keys and values.

    Shapes: ``keys`` and ``values``, one of each per layer, (1, heads, prompt + answer, head size), without gradient;
    ``position`` (..., 1, 1), of the prompt's last entry; ``prompt_length``: entries before the answer.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    position: torch.Tensor
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
        prompt_length = input_ids.shape[1]
        if len(answer):
            ids = torch.tensor([list(answer)], device=input_ids.device)
            positions = next_positions(lane.position, len(answer))
            run: Any = model
            run(input_ids=ids, position_ids=positions, past_key_values=lane.cache, use_cache=True)
        layers: Any = lane.cache.layers
        if any(getattr(layer, "keys", None) is None for layer in layers):
            raise ModelError(f"{type(model).__name__} keeps more than keys and values; its prefixes cannot be reused")
        return cls(
            tuple(layer.keys for layer in layers), tuple(layer.values for layer in layers), lane.position, prompt_length
        )

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


def follow(
    model: PreTrainedModel,
    places: Sequence[tuple[Prefix, int]],
    vectors: torch.Tensor,
    targets: Sequence[Sequence[int]],
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Behind each (prefix, tokens of its answer that are kept): the reminder, then the target. One forward pass.

    Args:
        vectors: (k, hidden_size), of the reminder; the gradient reaches them.
        targets: of each place, at least one token.

    Returns:
        Per place, logits (len(target), vocabulary) for the target's tokens; and the final hidden states (places,
        hidden_size) at the last reminder vector, where the probe reads.
    """
    run: Any = model
    embedding: Any = model.get_input_embeddings()
    weight, k = embedding.weight, vectors.shape[0]
    lengths = [prefix.prompt_length + kept for prefix, kept in places]
    longest, width = max(lengths), k + max(map(len, targets)) - 1
    cache = DynamicCache()
    for layer in range(len(places[0][0].keys)):
        cache.update(
            _padded([prefix.keys[layer][:, :, :n] for (prefix, _), n in zip(places, lengths, strict=True)], longest),
            _padded([prefix.values[layer][:, :, :n] for (prefix, _), n in zip(places, lengths, strict=True)], longest),
            layer,
        )
    mask = None
    if min(lengths) < longest:
        start = torch.tensor([longest - n for n in lengths], device=weight.device)[:, None]
        mask = (torch.arange(longest + width, device=weight.device) >= start).long()
    positions = torch.cat([next_positions(prefix.position + kept, width) for prefix, kept in places], dim=-2)
    # What a short target is filled up with stands behind it, where nothing looks.
    filled = torch.zeros(len(places), width - k, dtype=torch.long, device=weight.device)
    for row, target in enumerate(targets):
        filled[row, : len(target) - 1] = torch.tensor(list(target[:-1]))
    parts = [vectors.to(weight.dtype).expand(len(places), -1, -1)]
    if width > k:
        parts.append(embedding(filled))
    few = {"logits_to_keep": width - k + 1} if "logits_to_keep" in inspect.signature(run.forward).parameters else {}
    outputs = run(
        inputs_embeds=torch.cat(parts, dim=1),
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        output_hidden_states=True,
        return_dict=True,
        **few,
    )
    logits = outputs.logits[:, -(width - k + 1) :]
    return [logits[row, : len(target)] for row, target in enumerate(targets)], outputs.hidden_states[-1][:, k - 1]


def _padded(pieces: list[torch.Tensor], longest: int) -> torch.Tensor:
    """Pieces (1, heads, n, head size), padded on the left and stacked."""
    first = pieces[0]
    out = first.new_zeros(len(pieces), first.shape[1], longest, first.shape[3])
    for row, piece in enumerate(pieces):
        out[row, :, longest - piece.shape[2] :] = piece[0]
    return out


def prepare(model: Any, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
    """What ``generate`` would hand to a decoding method for ``inputs``: ids, positions, mask and image inputs."""

    def capture(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
        return input_ids, {k: v for k, v in model_kwargs.items() if k not in ("synced_gpus", "streamer")}

    return model.generate(**inputs, custom_generate=capture, max_new_tokens=1, do_sample=False)
