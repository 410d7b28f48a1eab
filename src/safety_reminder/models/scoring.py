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
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safety_reminder.models.context import STAND_IN, final_hidden_states, first_pass, prepare
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
    embedding: Any = model.get_input_embeddings()
    weight, k = embedding.weight, vectors.shape[0]
    widths = [width(place.script, k) for place in places]
    cache, mask, positions = side_by_side([(place.prefix, place.kept) for place in places], max(widths))
    reminder = vectors.to(weight.device, weight.dtype)
    rows = []
    for place, used in zip(places, widths, strict=True):
        parts = [
            reminder if part is None else embedding(torch.tensor(list(part), device=weight.device))
            for part in place.script
        ]
        # A short script is padded after its end, where nothing looks.
        rows.append(F.pad(torch.cat(parts), (0, 0, 0, max(widths) - used)))
    read = sorted({at for place in places for at in _looked_at(place.script, k)})
    few = not logits and "logits_to_keep" in inspect.signature(model.forward).parameters
    with final_hidden_states(model) as states:
        outputs = run(
            inputs_embeds=torch.stack(rows),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
            **({"logits_to_keep": torch.tensor(read, device=weight.device)} if few else {}),
        )
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
    rows: list[list[int]] = []
    overlay: list[tuple[int, int]] = []  # of each reminder, the row and the column at which it begins
    for row, script in enumerate(scripts):
        ids: list[int] = []
        for part in script:
            if part is None:
                overlay.append((row, prompt + len(ids)))
            ids += [STAND_IN] * k if part is None else part
        rows.append(ids + [STAND_IN] * (widest - len(ids)))
    prepared = _whole(model, inputs, torch.tensor(rows, device=inputs["input_ids"].device))
    with _overlaid(model, overlay, vectors, embeddings or {}), final_hidden_states(model) as states:
        outputs = model(**prepared, return_dict=True)
    index = {at: prompt + at for at in range(-1, widest)}
    per_row = zip(outputs.logits.unbind(), states[-1].unbind(), scripts, strict=True)
    return [_continuation(script, k, p, hidden, index, logits=logits) for p, hidden, script in per_row]


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


def _whole(model: Any, inputs: Mapping[str, Any], following: Tensor) -> dict[str, Any]:
    """What the model takes for prompts with ``following`` (rows, m) after them, images as they were given."""
    ids = inputs["input_ids"]
    extended, images = {}, {}
    for name, value in inputs.items():
        if name == "input_ids":
            extended[name] = torch.cat([value, following], dim=1)
        elif value.shape == ids.shape:
            filler = value.new_full(following.shape, int(name == "attention_mask"))
            extended[name] = torch.cat([value, filler], dim=1)
        else:
            images[name] = value
    return first_pass(model, extended | images)


@contextmanager
def _overlaid(
    model: Any, reminders: Sequence[tuple[int, int]], vectors: Tensor, columns: Mapping[int, Tensor]
) -> Iterator[None]:
    """While this is open, the first tokens that the model embeds have ``vectors`` from each of the places ``reminders``
    (row, column) on, and the embeddings of ``columns`` at those columns."""
    done = False

    def replace(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        nonlocal done
        if done:
            return None
        done = True
        for column, embedded in columns.items():
            at = torch.full((output.shape[0],), column, device=output.device)
            output = output.index_put((torch.arange(output.shape[0], device=output.device), at), embedded.to(output))
        if not reminders:
            return output
        k = vectors.shape[0]
        row = torch.tensor([[r] * k for r, _ in reminders], device=output.device)
        at = torch.tensor([[*range(c, c + k)] for _, c in reminders], device=output.device)
        return output.index_put((row, at), vectors.to(output).expand(len(reminders), -1, -1))

    handle = model.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


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
    embedding: Any = model.get_input_embeddings()
    cache, mask, positions = side_by_side(cuts, vectors.shape[0] + count - 1)
    entries = vectors.to(embedding.weight.device, embedding.weight.dtype).expand(len(cuts), -1, -1)
    written: list[Tensor] = []
    for _ in range(count):
        seen, new = cache.get_seq_length(), entries.shape[1]
        current, positions = positions[..., :new], positions[..., new:]
        outputs = run(
            inputs_embeds=entries,
            attention_mask=None if mask is None else mask[:, : seen + new],
            position_ids=current,
            past_key_values=cache,
            use_cache=True,
        )
        written.append(outputs.logits[:, -1].argmax(-1))
        entries = embedding(written[-1])[:, None]
    return torch.stack(written, dim=1).tolist()


def prompt_hidden(model: Any, inputs: Mapping[str, Any]) -> Float[Tensor, "rows hidden_size"]:
    """Final hidden states at the last token of each prompt, as :meth:`VLM.encode` gives them. The gradient reaches what
    the model embeds."""
    input_ids, kwargs = prepare(model, inputs)
    prepared = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **kwargs)
    with final_hidden_states(model) as states:
        model(**prepared, return_dict=True)
    return states[-1][:, -1]
