"""The reminder: a few soft-prompt vectors, the probe that is read after them, and where they came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from safety_reminder.config.guard import OTHER_THRESHOLDS
from safety_reminder.errors import PackError
from safety_reminder.guard import pack
from safety_reminder.guard.probe import Probe
from safety_reminder.models import VLM, fingerprint, token_vectors


@dataclass(frozen=True)
class SafetyReminder:
    """``vectors`` (k, hidden_size) float32 that follow the context, and the :class:`Probe` read at the last of them.

    The method: "The Safety Reminder", arXiv:2506.15734. Nothing of the base model is changed.

    Args:
        vectors: (k, hidden_size), finite.
        probe: of the same hidden size.
        base_model: what it was trained for (hub id, configured name or folder).
        fingerprint: of that model's weights, from :func:`safety_reminder.models.fingerprint`.
        interval, threshold, policy: how it was meant to be used; the defaults of ``GuardConfig`` for this pack.
        prompt_threshold, image_threshold: of the check before the first token, and in conversations with an image;
            None: ``threshold``.
        hold_back_checks: passed checks after which a token is shown, if it is held back; None: 1.
        calibration: how thresholds were chosen.
        training: data manifest and hashes, seed, losses.
    """

    vectors: torch.Tensor
    probe: Probe
    base_model: str = ""
    fingerprint: dict[str, Any] = field(default_factory=dict)
    interval: int = 16
    threshold: float = 0.5
    policy: str = "rewind"
    calibration: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    prompt_threshold: float | None = None
    image_threshold: float | None = None
    hold_back_checks: int | None = None

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or 0 in self.vectors.shape:
            raise PackError(f"a reminder has shape (k, hidden_size), got {tuple(self.vectors.shape)}")
        if self.probe.weight.shape[0] != self.vectors.shape[1]:
            raise PackError(
                f"the probe reads hidden states of size {self.probe.weight.shape[0]}, "
                f"but the reminder's vectors have size {self.vectors.shape[1]}"
            )
        if not torch.isfinite(self.vectors).all():
            raise PackError("the reminder holds values that are not finite")
        if not isinstance(checked := self.calibration.get("prompt_check", False), bool):
            raise PackError(f"calibration.prompt_check must be true or false, got {checked!r}")

    @classmethod
    def of_header(cls, vlm: VLM) -> SafetyReminder:
        """The embeddings of the assistant's header as vectors, with a probe that is still to be fitted.

        For a rival in the style of Any-Depth Alignment (arXiv:2510.18081).

        Raises:
            ModelError: the model's chat template has no header.
        """
        return cls.unfitted(vlm, token_vectors(vlm.model, vlm.assistant_header()))

    @classmethod
    def unfitted(cls, vlm: VLM, vectors: torch.Tensor) -> SafetyReminder:
        """Vectors (k, hidden_size) for this model, with a probe that is still to be fitted."""
        probe = Probe(torch.zeros(vectors.shape[1]))
        return cls(vectors.cpu(), probe, base_model=vlm.name, fingerprint=fingerprint(vlm.model))

    @property
    def length(self) -> int:
        """k, the number of vectors."""
        return self.vectors.shape[0]

    @property
    def hidden_size(self) -> int:
        return self.vectors.shape[1]

    @property
    def prompt_check(self) -> bool:
        """Whether the threshold was calibrated for a guard that also checks the bare prompt."""
        return self.calibration.get("prompt_check", False)

    @property
    def digest(self) -> str:
        """SHA-256 of what decides verdicts and answers: vectors, probe and thresholds, and what a guard takes over from
        the pack (interval, policy, prompt check, hold_back_checks)."""
        parts = [self.vectors, self.probe.weight, torch.tensor([self.probe.bias, self.threshold])]
        data = b"".join(part.detach().float().cpu().contiguous().numpy().tobytes() for part in parts)
        used: tuple[Any, ...] = (self.interval, self.policy, self.prompt_check)
        if self.other_thresholds:
            used += (sorted(self.other_thresholds.items()),)
        if self.hold_back_checks is not None:
            used += (self.hold_back_checks,)
        return hashlib.sha256(data + repr(used).encode()).hexdigest()

    @property
    def other_thresholds(self) -> dict[str, float]:
        """Those beside ``threshold`` that the pack has, by name."""
        found = {name: getattr(self, name) for name in OTHER_THRESHOLDS}
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, **hub_options: Any) -> SafetyReminder:
        """Load a pack from a folder, or from the hub by id (``revision=``, ``cache_dir=``, ``token=``).

        Raises:
            PackError: nothing there, or a file is missing, damaged or of a newer format.
        """
        return cls(**pack.read(pack.locate(name_or_folder, **hub_options)))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the pack (``reminder.safetensors``, ``config.json``, ``README.md``) to ``folder``, atomically."""
        return pack.write(self, Path(folder))

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Upload the pack to a hub repository, creating it if need be. Returns the commit's address."""
        return pack.upload(self, repo_id, private=private, token=token)
