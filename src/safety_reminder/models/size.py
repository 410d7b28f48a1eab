"""How large a model is, from its configuration alone: nothing of its weights is read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoConfig

from safety_reminder.models.loading import LOADERS, one_line_errors, place_of, repaired

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_IMAGE_TOKENS = 576  # of LLaVA-1.5, where a configuration does not say


@dataclass(frozen=True)
class ModelSize:
    """``parameters``: of all parts. ``weight_bytes``: in memory. ``cache_bytes``: keys and values of one token.
    ``image_tokens``: of one image, about; 0: the model reads text only."""

    parameters: int
    weight_bytes: int
    cache_bytes: int
    image_tokens: int


def model_size(name: str, dtype: str = "auto") -> ModelSize:
    """The size of a model by name, a hub id or a folder.

    Raises:
        ModelError: nothing there, or a configuration that transformers cannot make a model of.
    """
    place = place_of(name)
    with one_line_errors(name):
        config = repaired(AutoConfig.from_pretrained(place, trust_remote_code=False))
        text = config.get_text_config()
        sees = type(config) in LOADERS[True][0]
        with torch.device("meta"):
            model = LOADERS[sees][1].from_config(config, trust_remote_code=False)
        saved = str(config.dtype or text.dtype or "float32").removeprefix("torch.")
        each = _BYTES.get(saved if dtype == "auto" else dtype, 4)
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    parameters = sum(weight.numel() for weight in model.parameters())
    cache = 2 * text.num_hidden_layers * heads * width * each
    image = (getattr(config, "image_seq_length", None) or _IMAGE_TOKENS) if sees else 0
    return ModelSize(parameters, parameters * each, cache, image)
