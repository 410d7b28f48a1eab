"""The models that the paper evaluates, by the names that its repository (github.com/tpy001/Safety-Reminder) has for
them: ``model=llava_7b``, and ``model=llava_7b_SAPT`` for one with its reminder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SAPT = "_SAPT"  # safety-activation prompt tuning, as the method is called there


@dataclass(frozen=True)
class Preset:
    """A model of the paper. ``hub_id``: of the checkpoint in transformers' own format; ``pixels``: between how many
    its images are scaled, where its processor keeps to such limits."""

    hub_id: str
    dtype: str
    pixels: tuple[int, int] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of a command that it stands for, beside ``model``."""
        fewest, most = self.pixels or (None, None)
        return {"dtype": self.dtype, "reading.min_pixels": fewest, "reading.max_pixels": most}


_DEEPSEEK = Preset("deepseek-community/deepseek-vl-7b-chat", "bfloat16")
PRESETS = {
    "llava_7b": Preset("llava-hf/llava-1.5-7b-hf", "float16"),
    # 16 and 256 squares of 28 pixels, each of which is a token
    "Qwen2VL": Preset("Qwen/Qwen2-VL-7B-Instruct", "bfloat16", (16 * 28 * 28, 256 * 28 * 28)),
    "deepseek_vl_7b": _DEEPSEEK,
    "DeepSeekVL": _DEEPSEEK,  # its name in the configurations there
}

# What ``train model=NAME_SAPT`` begins from: the published settings, and those that the published code adds.
PUBLISHED_TRAINING: Mapping[str, Any] = {
    "data.harmful": 256,
    "data.benign": 256,
    "training.k": 4,
    "training.epochs": 50,
    "training.batch_size": 4,
    "training.cuts": 1,
    "training.learning_rate": 1e-4,
    "training.warmup_ratio": 0.0,
    "training.weight_decay": 0.01,
    "training.empty_prob": 1 / 3,
    "training.min_chars": 20,
    "training.target_tokens": 32,
    "training.probe_weight": 0.05,
    "training.probe": "pca",
    "training.pca_components": 4,
    "training.interval": 16,
    "training.threshold": 0.8,  # they say: unsafe below p_safe 0.2
    "training.policy": "continue",
}

# Endings of other names there, which are defences here.
_DEFENSES = {"_PT": "prompt_tuning", "_DRO": "dro", "_blue_suffix": "bluesuffix", "_self_reminder": "self_reminder"}


def preset_of(name: str) -> tuple[Preset, bool] | None:
    """The preset that ``name`` is, and whether it is that model with its reminder; None if it is none."""
    preset = PRESETS.get(name.removesuffix(SAPT))
    return (preset, name.endswith(SAPT)) if preset else None


def preset_names() -> list[str]:
    return [f"{name}{ending}" for name in PRESETS for ending in ("", SAPT)]


def said_otherwise(name: str) -> str | None:
    """What to give in the place of a name that the paper's repository has for a model, where only options of a command
    may say it, or a defence; None for any other name."""
    if found := preset_of(name):
        preset, _ = found
        return (
            f"{name!r} is a name for model= of a command; here give {preset.hub_id!r} with dtype={preset.dtype!r}"
            + (f", min_pixels={preset.pixels[0]}, max_pixels={preset.pixels[1]}" if preset.pixels else "")
        )
    for ending, defense in _DEFENSES.items():
        if name.endswith(ending) and name.removesuffix(ending) in (*PRESETS, "llava"):
            return (
                f"{name!r} is a model with a defence: give the model itself ({', '.join(PRESETS)}) and, in a suite, "
                f"defense: {defense} (docs/from-the-paper.md)"
            )
    return None
