"""The options of training, validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from safety_reminder.config.guard import Policy
from safety_reminder.errors import ConfigError, unknown_name

INIT_TEXT = "Refuse if partial output is unsafe; else, continue helpfully."


@dataclass(frozen=True)
class TrainingConfig:
    """See ``config/train.yaml`` for what each option does; the defaults are the same (a test compares them)."""

    k: int = 4
    init: str = "text"
    init_text: str = INIT_TEXT
    epochs: int = 4
    batch: int = 8
    cuts: int = 4
    lr: float = 0.01
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    patience: int = 0
    empty_prob: float = 1 / 3
    min_tokens: int = 1
    target_tokens: int = 32
    answer_tokens: int = 96
    probe_weight: float = 0.05
    kl_weight: float = 0.0
    repeat_prob: float = 0.0
    unheeded_prob: float = 0.0
    correction_prob: float = 0.0
    probe: str = "logistic"
    pca: int = 32
    refit: bool = True
    rivals: bool = False
    validation: float = 0.1
    calibration: float = 0.15
    test: float = 0.1
    budget: float = 0.005
    prompt_check: bool | None = None
    interval: int = 16
    policy: str = "rewind"
    rows: int = 16
    keep: str = "device"
    keep_gb: float = 8.0
    mixed_precision: str = "none"
    on_error: str = "stop"
    log_with: str = "tensorboard"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "k",
            "epochs",
            "batch",
            "cuts",
            "rows",
            "min_tokens",
            "target_tokens",
            "answer_tokens",
            "interval",
            "pca",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("validation", "budget"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"training.{name} is a share between 0 and 1, got {getattr(self, name)}")
        for name in ("calibration", "test"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"training.{name} is a share between 0 and 1, got {getattr(self, name)}")
        if self.validation + self.calibration + self.test >= 1:
            raise ConfigError("training.validation, training.calibration and training.test leave nothing to train on")
        for name in ("empty_prob", "repeat_prob", "unheeded_prob", "correction_prob", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"training.{name} is a probability or share, got {getattr(self, name)}")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"training.{name} must be positive, got {getattr(self, name)}")
        for name in ("keep_gb", "patience", "probe_weight", "kl_weight", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"training.{name} must not be negative, got {getattr(self, name)}")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ConfigError(unknown_name(f"training.{name}", getattr(self, name), known))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Checked for names and types, as they come from a file or a command line."""
        known = get_type_hints(cls)
        for name, value in values.items():
            if name not in known:
                raise ConfigError(unknown_name("training option", name, known))
            kind = known[name]
            fits = isinstance(value, int | float if kind is float else kind)
            if not fits or (isinstance(value, bool) and kind in (int, float)):
                shown = kind.__name__ if isinstance(kind, type) else str(kind)
                raise ConfigError(f"training.{name} must be of type {shown}, got {value!r}")
        return cls(**values)


_CHOICES: dict[str, tuple[str, ...]] = {
    "init": ("text", "random"),
    "probe": ("logistic", "pca"),
    "policy": get_args(Policy),
    "keep": ("device", "cpu", "disk"),
    "mixed_precision": ("none", "bf16"),
    "on_error": ("stop", "skip"),
}
