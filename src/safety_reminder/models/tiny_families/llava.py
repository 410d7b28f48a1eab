"""Tiny families whose vision tower gives one token for each patch, or for a few of them: LLaVA and those after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoConfig,
    CLIPVisionConfig,
    DeepseekVLConfig,
    Idefics2Config,
    Idefics3Config,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaOnevisionConfig,
    PixtralVisionConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
    SmolVLMConfig,
)

from safety_reminder.models.tiny_families.base import (
    IMAGE,
    TEXT,
    VISION,
    Checkpoint,
    Tensors,
    Tiny,
    picture,
    stacked,
)

_CLIP = {"image_size": 8, "patch_size": 4, "projection_dim": 16, **VISION}
_SIGLIP = {"image_size": 8, "patch_size": 4, "vision_use_head": False, **VISION}


def _llava_checkpoint(image_processor: str, processor: str, **pixels: Any) -> Checkpoint:
    return Checkpoint(
        image_processor,
        processor,
        "<image>",
        ("<image>",),
        {"image_token_index": "<image>"},
        pixels={"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}, **pixels},
        processing={
            "patch_size": 4,
            "vision_feature_select_strategy": "default",
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
        },
    )


def _llava(kind: Callable[..., PreTrainedConfig] = LlavaConfig, **more: Any) -> PreTrainedConfig:
    return kind(
        vision_config=CLIPVisionConfig(**_CLIP), text_config=LlamaConfig(**TEXT), image_token_index=IMAGE, **more
    )


LLAVA = Tiny(
    lambda: _llava(vision_feature_layer=-2),
    picture(4),
    (3, 8, 8),
    stacked,
    _llava_checkpoint("CLIPImageProcessor", "LlavaProcessor"),
)


def _tiles(ids: torch.Tensor, pixels: torch.Tensor) -> Tensors:
    """An overview and two tiles: of each, four tokens, and one for the end of each row of tiles."""
    sizes = torch.tensor([[8, 16]] * len(ids))
    return {"pixel_values": pixels[:, None].expand(-1, 3, -1, -1, -1), "image_sizes": sizes}


LLAVA_NEXT = Tiny(
    lambda: _llava(LlavaNextConfig, vision_feature_layer=-2, image_grid_pinpoints=[[8, 16], [16, 8]]),
    picture(14),
    (3, 8, 8),
    _tiles,
    _llava_checkpoint("LlavaNextImageProcessor", "LlavaNextProcessor", image_grid_pinpoints=[[8, 16], [16, 8]]),
)
LLAVA_ONEVISION = Tiny(
    lambda: LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**_SIGLIP),
        text_config=Qwen2Config(**TEXT),
        image_token_index=IMAGE,
        video_token_index=123,
        image_grid_pinpoints=[[8, 16], [16, 8]],
    ),
    picture(14),
    (3, 8, 8),
    _tiles,
    Checkpoint(
        "LlavaOnevisionImageProcessor",
        "LlavaOnevisionProcessor",
        "<image>",
        ("<image>", "<video>"),
        {"image_token_index": "<image>", "video_token_index": "<video>"},
        pixels={"size": {"height": 8, "width": 8}, "image_grid_pinpoints": [[8, 16], [16, 8]]},
        processing={"num_image_tokens": 4, "vision_feature_select_strategy": "full"},
    ),
)
VIPLLAVA = Tiny(
    lambda: AutoConfig.for_model(
        "vipllava",
        vision_config=CLIPVisionConfig(**_CLIP).to_dict(),
        text_config=LlamaConfig(**TEXT).to_dict(),
        image_token_index=IMAGE,
        vision_feature_layers=[-2, -1],
    ),
    picture(4),
    (3, 8, 8),
    stacked,
)


def _pixtral(kind: str, **more: Any) -> PreTrainedConfig:
    vision = PixtralVisionConfig(image_size=16, patch_size=4, **VISION)
    text = {"model_type": "mistral", **TEXT, "head_dim": 8, "sliding_window": None}
    return AutoConfig.for_model(kind, vision_config=vision.to_dict(), text_config=text, image_token_index=IMAGE, **more)


def _with_sizes(ids: torch.Tensor, pixels: torch.Tensor) -> Tensors:
    return {"pixel_values": pixels, "image_sizes": torch.tensor([[pixels.shape[-2], pixels.shape[-1]]] * len(ids))}


PIXTRAL = Tiny(
    lambda: _pixtral("llava", vision_feature_layer=-1, vision_feature_select_strategy="full"),
    picture(16),
    (3, 16, 16),
    _with_sizes,
)
MISTRAL3 = Tiny(
    lambda: _pixtral("mistral3", vision_feature_layer=-1, spatial_merge_size=2),
    picture(4),
    (3, 16, 16),
    _with_sizes,
)


def _cohere(kind: str, side: int, **more: Any) -> PreTrainedConfig:
    text = {
        "model_type": "cohere2",
        **TEXT,
        "sliding_window": 12,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }
    vision = SiglipVisionConfig(**{**_SIGLIP, "image_size": side}).to_dict()
    return AutoConfig.for_model(kind, vision_config=vision, text_config=text, **more)


AYA_VISION = Tiny(
    lambda: _cohere("aya_vision", 16, image_token_index=IMAGE, adapter_layer_norm_eps=1e-6),
    picture(4),
    (3, 16, 16),
    stacked,
    Checkpoint(
        "GotOcr2ImageProcessor",
        "AyaVisionProcessor",
        "<image>",
        ("<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL"),
        {"image_token_index": "<|IMG_PATCH|>", "image_token_id": "<|IMG_PATCH|>"},
        pixels={"size": {"height": 16, "width": 16}, "crop_to_patches": False},
        processing={"patch_size": 4, "img_size": 16, "downsample_factor": 2},
    ),
)
COHERE2_VISION = Tiny(
    lambda: _cohere("cohere2_vision", 16, image_token_id=IMAGE, alignment_intermediate_size=48),
    picture(4),
    (3, 16, 16),
    stacked,
)
DEEPSEEK_VL = Tiny(
    lambda: DeepseekVLConfig(
        text_config=LlamaConfig(**TEXT),
        vision_config=SiglipVisionConfig(image_size=8, patch_size=4, **VISION),
        image_token_id=IMAGE,
    ),
    picture(4),
    (3, 8, 8),
    stacked,
    Checkpoint(
        "DeepseekVLImageProcessor",
        "DeepseekVLProcessor",
        "<image_placeholder>",
        ("<image_placeholder>",),
        {"image_token_id": "<image_placeholder>"},
        {"image_token": "<image_placeholder>"},
        {"size": {"height": 8, "width": 8}, "min_size": 2},
        {"num_image_tokens": 4},
    ),
)
_INTERNVL_CHECKPOINT = Checkpoint(
    "GotOcr2ImageProcessor",
    "InternVLProcessor",
    "<IMG_CONTEXT>",
    ("<IMG_CONTEXT>", "<img>", "</img>", "<video>"),
    {"image_token_id": "<IMG_CONTEXT>"},
    {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    {"size": {"height": 16, "width": 16}},
    {"image_seq_length": 4},
)


def _internvl(text: PreTrainedConfig) -> PreTrainedConfig:
    return InternVLConfig(
        text_config=text,
        vision_config=InternVLVisionConfig(image_size=[16, 16], patch_size=[4, 4], **VISION),
        image_token_id=IMAGE,
        image_seq_length=4,
    )


INTERNVL = Tiny(lambda: _internvl(Qwen2Config(**TEXT)), picture(4), (3, 16, 16), stacked, _INTERNVL_CHECKPOINT)
INTERNVL3_5 = Tiny(
    lambda: _internvl(Qwen3Config(**TEXT, head_dim=8)), picture(4), (3, 16, 16), stacked, _INTERNVL_CHECKPOINT
)


def _idefics(kind: Callable[..., PreTrainedConfig]) -> PreTrainedConfig:
    return kind(
        text_config=LlamaConfig(**TEXT),
        vision_config={"image_size": 16, "patch_size": 4, **VISION},
        image_token_id=IMAGE,
        scale_factor=2,
    )


def _one_of_several(ids: torch.Tensor, pixels: torch.Tensor) -> Tensors:
    """A row may have several images; it has one."""
    mask = torch.ones(len(ids), 1, *pixels.shape[-2:], dtype=torch.long)
    return {"pixel_values": pixels[:, None], "pixel_attention_mask": mask}


def _of_idefics3(config: Callable[..., PreTrainedConfig], name: str, *, split: bool) -> Tiny:
    checkpoint = Checkpoint(
        f"{name}ImageProcessor",
        f"{name}Processor",
        "<image>",
        ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"),
        {"image_token_id": "<image>"},
        pixels={
            "size": {"longest_edge": 32 if split else 16},
            "max_image_size": {"longest_edge": 16},
            "do_image_splitting": split,
        },
        processing={"image_seq_len": 4},
    )
    return Tiny(lambda: _idefics(config), picture(4), (3, 16, 16), _one_of_several, checkpoint)


IDEFICS3 = _of_idefics3(Idefics3Config, "Idefics3", split=True)
SMOLVLM = _of_idefics3(SmolVLMConfig, "SmolVLM", split=False)
IDEFICS2 = Tiny(
    lambda: Idefics2Config(
        text_config={"model_type": "mistral", **TEXT, "head_dim": 8, "sliding_window": None},
        vision_config={"image_size": 16, "patch_size": 4, **VISION},
        perceiver_config={
            "hidden_size": 32,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 8,
            "num_key_value_heads": 1,
            "initializer_range": 0.2,
        },
        image_token_id=IMAGE,
    ),
    picture(4),
    (3, 16, 16),
    _one_of_several,
    Checkpoint(
        "Idefics2ImageProcessor",
        "Idefics2Processor",
        "<image>",
        ("<fake_token_around_image>", "<image>", "<end_of_utterance>"),
        {"image_token_id": "<image>"},
        pixels={"size": {"longest_edge": 16, "shortest_edge": 8}, "do_image_splitting": False},
        processing={"image_seq_len": 4},
    ),
)
LLAMA4 = Tiny(
    lambda: AutoConfig.for_model(
        "llama4",
        text_config={
            **TEXT,
            "head_dim": 8,
            "intermediate_size_mlp": 48,
            "num_local_experts": 2,
            "attention_chunk_size": 8,
            "num_hidden_layers": 4,
        },
        vision_config={
            **VISION,
            "image_size": 16,
            "patch_size": 4,
            "intermediate_size": 64,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
        image_token_index=IMAGE,
        boi_token_index=121,
        eoi_token_index=122,
    ),
    picture(4),
    (3, 16, 16),
    stacked,
)
