"""What a tiny family consists of, and the sizes that all share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedConfig

VOCABULARY = 128
EOS, PAD, BOS, IMAGE, VISION_START, VISION_END = 1, 0, 2, 120, 121, 122
VIDEO = 123
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "initializer_range": 0.2,  # wide enough for answers that are not one token over and over
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
}
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """The family's kind of processor, for a tiny checkpoint as ``from_pretrained`` loads it.

    ``image``: what stands for an image in a prompt. ``special``: tokens. ``names``: what the tokenizer calls them.
    ``ids``: fields of the model's configuration that hold one's id. ``pixels`` and ``processing``: settings of image
    processor and processor; ``options``: of the tokenizer.
    """

    image_processor: str
    processor: str
    image: str
    special: tuple[str, ...]
    ids: dict[str, str]
    names: dict[str, str] = field(default_factory=dict)
    pixels: dict[str, Any] = field(default_factory=dict)
    processing: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tiny:
    """A tiny model of one family.

    Args:
        config: makes its configuration.
        image: the ids that stand for an image in a prompt; none: it reads text only.
        noise: the shape of one row's random pixels.
        tensors: input ids (rows, length) and pixels (rows, *noise) → what the model takes besides ids and mask.
        checkpoint: its processor, where a tiny one is written here.
    """

    config: Callable[[], PreTrainedConfig]
    image: tuple[int, ...] = ()
    noise: tuple[int, ...] = ()
    tensors: Callable[[torch.Tensor, torch.Tensor], Tensors] | None = None
    checkpoint: Checkpoint | None = None


def picture(tokens: int) -> tuple[int, ...]:
    """So many image tokens between the tokens that begin and end an image."""
    return (VISION_START, *[IMAGE] * tokens, VISION_END)


def stacked(ids: torch.Tensor, pixels: torch.Tensor) -> Tensors:
    """One image a row, as it is."""
    return {"pixel_values": pixels}
