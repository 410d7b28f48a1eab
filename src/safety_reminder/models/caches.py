"""The caches that guarded decoding can take entries back from, and how it does that. Every other kind is refused."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, DynamicLayer
from transformers.cache_utils import (
    DummyLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    get_layer_types_and_kwargs,
)

from safety_reminder.errors import ModelError

# What a layer of a model's configuration may be called. A convolution keeps its last inputs, which can be restored; a
# recurrent state has mixed what it read, and nothing can be taken back from it.
_KINDS = {"full_attention", "sliding_attention", "chunked_attention", "conv", "dummy"}
_ADVICE = "only models that keep an entry per token can be guarded"


def obstacle(kind: Any, config: Any) -> str | None:
    """Why entries cannot be taken back from the cache of a model of the class ``kind``, as far as that and its
    ``config`` say; None: they can. Nothing is loaded or run."""
    name = kind.__name__
    if config.is_encoder_decoder:
        return f"{name} is an encoder-decoder model; only decoder-only models can be guarded"
    if getattr(kind, "_is_stateful", False):
        return f"{name} keeps a recurrent state, which cannot be taken back after a check; {_ADVICE}"
    if not getattr(kind, "can_generate", lambda: True)():
        return f"{name} does not write text, so there is nothing to guard"
    try:
        kinds = set(get_layer_types_and_kwargs(config.get_text_config(decoder=True))[0])
    except (AttributeError, KeyError, TypeError) as error:
        return f"{name} does not say what its layers keep ({error}); {_ADVICE}"
    if unknown := kinds - _KINDS:
        what = ", ".join(sorted(unknown)).replace("_", " ")
        return f"{name} has layers ({what}) whose state cannot be taken back after a check; {_ADVICE}"
    return None


def read_once(model: Any) -> frozenset[int]:
    """The numbers of the layers whose entries are an image's and not the text's (Llama 3.2 Vision looks at images
    through such layers): they are filled with the prompt and stay."""
    return frozenset(getattr(model.config.get_text_config(decoder=True), "cross_attention_layers", None) or ())


def require_keys_and_values(model: Any, *, from_within: bool = False) -> None:
    """Before a prefix is kept, to be cut and gone on from.

    Args:
        from_within: it is cut inside the prompt.

    Raises:
        ModelError: the model keeps more than keys and values, or reads a prompt as a whole.
    """
    name, text = type(model).__name__, model.config.get_text_config(decoder=True)
    kinds, _ = get_layer_types_and_kwargs(text)
    if read_once(model) or not {*kinds} <= _KINDS - {"conv"}:
        raise ModelError(f"{name} keeps more than keys and values; its prefixes cannot be reused")
    if from_within and getattr(text, "use_bidirectional_attention", None) in (True, "all"):
        raise ModelError(f"{name} reads a prompt both ways; what it made of a part of one cannot be reused")


def require_known_kinds(model: Any, cache: Any) -> None:
    """Before a prompt is run. ``cache``: that it will be read into; None: the model makes its own.

    Raises:
        ModelError: nothing can be taken back from it.
    """
    name = type(model).__name__
    if getattr(model, "_is_stateful", False):
        raise ModelError(f"{name} keeps a recurrent state, which cannot be taken back after a check; {_ADVICE}")
    if cache is None:
        return
    if type(cache) is not DynamicCache or cache.offloading:
        raise ModelError(
            f"{name} uses a {type(cache).__name__}{' that is offloaded' if getattr(cache, 'offloading', 0) else ''}, "
            "which cannot be rolled back; use the default dynamic cache (do not set cache_implementation)"
        )
    for layer in cache.layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer, LinearAttentionLayer):
            raise ModelError(
                f"{name} has a cache layer of the kind {type(layer).__name__}, which cannot be rolled back; {_ADVICE}"
            )


def require_filled(model: Any, cache: Any, entries: int, fixed: frozenset[int]) -> None:
    """After a prompt of ``entries`` tokens was run: one entry for each token in every layer but those that are
    ``fixed`` or hold none.

    Raises:
        ModelError: nothing can be taken back from it.
    """
    name = type(model).__name__
    if not isinstance(cache, Cache):
        kept = "no cache" if cache is None else f"a {type(cache).__name__}"
        raise ModelError(f"{name} uses {kept}, from which nothing can be taken back; {_ADVICE}")
    require_known_kinds(model, cache)
    layers: Any = cache.layers
    for number, layer in enumerate(layers):
        if isinstance(layer, LinearAttentionLayer):
            held = entries if layer.is_croppable else None
        elif number in fixed or isinstance(layer, DummyLayer) or not layer.is_initialized:
            held = entries
        else:
            held = int(layer.get_seq_length())
        if held != entries:
            kept = "a recurrent state" if held is None else f"{held} entries"
            raise ModelError(f"layer {number} of {name} keeps {kept} for {entries} tokens; {_ADVICE}")


def forgets(cache: Cache) -> bool:
    """Whether a layer does not keep what is too far back: a sliding window, or a convolution."""
    return any(isinstance(layer, DynamicSlidingWindowLayer | LinearAttentionLayer) for layer in cache.layers)


def crop(cache: Cache, count: int, fixed: frozenset[int]) -> None:
    """Take the newest ``count`` entries back. With 0, a layer that records its past gives back what it no longer
    needs."""
    layers: Any = cache.layers
    for number, layer in enumerate(layers):
        if number not in fixed:
            layer.crop(-count)


def select(cache: Cache, index: Tensor) -> Cache:
    """The rows ``index`` as a cache of their own, which shares no state with the one that it came from."""
    chosen = copy.copy(cache)
    chosen.layers = [_selected(layer, index) for layer in cache.layers]
    return chosen


def _selected(layer: Any, index: Tensor) -> Any:
    layer = copy.copy(layer)
    if isinstance(layer, LinearAttentionLayer):
        for name in ("conv_states", "conv_kernel_size", "has_previous_state", "is_conv_states_initialized"):
            setattr(layer, name, dict(getattr(layer, name)))
        for number, state in layer.conv_states.items():
            if state is not None:
                layer.conv_states[number] = torch.index_select(state, 0, index.to(state.device))
    elif getattr(layer, "keys", None) is not None:
        # Rows of an image's layers count too, so this does not ask the layer how many tokens it holds.
        layer.keys = torch.index_select(layer.keys, 0, index.to(layer.keys.device))
        layer.values = torch.index_select(layer.values, 0, index.to(layer.values.device))
    return layer
