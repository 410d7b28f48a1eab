"""What a model has read: its KV cache, mask and positions, and the four things that can be done to them.

``prefill`` reads prompts, ``append`` lets tokens and vectors follow, ``crop`` takes the newest entries back as if they
had never been there, ``select`` keeps some of the rows. Every forward pass is prepared by the model's own
``prepare_inputs_for_generation``, since several families put positions and masks there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, PreTrainedModel

from safety_reminder.errors import ModelError
from safety_reminder.models import caches
from safety_reminder.models.positions import next_positions

# What stands in the ids where vectors are that no token embeds as. Only its place counts.
STAND_IN = 0
_OURS = ("input_ids", "attention_mask", "position_ids", "past_key_values")


def prepare(model: Any, inputs: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """What ``generate`` would hand to a decoding method for ``inputs``: ids, positions, mask and image inputs."""

    def capture(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
        return input_ids, {k: v for k, v in model_kwargs.items() if k not in ("synced_gpus", "streamer")}

    return model.generate(**inputs, custom_generate=capture, max_new_tokens=1, do_sample=False)


def first_pass(model: Any, inputs: Mapping[str, Any], cache: Cache | None = None) -> dict[str, Any]:
    """What the model's ``forward`` takes for prompts, images as they were given: their gradient is kept.

    Args:
        cache: that is filled by the pass; None: nothing is cached.
    """
    # `generate` would run the vision tower, without gradient: it is not shown the pixels, and given them after.
    images = {name: value for name, value in inputs.items() if value.is_floating_point()}
    ids, kwargs = prepare(model, {name: value for name, value in inputs.items() if name not in images})
    unaligned = {name: v for name, v in inputs.items() if v.shape != inputs["input_ids"].shape}
    kwargs |= {**unaligned, "past_key_values": cache, "use_cache": cache is not None}
    for name in ("logits_to_keep", "mm_encoder_outputs"):
        kwargs.pop(name, None)
    return model.prepare_inputs_for_generation(ids, is_first_iteration=True, **kwargs)


@dataclass
class Context:
    """Rows of one length that a model has read.

    Shapes: ``ids`` (rows, entries), of what is cached, left padded, with :data:`STAND_IN` for vectors; ``mask`` (rows,
    entries) or None where nothing is padded; ``position`` (..., rows, 1), of the newest entry, whose leading axes are
    M-RoPE's where the model has them. ``aligned``: further inputs that have a column for every token of the prompt,
    (rows, prompt, ...), and one more, that of every entry to come. ``fixed``: numbers of the layers that hold an image
    and no text. ``options``: what each pass takes besides.
    """

    cache: Cache
    ids: Int[Tensor, "rows entries"]
    mask: Int[Tensor, "rows entries"] | None
    position: Int[Tensor, "*axes rows 1"]
    aligned: dict[str, Tensor] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    fixed: frozenset[int] = frozenset()
    cropped_to: int = 0  # a layer that forgets cannot be taken back beyond this many entries

    @property
    def rows(self) -> int:
        return self.ids.shape[0]

    @property
    def entries(self) -> int:
        """Cached entries of each row, padding included."""
        return self.ids.shape[1]

    def reaches(self, entries: int) -> bool:
        """Whether :meth:`crop` can go back to so many entries: what a sliding window or a convolution has dropped does
        not come back."""
        return entries >= self.cropped_to or not caches.forgets(self.cache)

    def crop(self, count: int) -> None:
        """Remove the newest ``count`` entries, as if they had never been there."""
        # Called with 0 too: a layer that records its past gives back there what it no longer needs.
        caches.crop(self.cache, count, self.fixed)
        if count:
            self.ids = self.ids[:, :-count]
            if self.mask is not None:
                self.mask = self.mask[:, :-count]
            self.position = self.position - count
        self.cropped_to = self.entries

    def select(self, keep: Sequence[int]) -> Context:
        """The rows ``keep`` as a context of their own; this one must not be used again unless ``keep`` is all of it."""
        if len(keep) == self.rows:
            return self
        index = torch.tensor(keep, device=self.ids.device)
        return replace(
            self,
            cache=caches.select(self.cache, index),
            ids=self.ids[index],
            mask=None if self.mask is None else self.mask[index],
            position=self.position.index_select(-2, index),
            aligned={name: tensor[index] for name, tensor in self.aligned.items()},
        )


@dataclass(frozen=True)
class Appended:
    """What the model makes of the entries that were appended.

    ``first`` and ``last``: logits (rows, vocabulary) float32 after the tokens, if there were any, and after the last
    entry. ``hidden``: with vectors, the final hidden state at the last of them, (rows, hidden_size).
    """

    first: Float[Tensor, "rows vocabulary"]
    last: Float[Tensor, "rows vocabulary"]
    hidden: Float[Tensor, "rows hidden_size"] | None = None


class Runner:
    """Runs a model over contexts."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model

    def prefill(
        self, input_ids: Int[Tensor, "rows prompt"], kwargs: Mapping[str, Any], *, roll_back: bool
    ) -> tuple[Context, Float[Tensor, "rows vocabulary"]]:
        """Read prompts, images included.

        Args:
            kwargs: as :func:`prepare` gives them.
            roll_back: entries will be taken back again.

        Returns:
            The context, and the logits for the next token, float32.

        Raises:
            ModelError: with ``roll_back``, a cache that cannot do it.
        """
        if roll_back:
            caches.require_known_kinds(self.model, kwargs.get("past_key_values"))
        inputs = self.model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **kwargs)
        outputs = self.model(**inputs, return_dict=True)
        cache, fixed = outputs.past_key_values, caches.read_once(self.model)
        if roll_back:
            caches.require_filled(self.model, cache, input_ids.shape[1], fixed)
            cache.activate_past_recording()
        mask = kwargs.get("attention_mask")
        if mask is not None and bool((mask == 1).all()):
            mask = None
        position = kwargs.get("position_ids")
        if position is None:
            position = _count(input_ids, mask)
        further = {k: v for k, v in kwargs.items() if k not in _OURS}
        aligned = lengthened(self.model, outputs, input_ids, further)
        # Tensors that are not aligned with the prompt are its images, which are read now and never again.
        options = {name: value for name, value in further.items() if not isinstance(value, Tensor) and _plain(value)}
        context = Context(cache, input_ids, mask, position[..., -1:], aligned, options, fixed)
        return context, _float32(outputs.logits[:, -1], input_ids.device)

    def append(
        self,
        context: Context,
        tokens: Int[Tensor, "rows tokens"] | None,
        vectors: Float[Tensor, "k hidden_size"] | None = None,
    ) -> Appended:
        """Let ``tokens`` and then ``vectors``, which are the same in every row, follow, in one forward pass."""
        ids = [] if tokens is None else [tokens]
        if vectors is not None:
            ids.append(context.ids.new_full((context.rows, vectors.shape[0]), STAND_IN))
        new = torch.cat(ids, dim=1)
        width = new.shape[1]
        context.ids = torch.cat([context.ids, new], dim=1)
        if context.mask is not None:
            context.mask = torch.cat([context.mask, context.mask.new_ones(context.rows, width)], dim=1)
        positions = next_positions(context.position, width)
        inputs = self._prepared(context, positions, width, told=0 if tokens is None else tokens.shape[1])
        if vectors is None:
            outputs, hidden = self.model(**inputs, return_dict=True), None
        else:
            # The model is given ids, and not embeddings: some families look up more than the embedding of a token.
            vectors, count = vectors.expand(context.rows, -1, -1), vectors.shape[0]
            with (
                embedding_replaced(self.model, lambda out: torch.cat([out[:, :-count], vectors.to(out)], dim=1)),
                final_hidden_states(self.model) as states,
            ):
                outputs = self.model(**inputs, return_dict=True)
            hidden = states[-1][:, -1]
        context.position = positions[..., -1:]
        device = context.ids.device
        last = _float32(outputs.logits[:, -1], device)
        if tokens is None or vectors is None:
            return Appended(last, last, hidden)
        at = 0 if "logits_to_keep" in context.options else tokens.shape[1] - 1
        return Appended(_float32(outputs.logits[:, at], device), last, hidden)

    def _prepared(self, context: Context, positions: Tensor, width: int, *, told: int) -> dict[str, Any]:
        """Inputs of a pass over the newest ``width`` entries of ``context.ids``; the first ``told`` of them are
        tokens."""
        options = dict(context.options)
        if "logits_to_keep" in options:
            # After the tokens and after all: what stands between is not looked at, and the output embedding is large.
            both = 0 < told < width
            options["logits_to_keep"] = torch.tensor([told - 1, width - 1], device=context.ids.device) if both else 1
        return following(
            self.model,
            context.ids,
            context.cache,
            context.mask,
            positions,
            **{name: columns(tensor, context.entries) for name, tensor in context.aligned.items()},
            **options,
        )


