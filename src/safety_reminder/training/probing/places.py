"""Probes at several places, fitted to the training rows and read on the test rows: the reminder's, and its rivals'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from safety_reminder.guard import Probe
from safety_reminder.training.config import TrainingConfig
from safety_reminder.training.prefixes import Prefixes
from safety_reminder.training.probing.readings import Readings, Where, read
from safety_reminder.training.probing.regression import fit_probe
from safety_reminder.training.samples import Sample

RIVALS: tuple[Where, ...] = ("header", "last")


@dataclass(frozen=True)
class Fitted:
    """A probe, how it was fitted, and what it is judged on (None without test rows)."""

    probe: Probe
    how: dict[str, Any]
    test: Readings | None


def fit_at(
    where: Where,
    prefixes: Prefixes,
    parts: Mapping[str, Sequence[Sample]],
    config: TrainingConfig,
    *,
    vectors: torch.Tensor,
    interval: int,
) -> Fitted:
    """The probe that reads ``where`` says, at every check of every answer."""
    fitting = read(
        prefixes,
        parts["training"],
        vectors,
        interval,
        where=where,
        trained_with=config if where == "reminder" else None,
        description=f"reading training rows, {where}",
    )
    probe, how = fit_probe(
        fitting.hidden, fitting.unsafe, fitting.groups, kind=config.probe, components=config.pca_components
    )
    return Fitted(probe, how, read_test(where, prefixes, parts, vectors=vectors, interval=interval))


def read_test(
    where: Where,
    prefixes: Prefixes,
    parts: Mapping[str, Sequence[Sample]],
    *,
    vectors: torch.Tensor,
    interval: int,
) -> Readings | None:
    if not parts["test"]:
        return None
    return read(prefixes, parts["test"], vectors, interval, where=where, description=f"testing, {where}")
