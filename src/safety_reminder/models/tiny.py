"""Tiny random-weight models of the real classes, for tests and benchmarks: no download, milliseconds a call.

``tiny_model("qwen2_vl")`` builds one, ``tiny_inputs(model, ...)`` a left-padded batch for it, images included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    DeepseekVLConfig,
    Gemma3Config,
    Gemma3TextConfig,
    Idefics3Config,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen3Config,
    Qwen3VLConfig,
    SiglipVisionConfig,
    SmolVLMConfig,
)

from safety_reminder.errors import ModelError, unknown_name

VOCABULARY = 128
EOS, PAD, IMAGE, VISION_START, VISION_END = 1, 0, 120, 121, 122
_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}]"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
_IDS = {"pad_token_id": PAD, "bos_token_id": 2, "eos_token_id": EOS}
_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "initializer_range": 0.2,  # wide enough for answers that are not one token over and over
    **_IDS,
}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
}


def _llava() -> PreTrainedConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=8, patch_size=4, projection_dim=16, **_VISION),
        text_config=LlamaConfig(**_TEXT),
        image_token_index=IMAGE,
        vision_feature_layer=-2,
    )


def _llava_next() -> PreTrainedConfig:
    return LlavaNextConfig(
        vision_config=CLIPVisionConfig(image_size=8, patch_size=4, projection_dim=16, **_VISION),
        text_config=LlamaConfig(**_TEXT),
        image_token_index=IMAGE,
        vision_feature_layer=-2,
        image_grid_pinpoints=[[8, 16], [16, 8]],
    )


def _qwen_text(**changes: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "type": "mrope", "mrope_section": [2, 1, 1], "rope_theta": 10_000.0}
    return {**_TEXT, "rope_parameters": rope, **changes}


def _qwen2_vl() -> PreTrainedConfig:
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    return Qwen2VLConfig(
        text_config=_qwen_text(),
        vision_config={**vision, "spatial_merge_size": 2, "temporal_patch_size": 2},
        image_token_id=IMAGE,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        video_token_id=123,
    )


def _qwen2_5_vl() -> PreTrainedConfig:
    vision = {"depth": 2, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 24}
    return Qwen2_5_VLConfig(
        text_config=_qwen_text(),
        vision_config={
            **vision,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        image_token_id=IMAGE,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        video_token_id=123,
    )


def _qwen3_vl() -> PreTrainedConfig:
    vision = {"depth": 2, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 24}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 10_000.0}
    return Qwen3VLConfig(
        text_config={**_TEXT, "head_dim": 8, "rope_parameters": rope},
        vision_config={
            **vision,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=IMAGE,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        video_token_id=123,
    )


def _deepseek_vl() -> PreTrainedConfig:
    return DeepseekVLConfig(
        text_config=LlamaConfig(**_TEXT),
        vision_config=SiglipVisionConfig(image_size=8, patch_size=4, **_VISION),
        image_token_id=IMAGE,
    )


def _internvl() -> PreTrainedConfig:
    return InternVLConfig(
        text_config=Qwen2Config(**_TEXT),
        vision_config=InternVLVisionConfig(image_size=[16, 16], patch_size=[4, 4], **_VISION),
        image_token_id=IMAGE,
        image_seq_length=4,
    )


def _idefics(kind: Callable[..., PreTrainedConfig]) -> PreTrainedConfig:
    return kind(
        text_config=LlamaConfig(**_TEXT),
        vision_config={"image_size": 16, "patch_size": 4, **_VISION},
        image_token_id=IMAGE,
        scale_factor=2,
    )


def _gemma3() -> PreTrainedConfig:
    text = Gemma3TextConfig(
        **{**_TEXT, "num_hidden_layers": 4, "head_dim": 8},
        sliding_window=12,
        layer_types=["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
    )
    return Gemma3Config(
        text_config=text,
        vision_config=SiglipVisionConfig(image_size=16, patch_size=4, vision_use_head=False, **_VISION),
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        boi_token_index=VISION_START,
        eoi_token_index=VISION_END,
    )


TINY: dict[str, Callable[[], PreTrainedConfig]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "deepseek_vl": _deepseek_vl,
    "internvl": _internvl,
    "idefics3": lambda: _idefics(Idefics3Config),
    "smolvlm": lambda: _idefics(SmolVLMConfig),
    "gemma3": _gemma3,
    "llama": lambda: LlamaConfig(**_TEXT),
    "qwen3": lambda: Qwen3Config(**_TEXT, head_dim=8),
}


def tiny_model(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A random model of ``family`` (a ``model_type``), hidden size 32, 128 token ids, in eval mode.

    The global random state is left as it was.
    """
    if family not in TINY:
        raise ModelError(unknown_name("tiny family", family, TINY))
    config = TINY[family]()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        loader = AutoModelForCausalLM if family in ("llama", "qwen3") else AutoModelForImageTextToText
        model = loader.from_config(config, dtype=dtype)
        open_gates(model)
    model.generation_config.eos_token_id = EOS
    model.generation_config.pad_token_id = PAD
    model.generation_config.bos_token_id = 2
    return model.eval()


