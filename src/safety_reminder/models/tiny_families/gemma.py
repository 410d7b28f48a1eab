"""Tiny families with rules of their own: Gemma and PaliGemma, which look at images both ways; Llama 3.2 Vision, which
looks at them from layers apart; LFM2-VL, whose text has convolutions."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, Gemma3Config, Gemma3TextConfig, PreTrainedConfig, SiglipVisionConfig

from safety_reminder.models.tiny_families.base import (
    IMAGE,
    TEXT,
    VIDEO,
    VISION,
    VISION_END,
    VISION_START,
    Checkpoint,
    Tensors,
    Tiny,
    picture,
)

_SLIDING = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]


def _gemma3() -> PreTrainedConfig:
    text = Gemma3TextConfig(**{**TEXT, "num_hidden_layers": 4, "head_dim": 8}, sliding_window=12, layer_types=_SLIDING)
    return Gemma3Config(
        text_config=text,
        vision_config=SiglipVisionConfig(image_size=16, patch_size=4, vision_use_head=False, **VISION),
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        boi_token_index=VISION_START,
        eoi_token_index=VISION_END,
    )


def _both_ways(ids: torch.Tensor, pixels: torch.Tensor) -> Tensors:
    return {"pixel_values": pixels, "token_type_ids": (ids == IMAGE).long()}


GEMMA3 = Tiny(
    _gemma3,
    picture(4),
    (3, 16, 16),
    _both_ways,
    Checkpoint(
        "Gemma3ImageProcessor",
        "Gemma3Processor",
        "<start_of_image>",
        ("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        {
            "image_token_index": "<image_soft_token>",
            "image_token_id": "<image_soft_token>",
            "boi_token_index": "<start_of_image>",
            "eoi_token_index": "<end_of_image>",
        },
        {
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        {"size": {"height": 16, "width": 16}},
        {"image_seq_length": 4},
    ),
)


def _paligemma(text: dict[str, Any]) -> PreTrainedConfig:
    vision = SiglipVisionConfig(image_size=8, patch_size=4, vision_use_head=False, **{**VISION, "projection_dim": 32})
    return AutoConfig.for_model(
        "paligemma",
        text_config={**TEXT, "head_dim": 8, **text},
        vision_config=vision.to_dict(),
        image_token_index=IMAGE,
        projection_dim=32,
        hidden_size=32,
    )


def _prefix(ids: torch.Tensor, pixels: torch.Tensor) -> Tensors:
    """A prompt is read both ways: nothing in it is an answer."""
    return {"pixel_values": pixels, "token_type_ids": torch.zeros_like(ids)}


PALIGEMMA = Tiny(lambda: _paligemma({"model_type": "gemma"}), (IMAGE,) * 4, (3, 8, 8), _prefix)
PALIGEMMA2 = Tiny(
    lambda: _paligemma(
        {
            "model_type": "gemma2",
            "sliding_window": 12,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        }
    ),
    (IMAGE,) * 4,
    (3, 8, 8),
    _prefix,
)


def _gemma4(**text: Any) -> PreTrainedConfig:
    return AutoConfig.for_model(
        "gemma4",
        text_config={
            **TEXT,
            "num_hidden_layers": 4,
            "head_dim": 8,
            "global_head_dim": 8,
            "sliding_window": 12,
            "layer_types": _SLIDING,
            "vocab_size_per_layer_input": 512,
            "hidden_size_per_layer_input": 0,
            **text,
        },
        vision_config={
            **VISION,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "position_embedding_size": 64,
        },
        audio_config=None,
        image_token_id=IMAGE,
        boi_token_id=VISION_START,
        eoi_token_id=VISION_END,
        video_token_id=VIDEO,
        audio_token_id=124,
        boa_token_id=125,
        eoa_token_index=126,
    )


def _placed(ids: torch.Tensor, pixels: torch.Tensor) -> Tensors:
    """16 patches with their places, of which 2 × 2 are pooled: four image tokens."""
    places = torch.tensor([[x, y] for y in range(4) for x in range(4)])
    return {
        "pixel_values": pixels.sigmoid(),
        "image_position_ids": places.expand(len(ids), -1, -1).contiguous(),
        "mm_token_type_ids": (ids == IMAGE).long(),
    }


_GEMMA4_CHECKPOINT = Checkpoint(
    "Gemma4ImageProcessor",
    "Gemma4Processor",
    "<|image|>",
    ("<|image|>", "<|image>", "<image|>", "<|video|>", "<|audio|>", "<|audio>", "<audio|>"),
    {
        "image_token_id": "<|image|>",
        "boi_token_id": "<|image>",
        "eoi_token_id": "<image|>",
        "video_token_id": "<|video|>",
        "audio_token_id": "<|audio|>",
    },
    {
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
    },
    {"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70},
)
GEMMA4 = Tiny(lambda: _gemma4(use_bidirectional_attention="vision"), picture(4), (16, 48), _placed, _GEMMA4_CHECKPOINT)
GEMMA4_PER_LAYER = Tiny(
    lambda: _gemma4(
        hidden_size_per_layer_input=8,
        num_hidden_layers=6,
        layer_types=["sliding_attention", "full_attention"] * 3,
        num_kv_shared_layers=2,
    ),
    picture(4),
    (16, 48),
    _placed,
    _GEMMA4_CHECKPOINT,
)


def _mllama() -> PreTrainedConfig:
    return AutoConfig.for_model(
        "mllama",
        text_config={
            **TEXT,
            "vocab_size": IMAGE,
            "num_hidden_layers": 4,
            "cross_attention_layers": [1, 3],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        vision_config={
            **{name: value for name, value in VISION.items() if name != "num_attention_heads"},
            "attention_heads": 2,
            "num_global_layers": 1,
            "image_size": 8,
            "patch_size": 4,
            "max_num_tiles": 1,
            "supported_aspect_ratios": [[1, 1]],
            "intermediate_layers_indices": [0],
            "vision_output_dim": 32,
        },
        image_token_index=IMAGE,
    )


def _looked_at(ids: torch.Tensor, pixels: torch.Tensor) -> Tensors:
    rows = len(ids)
    seen = (ids == IMAGE).long().cumsum(-1).clamp(max=1)
    return {
        "pixel_values": pixels[:, None, None],
        "aspect_ratio_ids": torch.ones(rows, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(rows, 1, 1, dtype=torch.long),
        "cross_attention_mask": seen[:, :, None, None],
    }


MLLAMA = Tiny(
    _mllama,
    (IMAGE,),
    (3, 8, 8),
    _looked_at,
    Checkpoint(
        "MllamaImageProcessor",
        "MllamaProcessor",
        "<|image|>",
        ("<s>", "<|image|>", "<|python_tag|>"),
        {"image_token_index": "<|image|>"},
        pixels={"size": {"height": 8, "width": 8}, "max_image_tiles": 1},
        options={"bos_token": "<s>"},
    ),
)


def _lfm2_vl() -> PreTrainedConfig:
    return AutoConfig.for_model(
        "lfm2_vl",
        text_config={
            "model_type": "lfm2",
            **TEXT,
            "layer_types": ["conv", "full_attention", "conv"],
            "block_auto_adjust_ff_dim": False,
        },
        vision_config={"model_type": "siglip2_vision_model", **VISION, "patch_size": 4, "num_patches": 16},
        image_token_id=IMAGE,
        projector_hidden_size=32,
    )


def _shaped(ids: torch.Tensor, pixels: torch.Tensor) -> Tensors:
    return {
        "pixel_values": pixels,
        "spatial_shapes": torch.tensor([[4, 4]] * len(ids)),
        "pixel_attention_mask": torch.ones(len(ids), 16, dtype=torch.long),
    }


LFM2_VL = Tiny(_lfm2_vl, picture(4), (16, 48), _shaped)


def _phi4_multimodal() -> PreTrainedConfig:
    audio = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_blocks": 1,
        "num_attention_heads": 2,
        "ext_pw_out_channel": 16,
        "depthwise_separable_out_channel": 16,
        "nemo_conv_channels": 8,
        "audio_token_id": 124,
    }
    return AutoConfig.for_model(
        "phi4_multimodal",
        **TEXT,
        vision_config={**VISION, "image_size": 16, "crop_size": 16, "patch_size": 4, "image_token_id": IMAGE},
        audio_config=audio,
    )


def _cropped(ids: torch.Tensor, pixels: torch.Tensor) -> Tensors:
    """An overview and one crop: of each, four tokens and one for each of its two rows, and one between the two."""
    return {
        "image_pixel_values": pixels,
        "image_sizes": torch.tensor([[16, 16]] * len(ids)),
        "image_attention_mask": torch.ones(len(ids), 2, 4, 4, dtype=torch.long),
    }


PHI4_MULTIMODAL = Tiny(_phi4_multimodal, picture(13), (2, 3, 16, 16), _cropped)
