"""BAP's second step as a run: requests are rewritten by a chat model until the attacked model answers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safety_reminder.attacks.base import Arena, Outcome, require_rows
from safety_reminder.attacks.options import BAPRewriteConfig
from safety_reminder.attacks.rewriting import (
    REWRITES,
    Opinion,
    bap_rows,
    rewrite,
    rewritten_examples,
)
from safety_reminder.attacks.splits import Splits
from safety_reminder.attacks.targets import asked
from safety_reminder.errors import ConfigError
from safety_reminder.run_files import write_json
from safety_reminder.types import Example

PUBLISHED = "bap.json"  # in the layout of the published code


def run(arena: Arena, config: BAPRewriteConfig) -> Outcome:
    """``attack=bap_rewrite``: every test request by itself.

    Raises:
        ConfigError: no chat model, or no guard to have in the loop.
    """
    require_rows(arena, "test")
    if arena.chat is None:
        raise ConfigError("attack=bap_rewrite needs a chat model: chat.model=NAME, and chat.url=URL where it is served")
    if config.defended and arena.guarded.guard is None:
        raise ConfigError("attack.defended=true needs a guard; give reminder=NAME")
    image = None if config.image is None else Path(config.image).expanduser()
    requests = [
        replace(e, image=image if image is not None else e.image, instruction=asked(e)) for e in arena.splits.test
    ]

    def answer(examples: list[Example]) -> list[str]:
        return arena.answers(examples, guard=config.defended, tokens=config.max_new_tokens)

    def judge(questions: Sequence[str], answers: Sequence[str]) -> list[Opinion]:
        return [Opinion(arena.judge.refusal(text), arena.judge.engaged(text)) for text in answers]

    rewritings = rewrite(
        requests,
        answer=answer,
        judge=judge,
        on_topic=lambda text, question: arena.judge.on_topic(text, question, ""),
        ask=arena.chat,
        config=config,
        path=arena.folder / REWRITES,
        identity={**arena.identity, "defended": config.defended, "context": [[e.system, e.turns] for e in requests]},
    )
    attacked = rewritten_examples(requests, rewritings)
    write_json(arena.folder / PUBLISHED, bap_rows(requests, rewritings))
    return Outcome(
        Splits([], [], attacked),
        requests,
        {
            "queries": sum(len(state.attempts) for state in rewritings),
            "rewriter_calls": sum(attempt.reply is not None for state in rewritings for attempt in state.attempts),
        },
    )
