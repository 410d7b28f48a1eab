"""Prefixes that are kept: where, for how long, and what of the answer is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoints import tiny_vlm
from safety_reminder.data.training_sets.loading import user
from safety_reminder.models.prefix import Prefix
from safety_reminder.training import TrainingConfig
from safety_reminder.training.prefixes import Prefixes
from safety_reminder.training.samples import Sample, make_samples
from safety_reminder.types import TrainingExample


def made(folder: Path, *, count: int = 1, **options: Any) -> tuple[Prefixes, list[Sample]]:
    config = TrainingConfig(answer_tokens=6).with_changes(**options)
    rows = [TrainingExample(user(f"Good {n}?"), True, "k" * (n + 1)) for n in range(count)]
    return Prefixes(tiny_vlm(), config, folder / "prefixes"), make_samples(tiny_vlm(), rows, config)


def test_the_token_that_ends_the_turn_is_not_run_since_nothing_comes_after_it(tmp_path):
    prefixes, samples = made(tmp_path, count=8)
    ended = [sample for sample in samples if sample.answer[-1] in tiny_vlm().eos_ids]
    cut_off = [sample for sample in samples if sample not in ended]
    assert ended
    assert cut_off
    for sample in samples:
        assert prefixes.of(sample).tokens[1:] == sample.answer[: -1 if sample in ended else None]


@pytest.mark.parametrize("cache", ["device", "cpu", "disk"])
def test_a_kept_prefix_is_what_was_read(tmp_path, monkeypatch, cache):
    prefixes, [sample] = made(tmp_path, prefix_cache=cache)
    read = prefixes.of(sample)
    monkeypatch.setattr(Prefix, "read", lambda *arguments: 1 / 0)
    kept = prefixes.of(sample)
    assert (kept.tokens, kept.prompt_length) == (read.tokens, read.prompt_length)
    for one, two in zip(
        (*read.keys, *read.values, read.position), (*kept.keys, *kept.values, kept.position), strict=True
    ):
        assert torch.equal(one, two)
    assert (tmp_path / "prefixes").is_dir() is (cache == "disk")
    prefixes.forget()
    assert not (tmp_path / "prefixes").exists()


def test_what_there_is_no_room_for_is_read_again(tmp_path, monkeypatch):
    prefixes, samples = made(tmp_path, count=2)
    prefixes.room = prefixes.of(samples[0]).nbytes - 1
    reads, read = [], Prefix.read.__func__
    monkeypatch.setattr(Prefix, "read", classmethod(lambda *arguments: reads.append(None) or read(*arguments)))
    for sample in (*samples, *samples):
        prefixes.of(sample)
    assert len(reads) == 2
