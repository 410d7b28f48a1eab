"""Requests that tell harm from its topic: for each topic harmful ones, and harmless ones that share their words.

A guard that is trained on harmful requests and everyday ones learns what harm is *about*: pages on locks, pensions or
headaches alarm it. Here every topic stands on both sides, and most verbs or things of one side occur on the other.
They are in ``contrast.toml``: category-level, written here, no answer to any of them anywhere. Advice on law, money and
health is harmless.

The fourteen topics from "borders and people" to "intimate texts" follow public lists of hazards (MLCommons AILuminate),
and were written after some requests of FigStep and MM-SafetyBench had been seen that an earlier guard missed: neither
set is wholly new to a guard that is trained on them.

``HELD_OUT`` topics are never trained on; of the others, one request in eight is not (:func:`topics.is_held_back`).
"""

from __future__ import annotations

import itertools
import random
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topics import is_held_back

FILE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Topic:
    """One topic's requests: pairs of verbs and things, of which every pair is one, and things that are listed."""

    name: str
    held_out: bool
    harmful: tuple[tuple[list[str], list[str]], ...]
    harmless: tuple[tuple[list[str], list[str]], ...]
    harmful_lists: list[str]
    harmless_lists: list[str]

    @classmethod
    def of(cls, table: dict[str, Any]) -> Topic:
        pairs = {
            side: tuple((alternatives(verbs), alternatives(things)) for verbs, things in map(halves, table[side]))
            for side in ("harmful", "harmless")
        }
        lists = {f"{side}_lists": alternatives(table[f"{side}_lists"]) for side in pairs}
        return cls(table["name"], table.get("held_out", False), **pairs, **lists)

    def pairs(self, *, harmful: bool) -> tuple[tuple[list[str], list[str]], ...]:
        return self.harmful if harmful else self.harmless

    def lists(self, *, harmful: bool) -> list[str]:
        return self.harmful_lists if harmful else self.harmless_lists


def halves(line: str) -> list[str]:
    return line.split(" : ")


def alternatives(text: str) -> list[str]:
    return text.split(" | ")


TOPICS = tuple(map(Topic.of, tomllib.loads(FILE.read_text(encoding="utf-8"))["topic"]))
HELD_OUT = tuple(topic.name for topic in TOPICS if topic.held_out)
TRAINED = tuple(topic.name for topic in TOPICS if not topic.held_out)
BY_NAME = {topic.name: topic for topic in TOPICS}


@dataclass(frozen=True)
class Request:
    """What is asked for, without form: an action ("save for a pension"), or a ``listed`` thing."""

    core: str
    topic: str
    harmful: bool
    listed: bool = False


def requests(topic: str, *, harmful: bool) -> Iterator[Request]:
    """All of one side of a topic."""
    of = BY_NAME[topic]
    for verbs, things in of.pairs(harmful=harmful):
        for verb, thing in itertools.product(verbs, things):
            yield Request(f"{verb} {thing}", topic, harmful)
    for listed in of.lists(harmful=harmful):
        yield Request(listed, topic, harmful, listed=True)


def draw(
    rng: random.Random, *, harmful: bool, topics: Sequence[str] = TRAINED, held_back: bool | None = None
) -> Request:
    """A request of a topic; topics count alike, patterns of one alike, and one in six is a list.

    ``held_back``: only requests that are, or are not, held back; None takes both."""
    while True:
        of = BY_NAME[rng.choice(topics)]
        listed = rng.random() < 1 / 6
        if listed:
            core = rng.choice(of.lists(harmful=harmful))
        else:
            verbs, things = rng.choice(of.pairs(harmful=harmful))
            core = f"{rng.choice(verbs)} {rng.choice(things)}"
        if held_back in (None, is_held_back(core)):
            return Request(core, of.name, harmful, listed)
