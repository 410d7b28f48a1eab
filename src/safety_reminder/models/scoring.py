"""A script that follows a conversation, scored: what the model predicts at its tokens, and its states at its reminders.

In two ways that agree: over a frozen prefix's keys and values (:func:`follow`), where the gradient reaches the
reminder, and in one pass over the whole sequence (:func:`score`), where it also reaches pixels and embeddings.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from safety_reminder.models.context import (
    STAND_IN,
    columns,
    embedding_replaced,
    final_hidden_states,
    first_pass,
    following,
    lengthened,
    prepare,
    scattered,
)
from safety_reminder.models.prefix import Prefix, side_by_side

# What follows a cut: token ids, or None for the reminder.
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
    """What the model makes of one script.

    ``logits``: of each run of tokens in the script, if wanted, (tokens, vocabulary), what it predicted in their place;
    where a script begins with tokens, :func:`follow` has nothing that predicts the first of them, and its row is
    missing. ``hidden``: (reminders, hidden_size), final hidden states at the last vector of each reminder, where the
    probe reads. ``last``: (hidden_size,), that of the last entry.
    """

    logits: list[Tensor]
    hidden: Float[Tensor, "reminders hidden_size"]
    last: Float[Tensor, " hidden_size"]


def follow(
    model: PreTrainedModel, places: Sequence[Place], vectors: Float[Tensor, "k hidden_size"], *, logits: bool = True
) -> list[Continuation]:
    """Run what follows each place, all in one forward pass over the prefixes' keys and values.

    Args:
        vectors: of the reminder; the gradient reaches them.
        logits: False: only hidden states are wanted.
    """
    run: Any = model
    k = vectors.shape[0]
    widths = [width(place.script, k) for place in places]
    cache, mask, positions = side_by_side([(place.prefix, place.kept) for place in places], max(widths))
    # A short script is padded after its end, where nothing looks.
    rows, starts = _written([place.script for place in places], k, max(widths))
    read = sorted({at for place in places for at in _looked_at(place.script, k)})
    few = not logits and "logits_to_keep" in inspect.signature(model.forward).parameters
    ids = torch.tensor(rows, device=positions.device)
    options = {"logits_to_keep": torch.tensor(read, device=positions.device)} if few else {}
    prepared = following(model, ids, cache, mask, positions, **options)
    with embedding_replaced(model, scattered(vectors, starts)), final_hidden_states(model) as states:
        outputs = run(**prepared, return_dict=True)
    index = {at: n for n, at in enumerate(read)} if few else {at: at for at in range(max(widths))}
    # Row by row: the gradient of a slice is as large as what it was cut from.
    per_row = zip(outputs.logits.unbind(), states[-1].unbind(), places, strict=True)
    return [_continuation(place.script, k, p, hidden, index, logits=logits) for p, hidden, place in per_row]


def score(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    scripts: Sequence[Script],
    vectors: Float[Tensor, "k hidden_size"],
    *,
    embeddings: Mapping[int, Float[Tensor, "rows hidden_size"]] | None = None,
    logits: bool = True,
) -> list[Continuation]:
    """Run whole sequences, each a prompt and the script that follows it, in one pass without a cache.

    The answer's beginning, if there is one, is the first part of the script. The gradient reaches ``vectors``,
    the images (``inputs["pixel_values"]`` may require it) and ``embeddings``.

    Args:
        inputs: prompts as :meth:`VLM.encode` gives them, a row for each of ``scripts``.
        vectors: of the reminder.
        embeddings: at these columns of the prompts, these replace the embeddings of their tokens.
        logits: False: only hidden states are wanted.

    Returns:
        As :func:`follow`, and with the first row of logits also where a script begins with tokens.
    """
    k = vectors.shape[0]
    widest, prompt = max(width(script, k) for script in scripts), inputs["input_ids"].shape[1]
    rows, starts = _written(scripts, k, widest)
    prepared = _whole(model, inputs, torch.tensor(rows, device=inputs["input_ids"].device))
    put = scattered(vectors, [(row, prompt + column) for row, column in starts])

    def replace(embedded: Tensor) -> Tensor:
        for column, wanted in (embeddings or {}).items():
            every = torch.arange(embedded.shape[0], device=embedded.device)
            embedded = embedded.index_put((every, torch.full_like(every, column)), wanted.to(embedded))
        return put(embedded)

    with embedding_replaced(model, replace), final_hidden_states(model) as states:
        outputs = model(**prepared, return_dict=True)
    index = {at: prompt + at for at in range(-1, widest)}
    per_row = zip(outputs.logits.unbind(), states[-1].unbind(), scripts, strict=True)
    return [_continuation(script, k, p, hidden, index, logits=logits) for p, hidden, script in per_row]


def _written(scripts: Sequence[Script], k: int, widest: int) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """The ids of each script, with stand-ins for vectors and up to its end; and of each reminder, the row and the
    column at which it begins."""
    rows: list[list[int]] = []
    starts: list[tuple[int, int]] = []
    for row, script in enumerate(scripts):
        ids: list[int] = []
        for part in script:
            if part is None:
                starts.append((row, len(ids)))
            ids += [STAND_IN] * k if part is None else part
        rows.append(ids + [STAND_IN] * (widest - len(ids)))
    return rows, starts


@contextmanager
def frozen(model: PreTrainedModel) -> Iterator[None]:
    """While this is open, weights take no gradient: what is differentiated is an input, and the rest is waste."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _looked_at(script: Script, k: int) -> list[int]:
    """Entries of the script whose hidden states are wanted: the ends of reminders, and the last one."""
    ends, at = [], 0
    for part in script:
        at += k if part is None else len(part)
        if part is None:
            ends.append(at - 1)
    return [*ends, at - 1]


