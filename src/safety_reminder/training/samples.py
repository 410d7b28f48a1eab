"""Rows made ready: tokens, digests, splits, and the prefixes that are run once and kept."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from safety_reminder.errors import ConfigError, DataError, SafetyReminderError
from safety_reminder.guard.context import Prefix
from safety_reminder.models import VLM
from safety_reminder.training.config import TrainingConfig
from safety_reminder.training.examples import key
from safety_reminder.types import TrainingExample

log = logging.getLogger(__name__)
PARTS = ("training", "validation", "calibration", "test")


@dataclass(frozen=True, eq=False)
class Sample:
    """``answer``, ``refusal`` (as a whole answer) and ``correction`` (behind other text) in token ids; ``key``: what
    is asked, as a digest."""

    example: TrainingExample
    answer: tuple[int, ...]
    refusal: tuple[int, ...]
    correction: tuple[int, ...]
    key: str

    @property
    def name(self) -> str:
        """For messages: the prompt's beginning and the image."""
        image = f" (image {self.example.image})" if self.example.image is not None else ""
        return f"{self.example.prompt[:60]!r}{image}"


def make_samples(vlm: VLM, examples: Sequence[TrainingExample], config: TrainingConfig) -> list[Sample]:
    """Tokens and digests of every row; images are opened here, so that a broken one is found before training.

    Raises:
        DataError: an image that cannot be read, unless ``on_error`` is ``skip``.
    """
    ids = lambda text: list(vlm.tokenizer(text, add_special_tokens=False)["input_ids"])  # noqa: E731
    end = min(vlm.eos_ids)
    samples = []
    for number, example in enumerate(examples, 1):
        try:
            digest = key(example)
        except (OSError, SyntaxError, ValueError) as error:
            message = f"training row {number}, {example.prompt[:60]!r}: cannot read the image {example.image}: {error}"
            if config.on_error == "stop":
                raise DataError(f"{message}; training.on_error=skip leaves such rows out") from error
            log.warning("left out: %s", message)
            continue
        answer = [*ids(example.answer), end] if example.answer else []
        samples.append(
            Sample(
                example,
                tuple(answer[: config.answer_tokens]),
                refusal=tuple([*ids(example.chosen), end][: config.target_tokens]),
                correction=tuple([*ids(" " + example.chosen.lstrip()), end][: config.target_tokens]),
                key=digest,
            )
        )
    return samples


def split(samples: Sequence[Sample], config: TrainingConfig) -> dict[str, list[Sample]]:
    """By what is asked, so that no prompt with its image is in two parts: training; validation, for early stopping;
    calibration, for the threshold; and test, for the report. Harmful and harmless prompts are shared out alike.

    Raises:
        ConfigError: training or validation would have one kind of row only, or calibration no safe one.
    """
    unsafe = {sample.key for sample in samples if not sample.example.safe}
    rng = random.Random(config.seed)
    shares = {"validation": config.validation, "calibration": config.calibration, "test": config.test}
    part_of: dict[str, str] = {}
    for kind in (unsafe, {sample.key for sample in samples} - unsafe):
        keys = sorted(kind)
        rng.shuffle(keys)
        start = 0
        for part, share in shares.items():
            count = max(1, round(share * len(keys))) if share else 0
            part_of |= dict.fromkeys(keys[start : start + count], part)
            start += count
    parts: dict[str, list[Sample]] = {part: [] for part in PARTS}
    for sample in samples:
        parts[part_of.get(sample.key, "training")].append(sample)
    for part in ("training", "validation"):
        if len({sample.example.safe for sample in parts[part]}) < 2:
            raise ConfigError(f"the {part} split has only one kind of row; give more rows")
    if config.calibration and not any(sample.example.safe for sample in parts["calibration"]):
        raise ConfigError("the calibration split has no safe row; give more rows, or a larger training.calibration")
    return parts


class Prefixes:
    """The prefix of each sample, run once and kept as long as there is room."""

    def __init__(self, vlm: VLM, config: TrainingConfig, folder: Path) -> None:
        self.vlm, self.where = vlm, config.keep
        self.room = int(config.keep_gb * 1e9)
        self.folder = folder
        self.kept: dict[Sample, Prefix | Path] = {}

    def of(self, sample: Sample) -> Prefix:
        """Raises: SafetyReminderError: the model cannot take the sample; says which."""
        kept = self.kept.get(sample)
        if isinstance(kept, Prefix):
            return kept
        if isinstance(kept, Path):
            return _load(kept, self.vlm.model.device)
        try:
            inputs = self.vlm.encode([sample.example.conversation()])
        except SafetyReminderError as error:
            raise type(error)(f"training row {sample.name}: {error}") from error
        prefix = Prefix.read(self.vlm.model, inputs, sample.answer[:-1])
        if prefix.nbytes <= self.room:
            self.room -= prefix.nbytes
            self.kept[sample] = self._put_away(sample, prefix)
        return prefix

    def _put_away(self, sample: Sample, prefix: Prefix) -> Prefix | Path:
        if self.where == "cpu":
            return prefix.to("cpu", pinned=torch.cuda.is_available())
        if self.where == "disk":
            self.folder.mkdir(parents=True, exist_ok=True)
            return _save(prefix, self.folder / f"{len(self.kept)}.safetensors")
        return prefix

    def forget(self) -> None:
        """Remove what was put on disk."""
        for kept in self.kept.values():
            if isinstance(kept, Path):
                kept.unlink(missing_ok=True)
        self.kept.clear()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _save(prefix: Prefix, path: Path) -> Path:
    tensors = {f"keys.{i}": t.contiguous() for i, t in enumerate(prefix.keys)}
    tensors |= {f"values.{i}": t.contiguous() for i, t in enumerate(prefix.values)}
    tensors["position"] = prefix.position.contiguous()
    tensors["tokens"] = torch.tensor([prefix.prompt_length, *prefix.tokens])
    save_file(tensors, path)
    return path


def _load(path: Path, device: torch.device) -> Prefix:
    tensors = load_file(path, device=str(device))
    layers = sum(name.startswith("keys.") for name in tensors)
    length, *tokens = tensors["tokens"].tolist()
    return Prefix(
        tuple(tensors[f"keys.{i}"] for i in range(layers)),
        tuple(tensors[f"values.{i}"] for i in range(layers)),
        tensors["position"],
        tuple(tokens),
        length,
    )
