"""The model families whose guarded decoding is tested here: one row each.

A row names its tiny model (``models/tiny_families/``), which the tests run the self-check on. A model of any other type
is driven by the same generic adapter, after it has passed the self-check when it was first loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from safety_reminder.models.tiny_families.base import Tiny


@dataclass(frozen=True)
class Family:
    """One row.

    Args:
        title: what people call it.
        where: its tiny model, ``MODULE:NAME`` in ``models/tiny_families``.
        reads_images: has a vision tower.
        model_type: ``config.model_type``, where the row is called otherwise: a variant of another row's.
        text: the type of its text model, where that is another than its own.
        refused: it cannot be guarded; a part of the sentence that says so.
        held_to_all: the tests hold it to every invariant, and not to the self-check alone.
    """

    title: str
    where: str = ""
    reads_images: bool = True
    model_type: str = ""
    text: str = ""
    refused: str = ""
    held_to_all: bool = False

    @property
    def tiny(self) -> Tiny:
        module, name = self.where.split(":")
        return getattr(importlib.import_module(f"safety_reminder.models.tiny_families.{module}"), name)


def _text(title: str, name: str, **more: bool | str) -> Family:
    return Family(title, f"text:{name}", reads_images=False, **more)  # type: ignore[arg-type]


FAMILIES: dict[str, Family] = {
    "llava": Family("LLaVA-1.5", "llava:LLAVA", text="llama", held_to_all=True),
    "pixtral": Family("Pixtral, as LLaVA", "llava:PIXTRAL", text="mistral", model_type="llava"),
    "llava_next": Family("LLaVA-NeXT", "llava:LLAVA_NEXT", text="llama", held_to_all=True),
    "llava_onevision": Family("LLaVA-OneVision", "llava:LLAVA_ONEVISION", text="qwen2"),
    "vipllava": Family("VipLlava", "llava:VIPLLAVA", text="llama"),
    "mistral3": Family("Mistral Small 3.1", "llava:MISTRAL3", text="mistral"),
    "aya_vision": Family("Aya Vision", "llava:AYA_VISION", text="cohere2"),
    "cohere2_vision": Family("Command A Vision", "llava:COHERE2_VISION", text="cohere2"),
    "deepseek_vl": Family("DeepSeek-VL", "llava:DEEPSEEK_VL", text="llama", held_to_all=True),
    "internvl": Family("InternVL3", "llava:INTERNVL", text="qwen2", held_to_all=True),
    "internvl3_5": Family("InternVL3.5", "llava:INTERNVL3_5", text="qwen3", model_type="internvl"),
    "idefics2": Family("Idefics2", "llava:IDEFICS2", text="mistral"),
    "idefics3": Family("Idefics3", "llava:IDEFICS3", text="llama", held_to_all=True),
    "smolvlm": Family("SmolVLM", "llava:SMOLVLM", text="llama", held_to_all=True),
    "llama4": Family("Llama 4", "llava:LLAMA4", text="llama4_text"),
    "qwen2_vl": Family("Qwen2-VL", "qwen:QWEN2_VL", text="qwen2_vl_text", held_to_all=True),
    "qwen2_5_vl": Family("Qwen2.5-VL", "qwen:QWEN2_5_VL", text="qwen2_5_vl_text", held_to_all=True),
    "qwen3_vl": Family("Qwen3-VL", "qwen:QWEN3_VL", text="qwen3_vl_text", held_to_all=True),
    "qwen3_vl_moe": Family("Qwen3-VL-MoE", "qwen:QWEN3_VL_MOE", text="qwen3_vl_moe_text"),
    "glm4v": Family("GLM-4.1V", "qwen:GLM4V", text="glm4v_text"),
    "glm46v": Family("GLM-4.6V", "qwen:GLM46V", text="glm4v_text"),
    "gemma3": Family("Gemma 3", "gemma:GEMMA3", text="gemma3_text", held_to_all=True),
    "gemma4": Family("Gemma 4", "gemma:GEMMA4", text="gemma4_text"),
    "gemma4_per_layer": Family(
        "Gemma 4 with per-layer embeddings", "gemma:GEMMA4_PER_LAYER", text="gemma4_text", model_type="gemma4"
    ),
    "paligemma": Family("PaliGemma", "gemma:PALIGEMMA", text="gemma"),
    "paligemma2": Family("PaliGemma 2", "gemma:PALIGEMMA2", text="gemma2", model_type="paligemma"),
    "mllama": Family("Llama 3.2 Vision", "gemma:MLLAMA", text="mllama_text_model"),
    "lfm2_vl": Family("LFM2-VL", "gemma:LFM2_VL", text="lfm2"),
    "phi4_multimodal": Family("Phi-4-multimodal", "gemma:PHI4_MULTIMODAL"),
    "llama": _text("Llama", "LLAMA", held_to_all=True),
    "llama4_text": _text("Llama 4, text", "LLAMA4"),
    "qwen2": _text("Qwen2 and Qwen2.5", "QWEN2"),
    "qwen3": _text("Qwen3", "QWEN3", held_to_all=True),
    "qwen3_moe": _text("Qwen3-MoE", "QWEN3_MOE"),
    "mistral": _text("Mistral", "MISTRAL"),
    "mixtral": _text("Mixtral", "MIXTRAL"),
    "gemma": _text("Gemma", "GEMMA"),
    "gemma2": _text("Gemma 2", "GEMMA2"),
    "gemma3_text": _text("Gemma 3, text", "GEMMA3"),
    "gemma3n_text": _text("Gemma 3n, text", "GEMMA3N"),
    "gpt_oss": _text("gpt-oss", "GPT_OSS"),
    "phi3": _text("Phi-3 and Phi-4", "PHI3"),
    "deepseek_v3": _text("DeepSeek-V3", "DEEPSEEK_V3"),
    "cohere2": _text("Command R7B", "COHERE2"),
    "olmo2": _text("OLMo 2", "OLMO2"),
    "granite": _text("Granite", "GRANITE"),
    "glm4": _text("GLM-4", "GLM4"),
    "smollm3": _text("SmolLM3", "SMOLLM3"),
    "lfm2": _text("LFM2", "LFM2"),
    "mamba": _text("Mamba", "MAMBA", refused="keeps a recurrent state"),
    "rwkv": _text("RWKV", "RWKV", refused="keeps a recurrent state"),
    "qwen3_next": _text("Qwen3-Next", "QWEN3_NEXT", refused="keeps a recurrent state"),
    "jamba": _text("Jamba", "JAMBA", refused="keeps a recurrent state"),
    "falcon_h1": _text("Falcon-H1", "FALCON_H1", refused="keeps a recurrent state"),
    "bamba": _text("Bamba", "BAMBA", refused="keeps a recurrent state"),
    "recurrent_gemma": _text("RecurrentGemma", "RECURRENT_GEMMA", refused="keeps a recurrent state"),
}


def family_of(model_type: str) -> Family | None:
    """The first row of that ``config.model_type`` that can be guarded."""
    return next((family for kind, family in _guarded() if kind == model_type), None)


def is_tested(config: PreTrainedConfig) -> bool:
    """Whether a row has both the type of the model and that of its text model: LLaVA may stand on any."""
    text = config.get_text_config(decoder=True).model_type
    return any(kind == config.model_type and (family.text or kind) == text for kind, family in _guarded())


def _guarded() -> Iterator[tuple[str, Family]]:
    return ((family.model_type or name, family) for name, family in FAMILIES.items() if not family.refused)