def _continuation(
    script: Script, k: int, predicted: Tensor, hidden: Tensor, index: Mapping[int, int], *, logits: bool
) -> Continuation:
    """One row's. ``index``: number of an entry in the script → its place in ``predicted`` and ``hidden``."""
    runs, at = [], 0
    for part in script:
        length = k if part is None else len(part)
        if part is not None and logits:
            # What predicts a token is one entry before it.
            first = at - 1 if at - 1 in index else at
            runs.append(predicted[index[first] : index[first] + at + length - 1 - first])
        at += length
    *ends, last = (index[entry] for entry in _looked_at(script, k))
    return Continuation(runs, hidden[ends], hidden[last])


def _whole(model: Any, inputs: Mapping[str, Any], added: Tensor) -> dict[str, Any]:
    """What the model takes for prompts with ``added`` (rows, m) after them, images as they were given."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    whole = dict(inputs)
    for name, value in lengthened(model, ModelOutput(), ids, inputs).items():
        whole[name] = columns(value, ids.shape[1] + added.shape[1])
    whole["input_ids"] = torch.cat([ids, added], dim=1)
    whole["attention_mask"] = torch.cat([mask, mask.new_ones(added.shape)], dim=1)
    return first_pass(model, whole)


@torch.no_grad()
def go_on(
    model: PreTrainedModel,
    cuts: Sequence[tuple[Prefix, int]],
    vectors: Float[Tensor, "k hidden_size"],
    count: int,
) -> list[list[int]]:
    """``count`` greedy tokens after the reminder, which follows the first so many answer tokens of each prefix.

    The model must run in the same precision as for the prefixes.
    """
    run: Any = model
    cache, mask, positions = side_by_side(cuts, vectors.shape[0] + count - 1)
    ids = torch.full((len(cuts), vectors.shape[0]), STAND_IN, device=positions.device)
    starts = [(row, 0) for row in range(len(cuts))]
    written: list[Tensor] = []
    for step in range(count):
        seen, new = cache.get_seq_length(), ids.shape[1]
        current, positions = positions[..., :new], positions[..., new:]
        prepared = following(model, ids, cache, None if mask is None else mask[:, : seen + new], current)
        with embedding_replaced(model, scattered(vectors, [] if step else starts)):
            outputs = run(**prepared, return_dict=True)
        written.append(outputs.logits[:, -1].argmax(-1))
        ids = written[-1][:, None]
    return torch.stack(written, dim=1).tolist()


def prompt_hidden(model: Any, inputs: Mapping[str, Any]) -> Float[Tensor, "rows hidden_size"]:
    """Final hidden states at the last token of each prompt, as :meth:`VLM.encode` gives them. The gradient reaches what
    the model embeds."""
    input_ids, kwargs = prepare(model, inputs)
    prepared = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **kwargs)
    with final_hidden_states(model) as states:
        model(**prepared, return_dict=True)
    return states[-1][:, -1]
