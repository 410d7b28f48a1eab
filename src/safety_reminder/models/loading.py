"""From a name to a model and what reads its text and images: the one place that loads a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoTokenizer,
)

from safety_reminder.config.names import POCKET, model_place
from safety_reminder.errors import ConfigError, ModelError, SafetyReminderError, unknown_name
from safety_reminder.models.caches import obstacle
from safety_reminder.models.processors import load_processor

# Of a model that sees (or hears) as well, and of one that reads text only.
LOADERS: dict[bool, tuple[Any, Any]] = {
    True: (MODEL_FOR_MULTIMODAL_LM_MAPPING, AutoModelForMultimodalLM),
    False: (MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM),
}
DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_checkpoint(
    name: str, *, device: str | torch.device | None = None, dtype: str | torch.dtype = "auto", kind: str = "model"
) -> tuple[Any, Any]:
    """The model, in ``eval`` mode, and its processor, or its tokenizer where it reads text only. Code that a checkpoint
    brings along is never run.

    Args:
        name: ``pocket``, a hub id or a folder.
        device: where it runs; an accelerator if there is one.
        dtype: ``auto`` (as saved), ``float32``, ``bfloat16`` or ``float16``, or one of torch's.
        kind: what messages call it.

    Raises:
        ModelError: nothing there, or not a decoder-only model that transformers can load.
        ConfigError: unknown ``dtype``.
    """
    if not isinstance(dtype, torch.dtype) and dtype not in DTYPES:
        raise ConfigError(unknown_name("dtype", str(dtype), DTYPES))
    place = place_of(name, kind)
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    with one_line_errors(name, kind, f"; remove {place} to have it assembled anew" if name == POCKET else ""):
        config = repaired(AutoConfig.from_pretrained(place, trust_remote_code=False))
        if config.is_encoder_decoder:
            use = "can be guarded" if kind == "model" else "can be loaded"
            raise ModelError(f"{name} is an encoder-decoder model; only decoder-only models {use}")
        sees = type(config) in MODEL_FOR_MULTIMODAL_LM_MAPPING
        mapping, loader = LOADERS[sees]
        if kind == "model" and type(config) in mapping and (reason := obstacle(mapping[type(config)], config)):
            raise ModelError(f"{name} cannot be guarded: {reason}")
        if sees:
            processor = load_processor(place, config)
        else:
            processor = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        model: Any = loader.from_pretrained(place, config=config, dtype=dtype, trust_remote_code=False)
    with one_line_errors(name, kind):  # a device that is not there is no fault of the files
        return model.to(device).eval(), processor


@contextmanager
def one_line_errors(name: str, kind: str = "model", remedy: str = "") -> Iterator[None]:
    """Whatever goes wrong inside becomes a ModelError that names the checkpoint, and ends with the ``remedy``."""
    try:
        yield
    except SafetyReminderError:
        raise
    except Exception as error:  # files from anywhere: what transformers raises on a damaged one is not a closed list
        reason = " ".join(str(error).split())[:240] or type(error).__name__
        if "trust_remote_code" in str(error):
            reason = (
                "it needs code of its own, which is not run; take the checkpoint in transformers' own format, whose "
                "name often ends in -hf"
            )
        raise ModelError(f"cannot load the {kind} {name!r}: {reason}{remedy}") from error


def repaired(config: Any) -> Any:
    """Llama Guard 4 says that its attention is not chunked by a size of null, which transformers cannot run: one chunk
    as long as the model reaches is the same."""
    text = config.get_text_config()
    if getattr(text, "attention_chunk_size", 0) is None:
        text.attention_chunk_size = text.max_position_embeddings
    return config


def place_of(name: str, kind: str = "model") -> str:
    """The folder, or the hub id. Raises ModelError, as :func:`load_checkpoint`."""
    if name == POCKET:
        from safety_reminder.models.pocket import checkpoint_folder

        return str(checkpoint_folder())
    return model_place(name, kind)