def following(model: Any, ids: Tensor, cache: Cache, mask: Any, positions: Tensor, **options: Any) -> dict[str, Any]:
    """What the model's ``forward`` takes for the newest ``width`` of ``ids`` (rows, entries), which follow what the
    ``cache`` holds.

    Args:
        mask: over all entries, of the cache and new; None: nothing is padded.
        positions: (..., rows, width), as the model's own counting gives them.

    Raises:
        ModelError: the model would forget the cache (Phi-3 and Phi-4 do, where they begin to scale positions).
    """
    inputs = model.prepare_inputs_for_generation(
        ids,
        next_sequence_length=positions.shape[-1],
        past_key_values=cache,
        attention_mask=mask,
        position_ids=positions,
        is_first_iteration=False,
        **{"use_cache": True, **options},
    )
    if inputs.get("past_key_values") is not cache:
        raise ModelError(
            f"{type(model).__name__} reads everything anew from {ids.shape[1]} tokens on, where its positions are "
            "scaled otherwise; guarded decoding cannot go on from there"
        )
    return inputs


def scattered(vectors: Tensor, starts: Sequence[tuple[int, int]]) -> Callable[[Tensor], Tensor]:
    """For :func:`embedding_replaced`: puts ``vectors`` (k, hidden_size) at each of the places ``starts``, of which each
    is a row and a column. The gradient reaches them."""
    k = vectors.shape[0]

    def replace(embedded: Tensor) -> Tensor:
        if not starts:
            return embedded
        row = torch.tensor([[r] * k for r, _ in starts], device=embedded.device)
        at = torch.tensor([[*range(c, c + k)] for _, c in starts], device=embedded.device)
        return embedded.index_put((row, at), vectors.to(embedded).expand(len(starts), -1, -1))

    return replace


