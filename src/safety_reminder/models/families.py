"""The model families whose guarded decoding is tested here: one row each.

A row names its tiny model (``models/tiny_families/``), which the tests run the self-check on. A model of any other type
is driven by the same generic adapter, after it has passed the self-check when it was first loaded.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safety_reminder.models.tiny_families.base import Tiny


@dataclass(frozen=True)
class Family:
    """One row.

    Args:
        title: what people call it.
        where: its tiny model, ``MODULE:NAME`` in ``models/tiny_families``.
        reads_images: has a vision tower.
        model_type: ``config.model_type``, where the row is called otherwise: a variant of another row's.
        refused: it cannot be guarded; a part of the sentence that says so.
        held_to_all: the tests hold it to every invariant, and not to the self-check alone.
    """

    title: str
    where: str = ""
    reads_images: bool = True
    model_type: str = ""
    refused: str = ""
    held_to_all: bool = False

    @property
    def tiny(self) -> Tiny:
        module, name = self.where.split(":")
        return getattr(importlib.import_module(f"safety_reminder.models.tiny_families.{module}"), name)


def _text(title: str, name: str, **more: bool | str) -> Family:
    return Family(title, f"text:{name}", reads_images=False, **more)  # type: ignore[arg-type]


FAMILIES: dict[str, Family] = {
    "llava": Family("LLaVA-1.5", "llava:LLAVA", held_to_all=True),
    "pixtral": Family("Pixtral, as LLaVA", "llava:PIXTRAL", model_type="llava"),
    "llava_next": Family("LLaVA-NeXT", "llava:LLAVA_NEXT", held_to_all=True),
    "llava_onevision": Family("LLaVA-OneVision", "llava:LLAVA_ONEVISION"),
    "vipllava": Family("VipLlava", "llava:VIPLLAVA"),
    "mistral3": Family("Mistral Small 3.1", "llava:MISTRAL3"),
    "aya_vision": Family("Aya Vision", "llava:AYA_VISION"),
    "cohere2_vision": Family("Command A Vision", "llava:COHERE2_VISION"),
    "deepseek_vl": Family("DeepSeek-VL", "llava:DEEPSEEK_VL", held_to_all=True),
    "internvl": Family("InternVL3", "llava:INTERNVL", held_to_all=True),
    "internvl3_5": Family("InternVL3.5", "llava:INTERNVL3_5", model_type="internvl"),
    "idefics2": Family("Idefics2", "llava:IDEFICS2"),
    "idefics3": Family("Idefics3", "llava:IDEFICS3", held_to_all=True),
    "smolvlm": Family("SmolVLM", "llava:SMOLVLM", held_to_all=True),
    "llama4": Family("Llama 4", "llava:LLAMA4"),
    "qwen2_vl": Family("Qwen2-VL", "qwen:QWEN2_VL", held_to_all=True),
    "qwen2_5_vl": Family("Qwen2.5-VL", "qwen:QWEN2_5_VL", held_to_all=True),
    "qwen3_vl": Family("Qwen3-VL", "qwen:QWEN3_VL", held_to_all=True),
    "qwen3_vl_moe": Family("Qwen3-VL-MoE", "qwen:QWEN3_VL_MOE"),
    "glm4v": Family("GLM-4.1V", "qwen:GLM4V"),
    "glm46v": Family("GLM-4.6V", "qwen:GLM46V"),
    "gemma3": Family("Gemma 3", "gemma:GEMMA3", held_to_all=True),
    "gemma4": Family("Gemma 4", "gemma:GEMMA4"),
    "gemma4_per_layer": Family("Gemma 4 with per-layer embeddings", "gemma:GEMMA4_PER_LAYER", model_type="gemma4"),
    "paligemma": Family("PaliGemma", "gemma:PALIGEMMA"),
    "paligemma2": Family("PaliGemma 2", "gemma:PALIGEMMA2", model_type="paligemma"),
    "mllama": Family("Llama 3.2 Vision", "gemma:MLLAMA"),
    "lfm2_vl": Family("LFM2-VL", "gemma:LFM2_VL"),
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


def tested(model_type: str) -> Family | None:
    """The first row of that ``config.model_type`` that can be guarded."""
    rows = (family for name, family in FAMILIES.items() if (family.model_type or name) == model_type)
    return next((family for family in rows if not family.refused), None)
