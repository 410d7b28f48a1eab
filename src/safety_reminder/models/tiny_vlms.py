"""Tiny checkpoints of the families that see, with a processor of their own kind, as ``from_pretrained`` loads them.

``load_vlm(str(tiny_vlm_checkpoint("qwen2_vl", folder)))`` reads real images through transformers' own code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from safety_reminder.errors import ModelError, unknown_name
from safety_reminder.models.tiny import TINY, byte_tokenizer, open_gates

_TEMPLATE = (
    "{{% for m in messages %}}[{{{{ m['role'] }}}}]"
    "{{% if m['content'] is string %}}{{{{ m['content'] }}}}{{% else %}}{{% for p in m['content'] %}}"
    "{{% if p['type'] == 'image' %}}{image}{{% else %}}{{{{ p['text'] }}}}{{% endif %}}{{% endfor %}}{{% endif %}}"
    "{{% endfor %}}{{% if add_generation_prompt %}}[assistant]{{% endif %}}"
)


@dataclass(frozen=True)
class _Kind:
    """``image``: what stands for an image in a prompt. ``special``: tokens. ``names``: what the tokenizer calls them.
    ``ids``: fields of the model's configuration that hold one's id. ``pixels`` and ``processing``: settings of image
    processor and processor."""

    image_processor: str
    processor: str
    image: str
    special: tuple[str, ...]
    ids: dict[str, str]
    names: dict[str, str] = field(default_factory=dict)
    pixels: dict[str, Any] = field(default_factory=dict)
    processing: dict[str, Any] = field(default_factory=dict)


def _llava(image_processor: str, processor: str, **pixels: Any) -> _Kind:
    return _Kind(
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


def _qwen(image_processor: str, processor: str) -> _Kind:
    return _Kind(
        image_processor,
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


def _idefics(image_processor: str, processor: str, *, split: bool) -> _Kind:
    return _Kind(
        image_processor,
        processor,
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


_KINDS = {
    "llava": _llava("CLIPImageProcessor", "LlavaProcessor"),
    "llava_next": _llava("LlavaNextImageProcessor", "LlavaNextProcessor", image_grid_pinpoints=[[8, 16], [16, 8]]),
    "qwen2_vl": _qwen("Qwen2VLImageProcessor", "Qwen2VLProcessor"),
    "qwen2_5_vl": _qwen("Qwen2VLImageProcessor", "Qwen2_5_VLProcessor"),
    "qwen3_vl": _qwen("Qwen2VLImageProcessor", "Qwen3VLProcessor"),
    "deepseek_vl": _Kind(
        "DeepseekVLImageProcessor",
        "DeepseekVLProcessor",
        "<image_placeholder>",
        ("<image_placeholder>",),
        {"image_token_id": "<image_placeholder>"},
        {"image_token": "<image_placeholder>"},
        {"size": {"height": 8, "width": 8}, "min_size": 2},
        {"num_image_tokens": 4},
    ),
    "internvl": _Kind(
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
    ),
    "idefics3": _idefics("Idefics3ImageProcessor", "Idefics3Processor", split=True),
    "smolvlm": _idefics("SmolVLMImageProcessor", "SmolVLMProcessor", split=False),
    "gemma3": _Kind(
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
}
TINY_VLMS = tuple(_KINDS)


def tiny_vlm_checkpoint(family: str, folder: str | Path, *, seed: int = 0) -> Path:
    """Save a tiny random model of ``family``, one of ``TINY_VLMS``, with its kind of processor and a byte tokenizer.

    The global random state is left as it was.
    """
    if family not in _KINDS:
        raise ModelError(unknown_name("tiny family that sees", family, _KINDS))
    kind, folder = _KINDS[family], Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    template = _TEMPLATE.format(image=kind.image)
    more: dict[str, Any] = {"extra_special_tokens": kind.names} if kind.names else {}
    tokenizer = byte_tokenizer(kind.special, template, **more)
    tokenizer.save_pretrained(folder)
    config = TINY[family]()
    for name, token in kind.ids.items():
        setattr(config, name, tokenizer.convert_tokens_to_ids(token))
    config.get_text_config().vocab_size = len(tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
        open_gates(model)
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    kinds = {"image_processor_type": kind.image_processor, "processor_class": kind.processor}
    (folder / "preprocessor_config.json").write_text(json.dumps({**kind.pixels, **kinds}))
    processing = {**kind.processing, "processor_class": kind.processor}
    (folder / "processor_config.json").write_text(json.dumps(processing))
    return folder
