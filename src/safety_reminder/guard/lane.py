"""Rows that move in lockstep over one KV cache, and the three things that can be done to them: step, crop, split."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import Cache, PreTrainedModel

from safety_reminder.errors import ModelError
from safety_reminder.guard.text import Transcript
from safety_reminder.models import embedding_weight
from safety_reminder.models.positions import next_positions


@dataclass
class Row:
    """One sequence of the batch: which it is, what it has said, what the last check found, and why it is ending
    (with which end-of-sequence token, if with one)."""

    index: int
    transcript: Transcript
    p_unsafe: float = 0.0
    finish_reason: str | None = None
    end: int | None = None


@dataclass
class Lane:
    """Rows with one history of checks and interventions, so that one set of counters serves them all.

    Shapes: ``ids`` (rows, prompt + answer), left padded; ``mask`` (rows, cached entries) or None where nothing is
    padded; ``position`` (..., rows, 1), of the newest cached entry; ``logits`` (rows, vocabulary) float32 for the next
    token; ``pending`` (rows,), chosen tokens that are not in the cache yet.
    """

    rows: list[Row]
    cache: Cache
    ids: torch.Tensor
    mask: torch.Tensor | None
    position: torch.Tensor
    logits: torch.Tensor
    pending: torch.Tensor | None = None
    prompt_length: int = 0
    entries: int = 0  # cached entries behind the prompt: answer tokens and kept reminders
    passed: int = 0  # answer tokens covered by the last passed check or intervention
    passed_entries: int = 0
    interventions: int = 0
    whole: bool = True  # no row has left through an intervention: draws stay in step with the unguarded batch

    @property
    def answered(self) -> int:
        """Answer tokens so far, the pending one included."""
        return self.ids.shape[1] - self.prompt_length

    @property
    def since(self) -> int:
        """Answer tokens since the last passed check or intervention."""
        return self.answered - self.passed

    def extend(self, tokens: torch.Tensor) -> None:
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        self.pending = tokens
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.transcript.append(token)

    def forget(self, count: int) -> None:
        """Take the last ``count`` answer tokens out of ``ids``; the cache is :meth:`crop`'s business."""
        if count:
            self.ids = self.ids[:, :-count]
        self.pending = None

    def crop(self, count: int) -> None:
        """Remove the last ``count`` entries from the cache, as if they had never been there."""
        # Called with 0 too: a layer that records its past gives back there what it no longer needs.
        self.cache.crop(-count)
        if count:
            if self.mask is not None:
                self.mask = self.mask[:, :-count]
            self.position = self.position - count
            self.entries -= count

    def mark_passed(self) -> None:
        self.passed, self.passed_entries = self.answered, self.entries

    def select(self, keep: Sequence[int]) -> Lane:
        """The rows ``keep`` as a lane of their own; this one must not be used again unless ``keep`` is all of it."""
        if len(keep) == len(self.rows):
            return self
        index = torch.tensor(keep, device=self.ids.device)
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        cache.batch_select_indices(index.to(_cache_device(cache, index)))
        return replace(
            self,
            rows=[self.rows[i] for i in keep],
            cache=cache,
            ids=self.ids[index],
            mask=None if self.mask is None else self.mask[index],
            position=self.position.index_select(-2, index),
            logits=self.logits[index],
            pending=None if self.pending is None else self.pending[index],
        )

    def split(self, chosen: Sequence[bool]) -> tuple[Lane | None, Lane | None]:
        """(the chosen rows, the others), either of which may be None."""
        yes = [i for i, c in enumerate(chosen) if c]
        no = [i for i, c in enumerate(chosen) if not c]
        return (self.select(yes) if yes else None), (self.select(no) if no else None)


def _cache_device(cache: Cache, index: torch.Tensor) -> torch.device:
    keys = getattr(cache.layers[0], "keys", None)
    return index.device if keys is None else keys.device


class Stepper:
    """Runs the model over a lane: a token, the reminder, or both in one pass."""

    def __init__(self, model: PreTrainedModel, vectors: torch.Tensor | None, model_kwargs: dict[str, Any]) -> None:
        self.model: Any = model
        self.few_logits = "logits_to_keep" in model_kwargs
        self.embed: Any = model.get_input_embeddings()
        weight = embedding_weight(model)
        self.vectors = None if vectors is None else vectors.to(weight.device, weight.dtype)

    def prefill(self, input_ids: torch.Tensor, rows: list[Row], model_kwargs: dict[str, Any]) -> Lane:
        """Run the prompt, images included, and open the lane behind it."""
        inputs = self.model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_kwargs)
        outputs = self.model(**inputs, return_dict=True)
        cache = outputs.past_key_values
        if self.vectors is not None:
            if not isinstance(cache, Cache) or not cache.is_croppable:
                raise ModelError(
                    f"{type(self.model).__name__} uses a {type(cache).__name__}, which cannot be rolled back; "
                    "use the default dynamic cache (do not set cache_implementation)"
                )
            cache.activate_past_recording()
        mask = model_kwargs.get("attention_mask")
        if mask is not None and bool((mask == 1).all()):
            mask = None
        position = model_kwargs.get("position_ids")
        if position is None:
            position = _count(input_ids, mask)
        return Lane(
            rows=rows,
            cache=cache,
            ids=input_ids,
            mask=mask,
            position=position[..., -1:],
            logits=_float32(outputs.logits[:, -1], input_ids.device),
            prompt_length=input_ids.shape[1],
        )

    def step(
        self, lane: Lane, *, token: bool, reminder: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Append ``lane.pending`` (``token``), then the reminder (``reminder``), in one forward pass.

        Returns:
            Logits (rows, vocabulary) behind the first and behind the last entry, and, with ``reminder``, the hidden
            state after the final norm at the last entry, (rows, hidden_size).
        """
        tokens = lane.pending if token else None
        if reminder:
            assert self.vectors is not None
            parts = [] if tokens is None else [self.embed(tokens[:, None])]
            parts.append(self.vectors.expand(len(lane.rows), -1, -1))
            inputs: dict[str, Any] = {"inputs_embeds": torch.cat(parts, dim=1), "output_hidden_states": True}
            width = inputs["inputs_embeds"].shape[1]
        else:
            assert tokens is not None
            inputs, width = {"input_ids": tokens[:, None]}, 1
        if self.few_logits:
            inputs["logits_to_keep"] = width if tokens is not None else 1
        positions = next_positions(lane.position, width)
        if lane.mask is not None:
            lane.mask = torch.cat([lane.mask, lane.mask.new_ones(len(lane.rows), width)], dim=1)
        outputs = self.model(
            **inputs,
            attention_mask=lane.mask,
            position_ids=positions,
            past_key_values=lane.cache,
            use_cache=True,
            return_dict=True,
        )
        lane.position = positions[..., -1:]
        lane.entries += width
        if token:
            lane.pending = None
        hidden = outputs.hidden_states[-1][:, -1] if reminder else None
        device = lane.ids.device
        first = _float32(outputs.logits[:, 0], device)
        last = first if outputs.logits.shape[1] == 1 else _float32(outputs.logits[:, -1], device)
        return first, last, hidden


def _float32(logits: torch.Tensor, device: torch.device) -> torch.Tensor:
    # A copy, so that the logits of a whole prompt are not kept alive by a view of their last row.
    return logits.to(copy=True, dtype=torch.float32, device=device)


def _count(input_ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if mask is None:
        return torch.arange(input_ids.shape[1], device=input_ids.device).expand(input_ids.shape[0], -1)
    return (mask.long().cumsum(-1) - 1).clamp(min=0)
