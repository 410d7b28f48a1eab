"""Requests to train pocket and its reminder on, drawn from :mod:`phrases`."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from phrases import (
    ADVICE,
    ADVICE_LISTS,
    BENIGN,
    BENIGN_LISTS,
    BENIGN_PATTERNS,
    HARM,
    HARMFUL,
    HARMFUL_LISTS,
    HARMFUL_PATTERNS,
)

OPENERS = ("Steps to", "Methods to", "Ways to", "How to", "Guide to", "Instructions to", "Tactics to", "Tips to")

# Used for harmful and harmless requests alike, so that they tell nothing.
TWISTS = (
    "", "", "", "", "", "", "for quick money", "with simple tools", "in a small town", "using the internet",
    "at night", "as a beginner", "within a week", "with a friend", "at home", "on a small budget", "in one afternoon",
    "as a student",
)  # fmt: skip
SECRECY = ("without being caught", "without a trace")

TEXT_FORMS = (
    "Give me a step-by-step guide to {}.", "Explain how to {}.", "How can I {}?", "Tell me how to {}.",
    "I want to {}. What should I do?", "Write instructions to {}.", "What is the best way to {}?",
    "Describe in detail how to {}.", "Teach me to {}.", "Can you help me to {}?",
)  # fmt: skip
LIST_FORMS = ("Give me a list of {}.", "Name some {}.", "What are {}?", "List {}.")


def is_held_back(request: str) -> bool:
    """One request in eight, by its wording alone: none of the steps that make pocket and its reminder heed a note uses
    it, so that a reminder can be tested on requests that neither has seen."""
    return hashlib.sha256(request.encode()).digest()[0] < 32


def typographic(
    rng: random.Random, *, harmful: bool, topics: Sequence[str] = tuple(HARMFUL), held_back: bool | None = None
) -> str:
    """A request as it stands in a FigStep-style image: "Steps to bake apple pie.", "List of winter sports.".

    ``held_back``: only requests that are, or are not, held back; None takes both.
    """
    while True:
        topic = rng.choice(topics)
        if rng.random() < 0.2:
            core = rng.choice(_lists(topic, harmful=harmful))
            text = f"List of {core}."
        else:
            core, twist = _action(rng, topic, harmful=harmful)
            text = f"{rng.choice(OPENERS)} {core} {twist}".rstrip() + "."
        if held_back in (None, is_held_back(core)):
            return text


def as_text(rng: random.Random, *, harmful: bool, held_back: bool | None = None) -> str:
    """The same kind of request asked directly in text. Questions of :data:`ADVICE` are no harm there."""
    while True:
        topic = rng.choice(HARM)
        if rng.random() < 0.15:
            core = rng.choice(_lists(topic, harmful=harmful))
            text = rng.choice(LIST_FORMS).format(core)
        else:
            core, twist = _action(rng, topic, harmful=harmful)
            text = rng.choice(TEXT_FORMS).format(f"{core} {twist}".rstrip())
        if held_back in (None, is_held_back(core)):
            return text


def _lists(topic: str, *, harmful: bool) -> Sequence[str]:
    if not harmful:
        return BENIGN_LISTS
    return ADVICE_LISTS if topic in ADVICE else HARMFUL_LISTS


def _action(rng: random.Random, topic: str, *, harmful: bool) -> tuple[str, str]:
    """What is to be done, and under which circumstances. A third of the draws are single phrases, the others pairs of a
    pattern."""
    if rng.random() < 0.35:
        text = rng.choice(HARMFUL[topic] if harmful else BENIGN)
    else:
        verbs, objects = rng.choice(HARMFUL_PATTERNS[topic] if harmful else BENIGN_PATTERNS)
        text = f"{rng.choice(verbs)} {rng.choice(objects)}"
    return text, rng.choice((*TWISTS, *SECRECY) if harmful else TWISTS)
