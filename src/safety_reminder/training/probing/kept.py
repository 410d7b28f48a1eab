"""Readings that are kept on disk part by part, so that reading goes on where it broke off."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from safety_reminder.errors import ConfigError
from safety_reminder.run_files import write_bytes
from safety_reminder.training.config import TrainingConfig
from safety_reminder.training.prefixes import Prefixes
from safety_reminder.training.probing.readings import Readings, read
from safety_reminder.training.samples import Sample

PART = 64  # samples in a file


def read_and_keep(
    folder: Path,
    prefixes: Prefixes,
    samples: Sequence[Sample],
    vectors: torch.Tensor,
    interval: int,
    *,
    trained_with: TrainingConfig | None = None,
) -> Readings:
    """As :func:`read`, in files of ``folder``. Whoever calls it with another configuration gives another folder.

    Raises:
        ConfigError: a file is damaged; names it.
    """
    parts = []
    for start in range(0, len(samples), PART):
        path = folder / f"{start:06d}.safetensors"
        if not path.is_file():
            own = samples[start : start + PART]
            what = f"reading rows {start + 1} to {start + len(own)} of {len(samples)}"
            found = read(prefixes, own, vectors, interval, trained_with=trained_with, description=what)
            _write(path, found, start)
        parts.append(_load(path))
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Readings(**joined, sources=tuple(sample.example.source for sample in samples))


def _write(path: Path, readings: Readings, first: int) -> None:
    further = torch.zeros_like(readings.unsafe) if readings.further is None else readings.further
    write_bytes(
        path,
        save(
            {
                "hidden": readings.hidden.contiguous(),
                "unsafe": readings.unsafe,
                "groups": readings.groups + first,
                "tokens": readings.tokens,
                "further": further,
            }
        ),
    )


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise ConfigError(f"{path} is damaged; remove it, and run the same command again") from error