@contextmanager
def final_hidden_states(model: Any) -> Iterator[list[Tensor]]:
    """While this is open, what this thread's passes give to the output embedding is collected: the hidden states after
    the final norm, (rows, positions, hidden_size), at the positions whose logits are computed. The hook is removed at
    the end.

    Raises:
        ModelError: on closing, if the model ran without its output embedding.
    """
    states: list[Tensor] = []
    here = threading.get_ident()

    def collect(module: Any, inputs: tuple[Tensor, ...]) -> None:
        if threading.get_ident() == here:
            states.append(inputs[0])

    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(model).__name__} has no output embedding, where a probe would read")
    handle = head.register_forward_pre_hook(collect)
    try:
        yield states
    finally:
        handle.remove()
    if not states:
        raise ModelError(f"{type(model).__name__} does not run its output embedding, where a probe would read")


@contextmanager
def embedding_replaced(model: Any, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While this is open, what the model first embeds in this thread, (rows, tokens, hidden_size), is what ``replace``
    makes of it. The hook is removed at the end."""
    done, here = False, threading.get_ident()

    def replaced(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        nonlocal done
        if done or threading.get_ident() != here:
            return None
        done = True
        return replace(output)

    handle = model.get_input_embeddings().register_forward_hook(replaced)
    try:
        yield
    finally:
        handle.remove()
    if not done:
        raise ModelError(f"{type(model).__name__} did not embed its tokens; vectors have no place there")


def image_token(model: Any) -> int | None:
    """The id of the token that stands for an image in ids; None where the model's configuration says none."""
    ids = (getattr(model.config, name, None) for name in ("image_token_id", "image_token_index"))
    return next((token for token in ids if isinstance(token, int)), None)


def rows_with_images(model: Any, input_ids: Int[Tensor, "rows prompt"]) -> list[bool]:
    """Whether each prompt shows an image: the placeholder of one stands in it.

    Raises:
        ModelError: the model reads images, and its configuration does not say where they stand.
    """
    token = image_token(model)
    if token is not None:
        return (input_ids == token).any(dim=1).tolist()
    if getattr(model.config, "vision_config", None) is None:
        return [False] * input_ids.shape[0]
    raise ModelError(
        f"{type(model).__name__} does not say which token stands for an image, so that a threshold of its own for "
        "conversations with images (image_threshold) cannot be used"
    )


def lengthened(
    model: Any, outputs: Any, ids: Int[Tensor, "rows tokens"], kwargs: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Those of ``kwargs`` that have a column for every token of ``ids``, (rows, tokens, ...), with one more, for text
    that follows: the one that ``generate`` would add."""
    aligned = {
        name: value
        for name, value in kwargs.items()
        if name not in _OURS and isinstance(value, Tensor) and value.shape[:2] == ids.shape
    }
    if not aligned:
        return {}
    added = model._update_model_kwargs_for_generation(
        outputs=outputs, model_kwargs=dict(aligned), is_encoder_decoder=False, num_new_tokens=1
    )
    longer = {name: added[name] for name in aligned}
    for name, value in longer.items():
        if value.shape[1] == ids.shape[1]:  # the model does not say; it looks at the newest columns alone
            longer[name] = torch.cat([value, value[:, -1:]], dim=1)
    return longer


def columns(tensor: Tensor, length: int) -> Tensor:
    """``tensor`` (rows, columns, ...) with ``length`` columns: the last one is that of everything to come."""
    missing = length - tensor.shape[1]
    if missing <= 0:
        return tensor[:, :length]
    return torch.cat([tensor, tensor[:, -1:].expand(-1, missing, *tensor.shape[2:])], dim=1)


def _plain(value: Any) -> bool:
    """Not outputs of a vision tower, which ``generate`` runs ahead."""
    return value is None or isinstance(value, bool | int | float | str)


def _float32(logits: Tensor, device: torch.device) -> Tensor:
    # A copy, so that the logits of a whole prompt are not kept alive by a view of their last row.
    return logits.to(copy=True, dtype=torch.float32, device=device)


def _count(input_ids: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.arange(input_ids.shape[1], device=input_ids.device).expand(input_ids.shape[0], -1)
    return (mask.long().cumsum(-1) - 1).clamp(min=0)