@torch.no_grad()
def open_gates(model: PreTrainedModel) -> None:
    """Some families begin with a projection of zeros, behind which a random model would not see its images."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.normal_(std=0.2)


def tiny_inputs(model: PreTrainedModel, lengths: Sequence[int] = (9,), *, seed: int = 0) -> dict[str, torch.Tensor]:
    """A left-padded batch: row i has an image of its own (where the model sees) and ``lengths[i]`` text tokens.

    Row i depends on ``seed + i`` and its length alone, so a row can be had by itself.
    """
    kind = model.config.model_type
    rows, pixels = [], []
    for i, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(seed + i)
        text = torch.randint(3, 110, (length,), generator=generator).tolist()
        tokens = 14 if kind == "llava_next" else 4
        image = [] if kind in ("llama", "qwen3") else [VISION_START, *[IMAGE] * tokens, VISION_END]
        rows.append([*text[: length // 2], *image, *text[length // 2 :]])
        size = 16 if kind in ("internvl", "idefics3", "smolvlm", "gemma3") else 8
        pixels.append(torch.randn(3, size, size, generator=generator))
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    inputs: dict[str, torch.Tensor] = {"input_ids": ids, "attention_mask": mask}
    if kind in ("llama", "qwen3"):
        return inputs
    stacked = torch.stack(pixels).to(model.dtype)
    if kind in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        # 16 patches of 4 × 4 pixels over two frames, of which 2 × 2 are merged: four image tokens.
        patches = [torch.randn(16, 96, generator=torch.Generator().manual_seed(seed + i)) for i in range(len(rows))]
        inputs["pixel_values"] = torch.cat(patches).to(model.dtype)
        inputs["image_grid_thw"] = torch.tensor([[1, 4, 4]] * len(rows))
        inputs["mm_token_type_ids"] = (ids == IMAGE).long()
    elif kind in ("idefics3", "smolvlm"):
        inputs["pixel_values"] = stacked[:, None]
        inputs["pixel_attention_mask"] = torch.ones(len(rows), 1, 16, 16, dtype=torch.long)
    elif kind == "llava_next":
        # An overview and two tiles: of each, four tokens, and one for the end of each row of tiles.
        inputs["pixel_values"] = stacked[:, None].expand(-1, 3, -1, -1, -1)
        inputs["image_sizes"] = torch.tensor([[8, 16]] * len(rows))
    else:
        inputs["pixel_values"] = stacked
    if kind == "gemma3":
        inputs["token_type_ids"] = (ids == IMAGE).long()
    return inputs


def byte_tokenizer(special: Sequence[str], template: str, **options: Any) -> PreTrainedTokenizerFast:
    """One token for each byte, after ``<pad>`` (0), ``<|end|>`` (1, the end of sequence) and ``special``."""
    ours = ["<pad>", "<|end|>", *special]
    vocabulary = {token: i for i, token in enumerate([*ours, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<|end|>",
        additional_special_tokens=list(special),
        chat_template=template,
        **options,
    )


def tiny_checkpoint(family: str, folder: str | Path, *, seed: int = 0) -> Path:
    """Save a tiny model with a byte-level tokenizer, and for ``llava`` a processor, as ``from_pretrained`` loads them.

    Args:
        family: ``llava`` or ``llama``.
    """
    if family not in ("llava", "llama"):
        raise ModelError(unknown_name("tiny checkpoint", family, ("llava", "llama")))
    tokenizer = byte_tokenizer(["<s>", "<image>"], _TEMPLATE, bos_token="<s>", padding_side="left")
    tokenizer.image_token = "<image>"
    tokenizer.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    config = TINY[family]()
    text = config.text_config if family == "llava" else config
    text.vocab_size = len(tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family == "llava":
            config.image_token_index = tokenizer.image_token_id
            model = AutoModelForImageTextToText.from_config(config)
        else:
            model = AutoModelForCausalLM.from_config(config)
    model.generation_config.update(eos_token_id=1, pad_token_id=0, bos_token_id=2)
    model.save_pretrained(folder)
    if family == "llava":
        processor = LlavaProcessor(
            image_processor=CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}),
            tokenizer=tokenizer,
            patch_size=4,
            vision_feature_select_strategy="default",
            image_token="<image>",
            num_additional_image_tokens=1,
            chat_template=_TEMPLATE,
        )
        processor.save_pretrained(folder)
    else:
        tokenizer.save_pretrained(folder)
    return Path(folder)
