"""What the benchmarks count."""

from __future__ import annotations

import importlib
from pathlib import Path

from checkpoints import tiny_vlm


def test_only_a_refusal_that_is_written_before_the_end_counts_as_one(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    turned = importlib.import_module("reminder").turned
    vlm = tiny_vlm()
    ids = lambda text: vlm.tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    refusal, end = ids("I'm sorry, but I can't help with that."), vlm.end_of_turn()
    assert turned(vlm, refusal)
    assert turned(vlm, [*refusal, end, *ids("Then more.")])
    assert not turned(vlm, [end, *refusal])
    assert not turned(vlm, [end])
    assert not turned(vlm, ids("2. Mix the dough."))
