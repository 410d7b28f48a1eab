"""The decode loop: when it checks, what it shows, and how it ends."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from helpers import (
    OPTIONS,
    ScriptedProbe,
    answer,
    cached_tiny_model,
    outcomes,
    plain,
    reminder_of_tokens,
    run_events,
    scripted,
    single,
)
from safety_reminder.config import GuardConfig
from safety_reminder.errors import ConfigError, ModelError
from safety_reminder.guard import Probe, SafetyReminder, guarded_decoding
from safety_reminder.models.tiny import tiny_inputs
from safety_reminder.types import Check, Done, Intervention, Retraction, Token

NO_EOS = {"eos_token_id": None}


class Ends(LogitsProcessor):
    """Token 1 is the likeliest at the given calls (the first is 1), counted anew after each, and else impossible."""

    def __init__(self, *at: int):
        self.at, self.calls = list(at), 0

    def __call__(self, input_ids, scores):
        self.calls += 1
        ends = self.calls == self.at[0]
        scores[:, 1] = math.inf if ends else -math.inf
        if ends:
            self.at, self.calls = self.at[1:] or self.at, 0
        return scores


@pytest.fixture
def llama():
    return cached_tiny_model("llama")


def test_checks_come_every_interval_and_once_at_the_end(llama):
    row = outcomes(run_events(llama, single(llama), scripted(llama), interval=8, **NO_EOS))[0]
    assert [(c.token_index, c.kind) for c in row.checks] == [(8, "periodic"), (16, "periodic"), (23, "final")]
    assert row.reasons == ["length"]


def test_an_end_on_a_check_is_not_checked_twice(llama):
    row = outcomes(run_events(llama, single(llama), scripted(llama), interval=8, max_new_tokens=16, **NO_EOS))[0]
    assert [(c.token_index, c.kind) for c in row.checks] == [(8, "periodic"), (16, "final")]


def test_the_final_check_reads_the_answer_without_its_end_of_sequence_token(llama):
    inputs = single(llama)
    eos = plain(llama, inputs, **NO_EOS)[0, 6].item()
    first = plain(llama, inputs, **NO_EOS)[0].tolist().index(eos)
    row = outcomes(run_events(llama, inputs, scripted(llama), interval=100, eos_token_id=eos))[0]
    assert [(c.token_index, c.kind) for c in row.checks] == [(first, "final")]
    assert row.tokens[-1] == eos
    assert row.reasons == ["stop"]


def test_an_unsafe_final_check_takes_the_end_back_and_the_answer_goes_on(llama):
    # It ends after six tokens; reminded, after six more.
    options = {"logits_processor": LogitsProcessorList([Ends(7)]), "eos_token_id": 1, "policy": "continue"}
    row = outcomes(run_events(llama, single(llama), scripted(llama, 0.9, 0.0), interval=100, **options))[0]
    assert [i.policy for i in row.interventions] == ["continue"]
    assert [(check.token_index, check.kind) for check in row.checks] == [(6, "final"), (12, "final")]
    assert len(row.tokens) == 13
    assert row.tokens.index(1) == 12
    assert row.reasons == ["stop"]


def test_a_prompt_check_comes_before_the_first_token(llama):
    events = run_events(llama, single(llama), scripted(llama, 0.9), prompt_check=True, **NO_EOS)
    assert isinstance(events[0], Check)
    assert (events[0].token_index, events[0].kind) == (0, "prompt")
    assert isinstance(events[1], Intervention)
    assert answer(events)[:5] != plain(llama, single(llama), **NO_EOS)[0].tolist()[:5]


@pytest.mark.parametrize("policy", ["rewind", "restart", "stop"])
def test_held_back_tokens_are_never_shown_when_their_check_fails(llama, policy):
    events = run_events(llama, single(llama), scripted(llama, 0.9, 0.0), policy=policy, **NO_EOS)
    first = next(i for i, e in enumerate(events) if isinstance(e, Intervention))
    assert not [e for e in events[:first] if isinstance(e, Token)]
    assert not [e for e in events if isinstance(e, Retraction)]


@pytest.mark.parametrize("value", [0.9, math.nan])
def test_a_monitor_reports_and_changes_nothing(llama, value):
    inputs = single(llama)
    probe = scripted(llama, value, value, value)
    events = run_events(llama, inputs, probe, interval=8, policy="monitor", prompt_check=True, **NO_EOS)
    row = outcomes(events)[0]
    assert row.tokens == plain(llama, inputs, **NO_EOS)[0].tolist()
    assert [c.unsafe for c in row.checks] == [True, True, True, False]
    assert not row.interventions
    assert row.reasons == ["length"]
    assert isinstance(events[1], Token)  # shown at once


def test_without_hold_back_tokens_are_shown_at_once_and_withdrawn(llama):
    events = run_events(llama, single(llama), scripted(llama, 0.0, 0.9), policy="rewind", hold_back=False, **NO_EOS)
    first = next(i for i, e in enumerate(events) if isinstance(e, Intervention))
    assert len([e for e in events[:first] if isinstance(e, Token)]) == 10
    assert [e.count for e in events if isinstance(e, Retraction)] == [5]


def test_a_second_intervention_comes_after_the_first_reminder(llama):
    row = outcomes(run_events(llama, single(llama), scripted(llama, 0.9, 0.9, 0.0), policy="rewind", **NO_EOS))[0]
    assert [i.dropped for i in row.interventions] == [5, 5]
    again = outcomes(run_events(llama, single(llama), scripted(llama, 0.9, 0.0), policy="rewind", **NO_EOS))[0]
    assert row.tokens[:5] != again.tokens[:5]


def test_after_the_last_allowed_intervention_the_answer_ends(llama):
    probe = scripted(llama, *[0.9] * 50)
    row = outcomes(run_events(llama, single(llama), probe, max_interventions=2, **NO_EOS))[0]
    assert [i.policy for i in row.interventions] == ["rewind", "rewind", "stop"]
    assert row.reasons == ["guard"]
    assert row.tokens == []


def test_where_no_room_is_left_to_correct_the_text_the_answer_ends(llama):
    events = run_events(llama, single(llama), scripted(llama, 0.0, 0.9), policy="continue", max_new_tokens=8, **NO_EOS)
    assert outcomes(events)[0].reasons == ["guard"]


@pytest.mark.parametrize("value", [math.nan, -math.nan])
def test_a_guard_that_cannot_tell_fails_closed(llama, value):
    events = run_events(llama, single(llama), scripted(llama, 0.0, value), **NO_EOS)
    row = outcomes(events)[0]
    assert row.reasons == ["guard_error"]
    assert row.tokens == plain(llama, single(llama), **NO_EOS)[0, :5].tolist()
    assert row.checks[-1].unsafe


def test_a_probe_of_the_wrong_shape_fails_closed(llama):
    class Wrong(ScriptedProbe):
        def __call__(self, hidden):
            return torch.zeros(hidden.shape[0], 2)

    reminder = reminder_of_tokens(llama, Wrong(torch.zeros(32), 0.0))
    row = outcomes(run_events(llama, single(llama), reminder, **NO_EOS))[0]
    assert row.reasons == ["guard_error"]
    assert row.tokens == []


def test_hidden_states_that_are_not_finite_fail_closed(llama):
    # In the pass of a check alone: a token and the three vectors.
    spoil = lambda module, args, output: output * math.inf if output.shape[1] == 4 else None  # noqa: E731
    hook = llama.model.norm.register_forward_hook(spoil)
    try:
        reminder = reminder_of_tokens(llama, Probe(torch.ones(32), 0.0))
        row = outcomes(run_events(llama, single(llama), reminder, **NO_EOS))[0]
    finally:
        hook.remove()
    assert math.isnan(row.checks[0].p_unsafe)
    assert row.reasons == ["guard_error"]
    assert row.tokens == []


def test_a_model_whose_states_are_broken_from_the_beginning_says_nothing(llama):
    hook = llama.model.norm.register_forward_hook(lambda module, args, output: output * math.inf)
    try:
        row = outcomes(run_events(llama, single(llama), scripted(llama), **NO_EOS))[0]
    finally:
        hook.remove()
    assert (row.checks, row.tokens, row.reasons) == ([], [], ["guard_error"])


def test_a_reminder_of_another_size_is_refused(llama):
    with pytest.raises(ModelError, match=r"size 16.*size 32"):
        run_events(llama, single(llama), SafetyReminder(torch.zeros(2, 16), Probe(torch.zeros(16))))


@pytest.mark.parametrize("option", [{"num_beams": 2}, {"use_cache": False}, {"output_scores": True}])
def test_generation_modes_that_cannot_be_guarded_are_refused(llama, option):
    with pytest.raises(ConfigError):
        run_events(llama, single(llama), scripted(llama), return_dict_in_generate=True, **option)


def test_a_static_cache_is_refused(llama):
    with pytest.raises(ModelError, match="cannot be rolled back"):
        run_events(llama, single(llama), scripted(llama), cache_implementation="static")


def test_the_custom_generate_output_carries_checks_and_interventions(llama):
    method = guarded_decoding(scripted(llama, 0.9), interval=5)
    out = llama.generate(**single(llama), custom_generate=method, return_dict_in_generate=True, **OPTIONS)
    assert out.interventions[0].token_index == 5
    assert out.checks[0].unsafe
    assert out.sequences.shape[0] == 1


def test_a_streamer_gets_exactly_the_tokens_that_stand(llama):
    class Keep(BaseStreamer):
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.ended = True

    streamer = Keep()
    method = guarded_decoding(scripted(llama, 0.0, 0.9), interval=5, streamer=streamer)
    ids = llama.generate(**single(llama), custom_generate=method, **(OPTIONS | NO_EOS))
    assert streamer.ended
    assert streamer.tokens == ids[0].tolist()  # the prompt first, as with transformers' own generate


@pytest.mark.parametrize("options", [{"policy": "restart"}, {"policy": "rewind", "hold_back": False}])
def test_a_streamer_is_not_given_what_may_be_withdrawn(llama, options):
    with pytest.raises(ConfigError, match="a streamer cannot withdraw"):
        guarded_decoding(scripted(llama), streamer=BaseStreamer(), **options)


def test_options_without_a_reminder_are_refused_here_too():
    with pytest.raises(ConfigError, match="no reminder"):
        guarded_decoding(None, interval=3)


class OfEveryRow(LogitsProcessor):
    """Row i says token 20 + i, and row 0 ends after two."""

    def __call__(self, input_ids, scores):
        wanted = torch.full_like(scores, -math.inf)
        for row in range(len(scores)):
            ends = row == 0 and (input_ids[row] == 20).sum() >= 2
            wanted[row, 1 if ends else 20 + row] = 0.0
        return wanted


@pytest.mark.parametrize("values", [(0.0,), (0.0, 0.9)])
def test_a_processor_finds_every_row_at_its_place_when_others_have_left(llama, values):
    inputs = tiny_inputs(llama, (5, 7, 6))
    options = OPTIONS | {
        "logits_processor": LogitsProcessorList([OfEveryRow()]),
        "eos_token_id": 1,
        "max_new_tokens": 9,
    }
    ids = llama.generate(**inputs, custom_generate=guarded_decoding(scripted(llama, *values), interval=4), **options)
    assert ids[1, 7:].unique().tolist() == [21]
    assert ids[2, 7:].unique().tolist() == [22]


class Broken(LogitsProcessor):
    def __init__(self, value):
        self.value = value

    def __call__(self, input_ids, scores):
        scores[0] = self.value
        return scores


@pytest.mark.parametrize(
    ("value", "do_sample"),
    [(math.nan, True), (math.inf, True), (-math.inf, True), (math.nan, False), (-math.inf, False)],
)
def test_a_row_that_nothing_can_be_drawn_for_fails_closed_and_leaves_the_others(llama, value, do_sample):
    inputs = tiny_inputs(llama, (5, 7))
    options = {"do_sample": do_sample, "logits_processor": LogitsProcessorList([Broken(value)]), **NO_EOS}
    rows = outcomes(run_events(llama, inputs, scripted(llama), seed=3, **options))
    assert rows[0].reasons == ["guard_error"]
    assert rows[0].tokens == []
    assert rows[1].reasons == ["length"]
    for unguarded in ((None, {}), (scripted(llama), {"policy": "monitor"})):
        with pytest.raises(ModelError, match="scores are not finite"):
            run_events(llama, inputs, unguarded[0], seed=3, **options, **unguarded[1])


def test_an_end_right_after_the_reminder_corrects_nothing(llama):
    # Under `continue` the unsafe text stays: if the model then only ends, the fixed refusal comes instead.
    options = {"logits_processor": LogitsProcessorList([Ends(7, 1)]), "eos_token_id": 1, "policy": "continue"}
    row = outcomes(run_events(llama, single(llama), scripted(llama, 0.9), interval=100, **options))[0]
    assert [i.policy for i in row.interventions] == ["continue", "stop"]
    assert row.reasons == ["guard"]


@pytest.mark.parametrize("room", range(8))
def test_a_correction_gets_room_or_the_fixed_refusal_comes(llama, room):
    options = {"policy": "continue", "interval": 6, "max_new_tokens": 6 + room, **NO_EOS}
    row = outcomes(run_events(llama, single(llama), scripted(llama, 0.9, 0.0), **options))[0]
    assert row.reasons == (["length"] if room >= 4 else ["guard"])


def test_a_streamer_takes_one_row(llama):
    method = guarded_decoding(scripted(llama), streamer=BaseStreamer())
    with pytest.raises(ConfigError, match="a streamer follows one row"):
        llama.generate(**tiny_inputs(llama, (5, 7)), custom_generate=method, **OPTIONS)


def test_processors_that_keep_state_of_rows_are_refused(llama):
    method = guarded_decoding(scripted(llama))
    with pytest.raises(ConfigError, match="guidance_scale keeps a cache of its own"):
        llama.generate(**single(llama), custom_generate=method, guidance_scale=1.5, **OPTIONS)
    allowed = {"prefix_allowed_tokens_fn": lambda row, ids: [41], "max_new_tokens": 3}
    with pytest.raises(ConfigError, match="prefix_allowed_tokens_fn works for one conversation"):
        llama.generate(**tiny_inputs(llama, (5, 7)), custom_generate=method, **(OPTIONS | allowed))
    ids = llama.generate(**single(llama), custom_generate=method, **(OPTIONS | allowed))
    assert ids[0, -3:].tolist() == [41, 41, 41]


def test_logits_processors_and_length_penalties_of_generate_apply(llama):
    inputs = single(llama)
    options = {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "min_new_tokens": 12}
    expected = plain(llama, inputs, **options)[0].tolist()
    assert answer(run_events(llama, inputs, scripted(llama), **options)) == expected


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=st.lists(st.floats(0, 1), max_size=8),
    policy=st.sampled_from(["continue", "rewind", "restart", "stop"]),
    mode=st.sampled_from(["fused", "exact"]),
    interval=st.integers(1, 9),
    prompt_check=st.booleans(),
    final_check=st.booleans(),
    hold_back=st.sampled_from([None, True, False]),
    max_interventions=st.integers(0, 3),
    new_tokens=st.integers(1, 24),
    seed=st.integers(0, 5),
)
def test_whatever_the_verdicts_events_tell_one_consistent_story(
    script, policy, mode, interval, prompt_check, final_check, hold_back, max_interventions, new_tokens, seed
):
    model = cached_tiny_model("llama")
    config = GuardConfig(
        interval=interval,
        policy=policy,
        mode=mode,
        prompt_check=prompt_check,
        final_check=final_check,
        hold_back=hold_back,
        hold_back_checks=1 + seed % 3,
        max_interventions=max_interventions,
    )
    events = run_events(
        model,
        single(model, seed=seed),
        scripted(model, *script),
        config=config,
        seed=seed,
        do_sample=True,
        max_new_tokens=new_tokens,
        eos_token_id=list(range(1, 10)),
    )
    shown: list[int] = []
    passed = 0
    for event in events[:-1]:
        match event:
            case Token(index=index):
                assert index == len(shown)
                shown.append(event.token_id)
                if config.holds_back and final_check:
                    assert passed >= len(shown) or event.token_id < 10, "a token was shown before its check passed"
            case Retraction(count=count):
                assert 0 < count <= len(shown)
                assert not config.holds_back or policy == "restart"
                del shown[-count:]
            case Check(token_index=index, unsafe=unsafe):
                if not unsafe or policy == "continue":
                    passed = max(passed, index)
            case Intervention(dropped=dropped, policy=kind):
                if kind == "restart":
                    passed = 0
                elif kind == "rewind":
                    passed = min(passed, event.token_index - dropped)
            case Done():
                raise AssertionError("Done must come last")
    assert isinstance(events[-1], Done)
    interventions = [e for e in events if isinstance(e, Intervention)]
    unsafe = [e for e in events if isinstance(e, Check) and e.unsafe]
    # Under `continue` an end right after the reminder brings one more, without a check.
    if policy == "continue" and len(interventions) > len(unsafe):
        assert interventions.pop().policy == "stop"
        assert events[-1].reason == "guard"
    assert len(interventions) == len(unsafe) <= max_interventions + 1
    assert len(shown) <= new_tokens
    stopped = any(isinstance(e, Intervention) and e.policy == "stop" for e in events)
    assert (events[-1].reason == "guard") == stopped
