"""Attacks that need no gradients: requests put differently. Each is options and one pure function of examples; they
are rows of the command, transforms of a data set, and Inspect solvers alike.

``instruction`` keeps what is asked in words, so that answers are judged on the original request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from safety_reminder.attacks.base import Arena, Outcome
from safety_reminder.attacks.splits import Splits
from safety_reminder.attacks.targets import asked, make_goals, require_own_targets
from safety_reminder.attacks.transform_options import (
    BUILD_UP,
    MultiTurnConfig,
    PrefillAttackConfig,
    PrefillConfig,
    SystemOverrideConfig,
    TypographicConfig,
)
from safety_reminder.data.benchmarks.typographic import render
from safety_reminder.errors import DataError
from safety_reminder.types import Example

Cut = Callable[[str, int], str]  # a text and a number of tokens: its beginning


def prefill(examples: Sequence[Example], beginnings: Sequence[str], cut: Cut, config: PrefillConfig) -> list[Example]:
    """Every example with the beginning of an answer.

    Args:
        beginnings: of each example, at least ``config.depth`` tokens long, or they stay as short as they are.
        cut: cuts a text to a number of the attacked model's tokens, as :func:`token_cut` does.
    """
    return [
        replace(e, prefill=cut(text, config.depth) if config.depth else "", instruction=asked(e))
        for e, text in zip(examples, beginnings, strict=True)
    ]


def token_cut(tokenizer: Any) -> Cut:
    """Cuts by the tokens of a transformers tokenizer. A character that is not whole at the end is left out."""

    def cut(text: str, depth: int) -> str:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return text if len(ids) <= depth else tokenizer.decode(ids[:depth]).rstrip("\ufffd")

    return cut


def typographic(examples: Sequence[Example], config: TypographicConfig) -> list[Example]:
    """Every request as an image of its text, with ``config.prompt`` beside it.

    Raises:
        DataError: an example that shows an image already, a text that does not fit, or a font that is not there.
    """
    changed = []
    for example in examples:
        if example.image is not None:
            raise DataError(f"example {example.id!r} shows an image already; give requests in text")
        try:
            page = render(asked(example), numbered=config.numbered, grow=config.grow, style=config)
        except DataError as error:
            raise DataError(f"example {example.id!r}: {error}") from error
        changed.append(replace(example, prompt=config.prompt, image=page, instruction=asked(example)))
    return changed


def system_override(examples: Sequence[Example], config: SystemOverrideConfig) -> list[Example]:
    """Every example under the attacker's system prompt, in place of its own."""
    return [replace(e, system=config.text, instruction=asked(e)) for e in examples]


def multi_turn(examples: Sequence[Example], config: MultiTurnConfig) -> list[Example]:
    """Every example after the first ``config.depth`` exchanges of :data:`BUILD_UP`, which come before turns of its own.
    An image moves to the first of them, as :class:`~safety_reminder.types.Example` has it."""
    turns = tuple(turn for ask, answer in BUILD_UP[: config.depth] for turn in (("user", ask), ("assistant", answer)))
    return [replace(e, turns=turns + e.turns, instruction=asked(e)) for e in examples]


def run_prefill(arena: Arena, config: PrefillAttackConfig) -> Outcome:
    """``attack=prefill``: the target of each request, and what the unguarded model itself goes on with."""
    require_own_targets(config.targets, "attack=prefill")
    cut = token_cut(arena.vlm.tokenizer)

    def attacked(examples: list[Example]) -> list[Example]:
        if not examples or not config.depth:
            return prefill(examples, [""] * len(examples), cut, config)
        goals = make_goals(examples, config.targets, arena.answers)
        begun = [replace(goal.example, prefill=goal.target) for goal in goals]
        more = arena.answers(begun, tokens=config.depth)
        return prefill(examples, [e.prefill + text for e, text in zip(begun, more, strict=True)], cut, config)

    return _outcome(arena, attacked)


def _outcome(arena: Arena, change: Callable[[list[Example]], list[Example]]) -> Outcome:
    """Nothing is learned from other requests, so that those of all splits are changed alike."""
    rows = arena.splits
    changed = change([*rows.train, *rows.validation, *rows.test])
    held_back = len(rows.train) + len(rows.validation)
    splits = Splits(changed[: len(rows.train)], changed[len(rows.train) : held_back], changed[held_back:])
    return Outcome(splits, rows.test)


def run_typographic(arena: Arena, config: TypographicConfig) -> Outcome:
    """``attack=typographic``."""
    return _outcome(arena, lambda examples: typographic(examples, config))


def run_system_override(arena: Arena, config: SystemOverrideConfig) -> Outcome:
    """``attack=system_override``."""
    return _outcome(arena, lambda examples: system_override(examples, config))


def run_multi_turn(arena: Arena, config: MultiTurnConfig) -> Outcome:
    """``attack=multi_turn``."""
    return _outcome(arena, lambda examples: multi_turn(examples, config))
