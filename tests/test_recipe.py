"""Pocket's training material and what it is measured on have nothing in common."""

from __future__ import annotations

import csv
import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def load(name: str):
    path = ROOT / "recipes" / "pocket" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def instructions(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row["instruction"] for row in csv.DictReader(file)]


HELD_BACK = [
    *instructions(ROOT / "src/safety_reminder/data/demo.csv"),
    *instructions(ROOT / "benchmarks/benign_twins.csv"),
]


def core(text: str) -> str:
    """What is asked for, without the opener: "Steps to bake bread." and "How to bake bread." are one request."""
    return re.sub(r"^(?:list of|\w+ to|\w+ \w+ to)\s+", "", text.lower().rstrip(".?! "))


def test_no_held_back_request_is_trained_on():
    topics = load("topics")
    trained = {core(action) for actions in topics.HARMFUL.values() for action in actions}
    trained |= {core(text) for text in (*topics.HARMFUL_LISTS, *topics.BENIGN, *topics.BENIGN_LISTS)}
    patterns = [*topics.BENIGN_PATTERNS, *(entry for topic in topics.HARMFUL_PATTERNS.values() for entry in topic)]
    trained |= {core(f"{verb} {thing}") for verbs, things in patterns for verb in verbs for thing in things}
    assert not [text for text in HELD_BACK if core(text) in trained]


def test_held_back_requests_are_all_different():
    assert len({core(text) for text in HELD_BACK}) == len(HELD_BACK)


@pytest.mark.parametrize("kind", ["HARMFUL_LISTS", "BENIGN", "BENIGN_LISTS"])
def test_training_requests_are_not_repeated(kind):
    texts = getattr(load("topics"), kind)
    assert len(set(texts)) == len(texts)
