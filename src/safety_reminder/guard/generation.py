"""A request's sampling, in the form in which transformers' ``generate`` takes it."""

from __future__ import annotations

import copy
from typing import Any

from transformers import GenerationConfig

from safety_reminder.errors import ConfigError, unknown_name
from safety_reminder.guard.options import GUARD_OPTIONS, OURS, stop_texts
from safety_reminder.guard.supported import require_effective
from safety_reminder.models import VLM
from safety_reminder.types import Sampling

NEW_TOKENS = 512  # where neither the caller nor the model's generation config says
_LENGTHS = ("max_new_tokens", "max_length")
_ARGUMENTS = {"logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "generation_config"}


def generate_arguments(vlm: VLM, sampling: Sampling, stop: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """The model to call ``generate`` on, and with which arguments. Nothing that comes in is changed, neither the
    model's generation configuration nor the caller's.

    Raises:
        ConfigError: options that are unknown, or that one conversation at a time cannot have.
    """
    options = sampling.given
    own = vlm.model.generation_config
    known = {name for name in vars(own) if not name.startswith("_")} | _ARGUMENTS
    for name in options:
        if name not in known:
            raise ConfigError(unknown_name("generation option", name, known | GUARD_OPTIONS | OURS))
    callers_config = options.get("generation_config")
    if callers_config is not None:
        if not isinstance(callers_config, GenerationConfig):
            raise ConfigError(f"generation_config must be a GenerationConfig, got {type(callers_config).__name__}")
        callers_config = options["generation_config"] = copy.deepcopy(callers_config)
    configs = [config for config in (callers_config, own) if config is not None]
    do_sample = next((v for v in (options.get("do_sample"), *(c.do_sample for c in configs)) if v is not None), False)
    require_effective(options, do_sample=do_sample)
    if callers_config is not None:
        # A whole configuration may bring settings of sampling along that the call does without.
        require_effective(callers_config.to_diff_dict(), do_sample=True)
    counts = [options.get("num_return_sequences"), *(config.num_return_sequences for config in configs)]
    if next((count for count in counts if count is not None), 1) > 1:
        raise ConfigError("num_return_sequences must be 1 here; repeat the conversation in generate_batch")
    if options.get("max_length", 0) is None:
        del options["max_length"]
    if not options.keys() & set(_LENGTHS) and not any(getattr(c, n) for c in configs for n in _LENGTHS):
        if callers_config is None:
            options["max_new_tokens"] = NEW_TOKENS
        else:
            callers_config.max_new_tokens = NEW_TOKENS
    # `generate` does not hand its tokenizer on to a callable, and cannot find stop strings without one.
    strings = options.pop("stop_strings", None) or next((c.stop_strings for c in configs if c.stop_strings), None)
    texts = [*stop, *stop_texts("stop_strings", strings)]
    if callers_config is not None:
        callers_config.stop_strings = None
    if texts:
        options["stopping_criteria"] = [*(options.pop("stopping_criteria", None) or []), vlm.stop_criterion(texts)]
    return _without_stop_strings(vlm.model), options


def _without_stop_strings(model: Any) -> Any:
    """The model; if its own generation configuration has stop strings, a shallow copy of it, of the same weights, with
    a configuration that has none. Another thread may be generating with the model meanwhile."""
    if model.generation_config.stop_strings is None:
        return model
    twin = copy.copy(model)
    twin.generation_config = copy.deepcopy(model.generation_config)
    twin.generation_config.stop_strings = None
    return twin
