"""The state machine of one answer: scripted verdicts through every policy, and what must hold whatever is scripted."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from safety_reminder.config import GuardConfig
from safety_reminder.config.guard import Policy
from safety_reminder.errors import ModelError
from safety_reminder.guard.answer import (
    REMINDER,
    Answer,
    Drop,
    Feed,
    Finished,
    Keep,
    Read,
    Rewind,
)
from safety_reminder.guard.policy import POLICIES
from safety_reminder.guard.schedule import Schedule, checkable
from safety_reminder.types import Check, Done, Event, Intervention, Retraction, Token

EOS = 1
REFUSAL = [71, 72, 73]


class Letters:
    """A token a letter; the refusal is three tokens."""

    def decode(self, ids, **options):
        return "".join(chr(97 + i % 26) for i in ids)

    def encode(self, text, **options):
        return list(REFUSAL)


def answer(policy: Policy = "rewind", *, max_tokens: int | None = 40, **options) -> Answer:
    config = GuardConfig(**{"interval": 4, "policy": policy, **options})
    return Answer(config, eos={EOS}, max_tokens=max_tokens, tokenizer=Letters())


def write(one: Answer, *tokens: int) -> list[Event]:
    return [event for token in tokens for event in one.token(token)]


def shown(events: list[Event]) -> list[int]:
    tokens: list[int] = []
    for event in events:
        match event:
            case Token(token_id=token):
                tokens.append(token)
            case Retraction(count=count):
                del tokens[-count:]
    return tokens


def test_tokens_are_fed_until_a_check_is_due_and_shown_once_it_is_passed():
    one = answer()
    assert one.todo == Feed()
    assert write(one, 10, 11, 12) == []
    assert one.todo == Feed()
    assert write(one, 13) == []
    assert one.todo == Read("periodic")
    events = one.verdict(0.2)
    assert events[0] == Check(4, 0.2, False, "periodic")
    assert shown(events) == [10, 11, 12, 13]
    assert one.todo == Drop()
    assert one.context == [10, 11, 12, 13]


def test_tokens_wait_for_as_many_checks_as_asked_and_rewind_takes_back_all_that_wait():
    one = answer(hold_back_checks=2)
    write(one, 10, 11, 12, 13)
    assert shown(one.verdict(0.2)) == []
    write(one, 14, 15, 16, 17)
    assert shown(one.verdict(0.2)) == [10, 11, 12, 13]
    write(one, 18, 19, 20, 21)
    events = one.verdict(0.9)
    assert events[1:] == [Intervention(12, 0.9, "rewind", 8)]
    assert one.todo == Rewind(4)
    assert one.context == [10, 11, 12, 13, REMINDER]
    # The turn is checked twice as well; the end of an answer, once.
    write(one, 30, 31, 32, 33)
    assert shown(one.verdict(0.2)) == []
    one.token(34)
    one.token(EOS, "stop")
    assert shown(one.verdict(0.2)) == [30, 31, 32, 33, 34, EOS]


def test_the_fixed_refusal_takes_the_place_of_all_that_waits():
    one = answer("stop", hold_back_checks=2)
    events = write(one, 10, 11, 12, 13) + one.verdict(0.2) + write(one, 14, 15, 16, 17) + one.verdict(0.9)
    assert shown(events) == REFUSAL


def test_what_is_shown_at_once_waits_for_no_check():
    one = answer(hold_back=False, hold_back_checks=2)
    events = write(one, 10, 11, 12, 13) + one.verdict(0.2) + write(one, 14, 15, 16, 17)
    assert shown(events) == [10, 11, 12, 13, 14, 15, 16, 17]
    assert shown(events + one.verdict(0.9)) == [10, 11, 12, 13]


@pytest.mark.parametrize(
    ("policy", "todo", "context", "dropped"),
    [
        ("continue", Keep(), [*range(10, 18), REMINDER], 0),
        ("rewind", Rewind(4), [10, 11, 12, 13, REMINDER], 4),
        ("restart", Rewind(0), [REMINDER], 8),
    ],
)
def test_an_unsafe_verdict_leaves_the_reminder_where_the_policy_says(policy, todo, context, dropped):
    one = answer(policy)
    write(one, *range(10, 14))
    one.verdict(0.1)
    write(one, *range(14, 18))
    events = one.verdict(0.9)
    assert one.todo == todo
    assert one.context == context
    assert [e for e in events if isinstance(e, Intervention)] == [Intervention(8, 0.9, policy, dropped)]
    assert one.written == 8 - dropped


def test_the_bare_prompt_is_read_first_and_a_reminder_is_kept_right_there():
    one = answer(prompt_check=True)
    assert one.todo == Read("prompt")
    one.verdict(0.9)
    assert one.todo == Keep()
    assert one.context == [REMINDER]


@pytest.mark.parametrize(
    ("options", "image", "unsafe"),
    [
        ({}, False, (False, False)),
        ({"prompt_threshold": 0.4}, False, (True, False)),
        ({"image_threshold": 0.4}, True, (True, True)),
        ({"image_threshold": 0.4}, False, (False, False)),
        ({"prompt_threshold": 0.8, "image_threshold": 0.4}, True, (False, True)),
    ],
)
def test_a_check_is_held_to_the_threshold_of_its_kind_and_of_its_traffic(options, image, unsafe):
    config = GuardConfig(interval=4, policy="monitor", prompt_check=True, threshold=0.6, **options)
    one = Answer(config, eos={EOS}, tokenizer=Letters(), image=image)
    events = one.verdict(0.5)
    write(one, *range(10, 14))
    events += one.verdict(0.5)
    assert tuple(e.unsafe for e in events if isinstance(e, Check)) == unsafe


def test_under_continue_the_last_verdict_decides_whether_silence_is_an_answer():
    """At its own threshold: reminded at the prompt, the model says nothing."""
    one = answer("continue", prompt_check=True, threshold=0.9, prompt_threshold=0.3)
    one.verdict(0.5)
    events = one.token(EOS, "stop")
    assert events[-1] == Done("guard")
    assert shown(events) == REFUSAL


def test_a_new_threshold_is_that_of_every_check():
    config = GuardConfig(threshold=0.6, prompt_threshold=0.3, image_threshold=0.7)
    assert config.replace(interval=4).prompt_threshold == 0.3
    assert config.lowest_threshold == 0.3
    assert config.replace(threshold=0.9).limit("prompt", image=True) == 0.9
    assert config.replace(threshold=0.9, image_threshold=0.2).limit("final", image=True) == 0.2


def test_a_stop_says_the_refusal_and_shows_nothing_else_that_was_held_back():
    one = answer("stop")
    write(one, *range(10, 14))
    events = one.verdict(0.9)
    assert one.todo == Finished()
    assert shown(events) == REFUSAL
    assert events[-1] == Done("guard")


def test_a_monitor_says_unsafe_and_goes_on():
    one = answer("monitor")
    write(one, *range(10, 14))
    assert one.verdict(0.9)[0] == Check(4, 0.9, True, "periodic")
    assert one.todo == Drop()


def test_the_last_check_reads_without_the_end_of_sequence_token_and_may_take_it_back():
    one = answer()
    write(one, 10, 11)
    assert one.token(EOS, "stop") == []
    assert (one.todo, one.context, one.written) == (Read("final"), [10, 11], 2)
    one.verdict(0.9)
    assert (one.todo, one.context) == (Rewind(0), [REMINDER])
    write(one, 12)
    one.token(EOS, "stop")
    events = one.verdict(0.0)
    assert shown(events) == [12, EOS]
    assert events[-1] == Done("stop")


def test_an_end_right_after_a_passed_check_needs_no_other():
    one = answer()
    write(one, *range(10, 14))
    one.verdict(0.0)
    assert one.token(EOS, "stop")[-1] == Done("stop")


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_an_end_without_its_token_keeps_its_reason(reason):
    one = answer(final_check=False)
    write(one, 10)
    assert one.token(11, reason)[-1] == Done(reason)


def test_after_the_last_allowed_intervention_the_refusal_comes():
    one = answer(max_interventions=1)
    write(one, *range(10, 14))
    one.verdict(0.9)
    write(one, *range(10, 14))
    assert one.verdict(0.9)[-1] == Done("guard")


@pytest.mark.parametrize(("tokens", "refused"), [(11, False), (12, False), (13, True)])
def test_text_that_stays_is_refused_where_a_correction_has_no_room(tokens, refused):
    one = answer("continue", interval=tokens, max_tokens=16)
    write(one, *range(10, 10 + tokens))
    assert (one.verdict(0.9)[-1] == Done("guard")) == refused


@pytest.mark.parametrize("policy", ["continue", "rewind", "restart", "stop"])
def test_a_verdict_that_could_not_be_read_ends_the_answer(policy):
    one = answer(policy)
    write(one, *range(10, 14))
    events = one.verdict(math.nan)
    assert events[-1] == Done("guard_error")
    assert one.todo == Finished()


def test_scores_of_which_no_token_can_be_chosen_end_it_too():
    one = answer()
    write(one, 10)
    assert one.no_scores()[-1] == Done("guard_error")
    for unguarded in (Answer(None), answer("monitor")):
        with pytest.raises(ModelError, match="not finite"):
            unguarded.no_scores()


def test_an_engine_that_does_something_else_is_told():
    one = answer(prompt_check=True)
    with pytest.raises(ModelError, match="gave a token where the answer waits for Read"):
        one.token(5)
    one.verdict(0.0)
    with pytest.raises(ModelError, match="read the probe where the answer waits for Drop"):
        one.verdict(0.0)


def test_every_policy_has_its_row():
    from typing import get_args

    assert set(POLICIES) == set(get_args(Policy))


@settings(max_examples=400, deadline=None)
@given(
    policy=st.sampled_from(["continue", "rewind", "restart", "stop", "monitor"]),
    verdicts=st.lists(st.sampled_from([0.0, 0.2, 0.9, 1.0, math.nan]), max_size=12),
    interval=st.integers(1, 6),
    prompt_check=st.booleans(),
    final_check=st.booleans(),
    hold_back=st.sampled_from([None, True, False]),
    checks=st.integers(1, 3),
    maximum=st.integers(0, 3),
    length=st.integers(1, 30),
    ends=st.sets(st.integers(0, 40), max_size=6),
)
def test_whatever_the_verdicts_the_answer_keeps_its_promises(
    policy, verdicts, interval, prompt_check, final_check, hold_back, checks, maximum, length, ends
):
    options = {"interval": interval, "prompt_check": prompt_check, "final_check": final_check}
    options["hold_back_checks"] = checks
    config = GuardConfig(policy=policy, hold_back=hold_back, max_interventions=maximum, **options)
    one = Answer(config, eos={EOS}, max_tokens=length, tokenizer=Letters())
    script, events, drawn, covered, on_screen = iter(verdicts), [], 0, 0, 0
    passed = []  # how much each check since the last intervention covered, when it was passed
    acts = policy != "monitor"
    while not isinstance(one.todo, Finished):
        assert drawn < 400
        if isinstance(one.todo, Read):
            p = next(script, 0.0)
            before = one.written
            new = one.verdict(p)
            if not math.isnan(p) and p < config.threshold:
                covered = before
                passed.append(before)
            elif math.isnan(p) and acts:
                assert new[-1] == Done("guard_error")  # NaN never passes
        else:
            drawn += 1
            token = EOS if drawn in ends else 10 + drawn % 50
            new = one.token(token, "length" if one.written + 1 >= length else "stop" if token == EOS else None)
        covered = min(covered, one.written)
        for event in new:
            if isinstance(event, Intervention):
                passed = [one.written] * checks  # what stands now stays
            if isinstance(event, Token):
                on_screen += 1
            elif isinstance(event, Retraction):
                on_screen -= event.count
        events += new
        # Held back, nothing is seen that no passed check has covered, but for what these policies say of themselves.
        held = config.holds_back and policy in ("rewind", "restart", "stop") and final_check
        if held and not isinstance(one.todo, Finished):
            assert on_screen <= covered
            assert on_screen <= (passed[-checks] if len(passed) >= checks else 0)
        assert on_screen == one.seen
    done = [event for event in events if isinstance(event, Done)]
    assert len(done) == 1
    assert events[-1] == done[0]
    kept = [event for event in events if isinstance(event, Intervention) and event.policy != "stop"]
    assert len(kept) <= maximum
    if policy in ("rewind", "stop") and config.holds_back and final_check:
        assert not any(isinstance(event, Retraction) for event in events)
    # What is seen at the end is what was released less what was withdrawn, and nothing of it is lost.
    assert len(shown(events)) == one.seen
    if not acts:
        assert done[0].reason in ("stop", "length")


@settings(max_examples=200, deadline=None)
@given(
    interval=st.integers(1, 20),
    prompt=st.booleans(),
    final=st.booleans(),
    length=st.integers(0, 60),
    ended=st.booleans(),
)
def test_the_schedule_names_the_places_where_an_answer_is_checked(interval, prompt, final, length, ended):
    """Training asks the schedule; decoding asks the answer."""
    one = answer(interval=interval, prompt_check=prompt, final_check=final, max_tokens=None)
    tokens = [10 + n % 50 for n in range(length)]
    places = []
    assume(ended or (final and tokens))
    script = [*tokens, *([EOS] if ended else [])]
    while not isinstance(one.todo, Finished):
        if isinstance(one.todo, Read):
            places.append(one.written)
            one.verdict(0.0)
        else:
            token = script.pop(0)
            one.token(token, None if script else "stop" if ended else "length")
    assert places == Schedule(interval, prompt, final).places(len(tokens))


def test_what_the_last_check_reads_has_no_end_of_sequence_tokens_at_its_end():
    assert checkable([5, EOS, 6, EOS, EOS], {EOS}) == [5, EOS, 6]
    assert checkable([EOS], {EOS}) == []
