"""Tiny families whose images arrive as patches with a grid, whose positions have three axes: Qwen-VL and GLM-V."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, Qwen2_5_VLConfig, Qwen2VLConfig, Qwen3VLConfig

from safety_reminder.models.tiny_families.base import (
    IMAGE,
    TEXT,
    VIDEO,
    VISION_END,
    VISION_START,
    Checkpoint,
    Tensors,
    Tiny,
    picture,
)

_TOKENS: dict[str, Any] = {
    "image_token_id": IMAGE,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
    "video_token_id": VIDEO,
}
_TOWER = {"depth": 2, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 24}
_PATCHES = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}


def _mrope(**changes: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "type": "mrope", "mrope_section": [2, 1, 1], "rope_theta": 10_000.0}
    return {**TEXT, "rope_parameters": {**rope, **changes}}


def _grid(ids: torch.Tensor, pixels: torch.Tensor) -> Tensors:
    """16 patches of 4 × 4 pixels over two frames, of which 2 × 2 are merged: four image tokens."""
    return {
        "pixel_values": pixels.flatten(0, 1),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * len(ids)),
        "mm_token_type_ids": (ids == IMAGE).long(),
    }


def _checkpoint(processor: str) -> Checkpoint:
    return Checkpoint(
        "Qwen2VLImageProcessor",
        processor,
        "<|vision_start|><|image_pad|><|vision_end|>",
        ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
        {
            "image_token_id": "<|image_pad|>",
            "video_token_id": "<|video_pad|>",
            "vision_start_token_id": "<|vision_start|>",
            "vision_end_token_id": "<|vision_end|>",
        },
        pixels={"min_pixels": 64, "max_pixels": 1024, "patch_size": 4, "temporal_patch_size": 2, "merge_size": 2},
    )


def _qwen2_vl() -> PreTrainedConfig:
    tower = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    return Qwen2VLConfig(text_config=_mrope(), vision_config={**tower, **_PATCHES}, **_TOKENS)


def _qwen2_5_vl() -> PreTrainedConfig:
    tower = {**_TOWER, **_PATCHES, "window_size": 16, "fullatt_block_indexes": [1]}
    return Qwen2_5_VLConfig(text_config=_mrope(), vision_config=tower, **_TOKENS)


def _qwen3_tower() -> dict[str, Any]:
    return {**_TOWER, **_PATCHES, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}


def _interleaved(**more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 10_000.0}
    return {**TEXT, "head_dim": 8, "rope_parameters": rope, **more}


def _qwen3_vl_moe() -> PreTrainedConfig:
    routed = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    tower = _qwen3_tower()
    return AutoConfig.for_model("qwen3_vl_moe", text_config=_interleaved(**routed), vision_config=tower, **_TOKENS)


def _glm(kind: str) -> PreTrainedConfig:
    tower = {**_TOWER, **_PATCHES, "image_size": 16, "initializer_range": 0.2}
    tokens = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "image_start_token_id": VISION_START,
        "image_end_token_id": VISION_END,
        "video_start_token_id": 124,
        "video_end_token_id": 125,
    }
    return AutoConfig.for_model(kind, text_config=_mrope(partial_rotary_factor=1.0), vision_config=tower, **tokens)


def _tiny(config: Any, processor: str | None = None) -> Tiny:
    return Tiny(config, picture(4), (16, 96), _grid, None if processor is None else _checkpoint(processor))


QWEN2_VL = _tiny(_qwen2_vl, "Qwen2VLProcessor")
QWEN2_5_VL = _tiny(_qwen2_5_vl, "Qwen2_5_VLProcessor")
QWEN3_VL = _tiny(
    lambda: Qwen3VLConfig(text_config=_interleaved(), vision_config=_qwen3_tower(), **_TOKENS), "Qwen3VLProcessor"
)
QWEN3_VL_MOE = _tiny(_qwen3_vl_moe, "Qwen3VLProcessor")
_GLM_CHECKPOINT = Checkpoint(
    "Glm4vImageProcessor",
    "Glm4vProcessor",
    "<|begin_of_image|><|image|><|end_of_image|>",
    ("<|begin_of_image|>", "<|end_of_image|>", "<|image|>", "<|video|>", "<|begin_of_video|>", "<|end_of_video|>"),
    {
        "image_token_id": "<|image|>",
        "video_token_id": "<|video|>",
        "image_start_token_id": "<|begin_of_image|>",
        "image_end_token_id": "<|end_of_image|>",
        "video_start_token_id": "<|begin_of_video|>",
        "video_end_token_id": "<|end_of_video|>",
    },
    pixels={
        "size": {"shortest_edge": 64, "longest_edge": 1024},
        "patch_size": 4,
        "temporal_patch_size": 2,
        "merge_size": 2,
    },
)
GLM4V = Tiny(lambda: _glm("glm4v"), picture(4), (16, 96), _grid, _GLM_CHECKPOINT)
GLM46V = _tiny(
    lambda: AutoConfig.for_model(
        "glm46v",
        **{
            **{k: v for k, v in _glm("glm4v").to_dict().items() if k.endswith("token_id")},
            "text_config": _glm("glm4v").text_config.to_dict(),
            "vision_config": _glm("glm4v").vision_config.to_dict(),
        },
    )
)
