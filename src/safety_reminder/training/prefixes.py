"""Prefixes of samples, run once and kept on the device, in the host's memory or on disk; and passes over what
follows."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from safety_reminder.errors import SafetyReminderError
from safety_reminder.models import VLM
from safety_reminder.models.prefix import Prefix
from safety_reminder.models.scoring import Script, width
from safety_reminder.training.config import TrainingConfig
from safety_reminder.training.samples import Sample

log = logging.getLogger(__name__)
T = TypeVar("T")


def slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """``items`` in their order, ``size`` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def passes(items: Sequence[T], script: Callable[[T], Script], k: int, at_once: int) -> Iterator[Sequence[T]]:
    """The items, at most ``at_once`` in each pass. Scripts of similar length go together, since the shorter ones of a
    pass are padded."""
    return slices(sorted(items, key=lambda item: width(script(item), k)), at_once)


class Prefixes:
    """The prefix of each sample, run once and kept as long as there is room. ``runs`` and ``seconds``: how many were
    run, and how long that took; ``full``: one of them was not kept."""

    def __init__(self, vlm: VLM, config: TrainingConfig, folder: Path) -> None:
        self.vlm, self.on_error, self.k = vlm, config.on_error, config.k
        self.micro_batch_size = config.micro_batch_size
        self.where, self.room = config.prefix_cache, int(config.prefix_cache_gb * 1e9)
        self.folder = folder
        self.kept: dict[Sample, Prefix | Path] = {}
        self.runs, self.seconds, self.full = 0, 0.0, False

    def of(self, sample: Sample) -> Prefix:
        """Prompt and answer of ``sample``, the token that ends its turn left out.

        Raises:
            SafetyReminderError: the model cannot take the sample; says which.
        """
        kept = self.kept.get(sample)
        if isinstance(kept, Prefix):
            return kept
        if isinstance(kept, Path):
            return _load(kept, self.vlm.model.device)
        began = perf_counter()
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
        else:
            self.full = True
        self.runs, self.seconds = self.runs + 1, self.seconds + perf_counter() - began
        return prefix

    def leave_out(self, sample: Sample, reason: str, advice: str = "") -> None:
        """A sample that cannot be used stops the run; with ``on_error=skip`` it is named and left out."""
        message = f"{reason} on {sample.name}"
        if self.on_error == "stop":
            raise SafetyReminderError(f"{message}; {advice}remove the row, or leave such rows out with on_error=skip")
        log.warning("left out: %s", message)

    def batches(self, drawn: Sequence[tuple[Sample, list[Any]]]) -> Iterator[tuple[list[Sample], list[Any]]]:
        """Samples with their cuts → (samples, [(prefix, cut), ...]), in :func:`passes` of at most so many cuts.
        A prefix is looked up once for all its cuts, since it may have to be read from disk or run again; at most
        ``micro_batch_size`` prefixes are held at a time."""
        for rows in slices(drawn, self.micro_batch_size):
            places = []
            for sample, cuts in rows:
                prefix = self.of(sample)
                places += [(sample, prefix, cut) for cut in cuts]
            for part in passes(places, lambda row: row[2].script, self.k, self.micro_batch_size):
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
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # a full disk, for example
        path.unlink(missing_ok=True)
        why = f"{error}; make room, or choose training.prefix_cache=cpu"
        raise OSError(errno.EIO, why, str(path)) from error
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
