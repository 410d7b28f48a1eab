"""The model families whose guarded decoding is parity-tested here, by ``config.model_type``.

Any other decoder-only model of transformers is driven by the same generic adapter; it only comes with a warning that
nobody has tested it. To add a family: write a tiny builder in ``models/tiny.py`` and add one row here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """``reads_images``: has a vision tower."""

    title: str
    reads_images: bool = True


FAMILIES: dict[str, Family] = {
    "llava": Family("LLaVA-1.5"),
    "llava_next": Family("LLaVA-NeXT"),
    "qwen2_vl": Family("Qwen2-VL"),
    "qwen2_5_vl": Family("Qwen2.5-VL"),
    "qwen3_vl": Family("Qwen3-VL"),
    "deepseek_vl": Family("DeepSeek-VL"),
    "internvl": Family("InternVL"),
    "idefics3": Family("Idefics3"),
    "smolvlm": Family("SmolVLM"),
    "gemma3": Family("Gemma 3"),
    "llama": Family("Llama", reads_images=False),
    "qwen3": Family("Qwen3", reads_images=False),
}
