"""What the benchmarks count."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from checkpoints import tiny_vlm


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module


def test_figures_are_written_with_what_they_were_measured_with(benchmark_module, tmp_path, capsys):
    common = benchmark_module("common")
    options = common.parser(None)
    options.add_argument("--data", type=Path)
    place = tmp_path / "found.json"
    arguments = options.parse_args(["--json", str(place), "--data", "/somebody/s/folder", "--threads", "1"])
    common.finish({"speed": common.figure(2.0, [1.5, 2.0, 3.0])}, arguments)
    written = json.loads(place.read_text())
    assert written["figures"]["speed"] == {"value": 2.0, "runs": [1.5, 2.0, 3.0]}
    assert written["options"] == {"threads": 1, "device": None, "data": "folder"}
    assert {"cpu", "torch", "transformers", "git_revision"} <= set(written["machine"])
    assert "[1.5, 3] over 3 runs" in capsys.readouterr().out


def test_only_a_refusal_that_is_written_before_the_end_counts_as_one(benchmark_module):
    turned = benchmark_module("reminder").turned
    vlm = tiny_vlm()
    ids = lambda text: vlm.tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    refusal, end = ids("I'm sorry, but I can't help with that."), vlm.end_of_turn()
    assert turned(vlm, refusal)
    assert turned(vlm, [*refusal, end, *ids("Then more.")])
    assert not turned(vlm, [end, *refusal])
    assert not turned(vlm, [end])
    assert not turned(vlm, ids("2. Mix the dough."))
