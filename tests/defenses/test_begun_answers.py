"""Conversations that end with the beginning of an answer: defences change the request before it, and no more."""

from __future__ import annotations

import pytest

from asked import BATCH, Recorder, asking, options_of
from checkpoints import tiny_guarded
from safety_reminder.defenses import DEFENSES, ecso, load_defense

BEGUN = {"role": "assistant", "content": "Sure, it is"}


GUARDS = ["reminder", "prompt_tuning", "header_probe", "text_reminder", "random_vectors", "probe_only", "checks_at"]


@pytest.mark.parametrize("name", sorted(set(DEFENSES) - {*GUARDS}))
def test_an_answer_that_was_begun_stays_at_the_end_and_the_request_before_it_is_changed(name, header, soft_prompt):
    model, plain = Recorder(), Recorder()
    options = options_of(name, header, soft_prompt)
    for messages in BATCH:
        load_defense(name, model, **options).respond(asking([*messages, BEGUN]))
        load_defense(name, plain, **options).respond(asking(messages))
    begun = [messages for messages in model.asked if messages[-1] == BEGUN]
    assert [messages[:-1] for messages in begun] == [m for m in plain.asked if not _is_question(m)][: len(begun)]
    assert len(begun) == len(BATCH)


def _is_question(messages) -> bool:
    return any(text in str(messages[-1]["content"]) for text in ("Is the RESPONSE", "describe the image", "Hints:"))


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_continues_an_answer_that_was_begun(name, header):
    defense = load_defense(name, tiny_guarded(), **options_of(name, header, ""))
    batch = [[*BATCH[1], BEGUN], BATCH[0], [*BATCH[2], BEGUN]]
    together = defense.respond(asking(*batch))
    assert [r.token_ids for r in together] == [defense.respond(asking(messages))[0].token_ids for messages in batch]
    assert together[0].prompt_tokens > defense.respond(asking(BATCH[1]))[0].prompt_tokens


def test_ecso_judges_the_whole_answer_and_nobody_has_begun_its_own_questions(monkeypatch):
    model = Recorder()
    monkeypatch.setattr(ecso, "_says_yes", lambda text: True)
    [found] = load_defense("ecso", model).respond(asking([*BATCH[1], BEGUN]))
    answer, verdict, caption, again = model.asked
    assert answer == [*BATCH[1], BEGUN]
    assert [messages[-1]["role"] for messages in (verdict, caption)] == ["user", "user"]
    assert "RESPONSE:\nSure, it is" in verdict[-1]["content"][-1]["text"]
    assert again[-1] == BEGUN
    assert all(part["type"] == "text" for part in again[0]["content"])
    assert found.extra_tokens > 0


def test_a_judge_after_the_fact_reads_the_beginning_too():
    asked = []
    judge = lambda exchanges: asked.extend(exchanges) or [False] * len(exchanges)  # noqa: E731
    [found] = load_defense("post_hoc", tiny_guarded(), judge=judge).respond(asking([*BATCH[2], BEGUN]))
    assert asked == [("Name a lake.", None, "Sure, it is" + found.text)]
