"""What of transformers' generation options guarded decoding does. Others are refused: an option that is passed over in
silence gives an answer that nobody asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from safety_reminder.errors import ConfigError, ModelError

# Options that select another method of decoding or belong to one, and their values that do neither, besides null.
_METHODS: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "constraints": (),
    "force_words_ids": (),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "low_memory": (False,),
    "prompt_lookup_num_tokens": (),
    "max_matching_ngram_size": (),
    "num_assistant_tokens": (),
    "num_assistant_tokens_schedule": (),
    "assistant_confidence_threshold": (),
    "assistant_early_exit": (),
    "assistant_lookbehind": (),
    "target_lookbehind": (),
    "is_assistant": (False,),
    "use_mtp": (False,),
    "speculation_type": (),
    "token_healing": (False,),
    "guidance_scale": (1,),
    "decoder_start_token_id": (),
    "continuous_batching_config": (),
}
# Some of them stand in models' own generation configurations, where they change nothing.
_HARMLESS = frozenset(
    {"diversity_penalty", "length_penalty", "early_stopping", "low_memory", "max_matching_ngram_size", "is_assistant"}
    | {"num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"}
    | {"assistant_lookbehind", "target_lookbehind", "decoder_start_token_id", "continuous_batching_config"}
)
# Least and greatest value; whole numbers where the least one is.
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, math.inf),
    "top_k": (0, math.inf),
    "top_p": (0.0, 1),
    "min_p": (0.0, 1),
    "top_h": (0.0, 1),
    "typical_p": (0.0, 1),
    "epsilon_cutoff": (0.0, 1),
    "eta_cutoff": (0.0, 1),
    "repetition_penalty": (0.0, math.inf),
    "encoder_repetition_penalty": (0.0, math.inf),
    "no_repeat_ngram_size": (0, math.inf),
    "encoder_no_repeat_ngram_size": (0, math.inf),
    "min_length": (0, math.inf),
    "min_new_tokens": (0, math.inf),
    "max_new_tokens": (1, math.inf),
    "max_length": (1, math.inf),
    "max_time": (0.0, math.inf),
    "num_return_sequences": (1, math.inf),
}
# Without sampling they have no effect, but for these values, which say so themselves.
_SAMPLING: dict[str, tuple[float, ...]] = {
    "temperature": (0, 1),
    "top_k": (0,),
    "top_p": (1,),
    "min_p": (0,),
    "top_h": (),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
}


def require_effective(options: Mapping[str, Any], *, do_sample: bool) -> None:
    """Raises ConfigError if one of the options that somebody gave is out of its range, or has no effect."""
    for name, value in options.items():
        _require_in_range(name, value)
        _require_our_method(name, value)
        if value is not None and not do_sample and name in _SAMPLING and value not in _SAMPLING[name]:
            raise ConfigError(f"{name}={value} has no effect without sampling; add do_sample=True, or remove it")


def require_supported(model: PreTrainedModel, config: GenerationConfig) -> None:
    """Check what ``generate`` hands over.

    Raises:
        ConfigError: a generation mode that cannot be guarded (beam search, no cache), or a value out of its range.
        ModelError: an encoder-decoder model.
    """
    own = model.generation_config
    for name in _RANGES:
        value = getattr(config, name, None)
        # What a model that does not sample says of sampling is not looked at.
        if name not in _SAMPLING or config.do_sample or value != getattr(own, name, None):
            _require_in_range(name, value)
    for name in _METHODS.keys() - _HARMLESS:
        _require_our_method(name, getattr(config, name, None))
    if config.cache_implementation in ("offloaded", "quantized"):
        raise ConfigError(
            f"cache_implementation={config.cache_implementation} is a cache that guarded decoding was not tested with"
        )
    if config.use_cache is False:
        raise ConfigError("the guard works on the KV cache; use_cache=False is not supported")
    for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states"):
        if getattr(config, name, None):
            raise ConfigError(f"{name}=True is not available in guarded decoding")
    if model.config.is_encoder_decoder:
        raise ModelError(f"{type(model).__name__} is an encoder-decoder model; only decoder-only models can be guarded")


def _require_in_range(name: str, value: Any) -> None:
    if name not in _RANGES or value is None:
        return
    least, most = _RANGES[name]
    whole = isinstance(least, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ConfigError(f"{name} must be a {'whole number' if whole else 'number'}, got {value!r}")
    if not least <= value <= most:
        up_to = "" if math.isinf(most) else f" and at most {most:g}"
        raise ConfigError(f"{name} must be at least {least:g}{up_to}, got {value}")


def _require_our_method(name: str, value: Any) -> None:
    if name not in _METHODS or value is None or value in _METHODS[name]:
        return
    if name == "num_beams" and isinstance(value, int) and value > 1:
        raise ConfigError("beam search cannot be guarded (a check belongs to one running text); use num_beams=1")
    if name == "guidance_scale":
        raise ConfigError("guidance_scale keeps a cache of its own that the guard cannot roll back; remove it")
    raise ConfigError(f"{name} selects a decoding method that the guard replaces, or belongs to one; remove it")
