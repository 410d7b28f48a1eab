"""Rows made ready: tokens, digests, splits, and the prefixes that are run once and kept."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file

from safety_reminder.errors import ConfigError, DataError, SafetyReminderError
from safety_reminder.models import VLM
from safety_reminder.models.prefix import Prefix
from safety_reminder.models.scoring import Script, width
from safety_reminder.run_files import write_json
from safety_reminder.training.config import TrainingConfig
from safety_reminder.training.examples import key
from safety_reminder.types import TrainingExample

log = logging.getLogger(__name__)
T = TypeVar("T")

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


def make_samples(
    vlm: VLM, examples: Sequence[TrainingExample], config: TrainingConfig, *, option: str = "training.on_error"
) -> list[Sample]:
    """Tokens and digests of every row. Each prompt is encoded here too, so that a broken image, or one that the model's
    processor does not take, is found before training.

    Args:
        option: what the user sets ``on_error`` with, for the message.

    Raises:
        DataError: an image that cannot be read, a conversation that the model does not take, or a safe row without an
            answer, unless ``on_error`` is ``skip``.
    """
    ids = lambda text: list(vlm.tokenizer(text, add_special_tokens=False)["input_ids"])  # noqa: E731
    end = vlm.end_of_turn()
    samples = []
    for number, example in enumerate(examples, 1):
        try:
            vlm.encode([example.conversation()])
            if example.safe and not example.chosen.strip():
                raise DataError("a safe row needs chosen, the answer that is to be left as it is")
            digest = key(example)
        except SafetyReminderError as error:
            message = f"training row {number}, {example.prompt[:60]!r}: {error}"
            if config.on_error == "stop":
                raise DataError(f"{message}; {option}=skip leaves such rows out") from error
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


def manifest(source: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """What goes into the pack about its data."""
    digest = hashlib.sha256()
    for sample in samples:
        example = sample.example
        fields = (sample.key, str(example.safe), str(example.harmful_prompt), example.chosen, example.rejected)
        digest.update("\x00".join(fields).encode())
    return {
        "source": source,
        "sha256": digest.hexdigest(),
        "safe": sum(s.example.safe for s in samples),
        "unsafe": sum(not s.example.safe for s in samples),
    }


def seen_as(key: str) -> str:
    """A key as a pack lists it, shortened: a pack shall stay small."""
    return key[:16]


def split(
    samples: Sequence[Sample],
    config: TrainingConfig,
    *,
    held_back: Sequence[str] = PARTS[1:],
    seen: Collection[str] = (),
) -> dict[str, list[Sample]]:
    """By what is asked, so that no prompt with its image is in two parts: training; validation, for early stopping;
    calibration, for the threshold; and test, for the report. Harmful and harmless prompts are shared out alike.

    Args:
        held_back: the parts that are wanted beside ``training``; others stay empty.
        seen: what a reminder was trained on already (:func:`seen_as`); it stays in the training part.

    Raises:
        ConfigError: training, validation or test would have one kind of row only, or calibration no safe one.
    """
    unsafe = {sample.key for sample in samples if not sample.example.safe}
    rng = random.Random(config.seed)
    shares = {part: getattr(config, part) for part in held_back}
    part_of: dict[str, str] = {}
    for kind in (unsafe, {sample.key for sample in samples} - unsafe):
        keys = sorted(key for key in kind if seen_as(key) not in seen)
        rng.shuffle(keys)
        start = 0
        for part, share in shares.items():
            count = max(1, round(share * len(kind))) if share else 0
            part_of |= dict.fromkeys(keys[start : start + count], part)
            start += count
    parts: dict[str, list[Sample]] = {part: [] for part in PARTS}
    for sample in samples:
        parts[part_of.get(sample.key, "training")].append(sample)
    behind = " that the reminder was not trained on" if seen else ""
    for part in ("training", *held_back):
        if part == "calibration" or (part in shares and not shares[part]):
            continue
        if len({sample.example.safe for sample in parts[part]}) < 2:
            raise ConfigError(f"the {part} split has only one kind of row; give more rows{behind}")
    if shares.get("calibration") and not any(sample.example.safe for sample in parts["calibration"]):
        raise ConfigError(
            f"the calibration split has no safe row; give more rows{behind}, or a larger training.calibration"
        )
    return parts


def write_splits(output: Path, parts: Mapping[str, Sequence[Sample]]) -> None:
    """Which rows are in which part, as :class:`Sample` keys, into ``output/splits.json``."""
    write_json(output / "splits.json", {part: sorted({s.key for s in rows}) for part, rows in parts.items()})


def slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def passes(found: Sequence[T], script: Callable[[T], Script], k: int, at_once: int) -> Iterator[Sequence[T]]:
    """What is to be run, at most ``at_once`` of it in a pass. Scripts of like length go together, since the shorter
    ones of a pass are filled up."""
    return slices(sorted(found, key=lambda one: width(script(one), k)), at_once)


class Prefixes:
    """The prefix of each sample, run once and kept as long as there is room."""

    def __init__(self, vlm: VLM, config: TrainingConfig, folder: Path) -> None:
        self.vlm, self.where, self.rows, self.on_error = vlm, config.keep, config.rows, config.on_error
        self.room, self.k = int(config.keep_gb * 1e9), config.k
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
        # As decoding will run it, whatever precision the step is trained in.
        with torch.autocast(self.vlm.model.device.type, enabled=False):
            ended = sample.answer[-1:] and sample.answer[-1] in self.vlm.eos_ids
            prefix = Prefix.read(self.vlm.model, inputs, sample.answer[:-1] if ended else sample.answer)
        if prefix.nbytes <= self.room:
            self.room -= prefix.nbytes
            self.kept[sample] = self._put_away(sample, prefix)
        return prefix

    def leave_out(self, sample: Sample, reason: str, advice: str = "") -> None:
        """What cannot be used stops the run; with ``on_error=skip`` it is named and left out."""
        message = f"{reason} on {sample.name}"
        if self.on_error == "stop":
            raise SafetyReminderError(f"{message}; {advice}remove the row, or leave such rows out with on_error=skip")
        log.warning("left out: %s", message)

    def batches(self, drawn: Sequence[tuple[Sample, list[Any]]]) -> Iterator[tuple[list[Sample], list[Any]]]:
        """Samples with their cuts → (samples, [(prefix, cut), ...]), in :func:`passes` of at most ``rows``. A prefix is
        looked up once for all its cuts, since it may have to be read from disk or run again; at most ``rows`` prefixes
        are held at a time."""
        for some in slices(drawn, self.rows):
            found = []
            for sample, cuts in some:
                prefix = self.of(sample)
                found += [(sample, prefix, cut) for cut in cuts]
            for part in passes(found, lambda row: row[2].script, self.k, self.rows):
                yield [sample for sample, _, _ in part], [(prefix, cut) for _, prefix, cut in part]

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
