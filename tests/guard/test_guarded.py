"""``GuardedVLM``: messages in, one consistent answer out, and a model that is left as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from checkpoints import random_reminder, tiny_guarded, tiny_vlm
from helpers import ScriptedProbe
from safety_reminder.config import GuardConfig
from safety_reminder.errors import ConfigError, MessageError
from safety_reminder.guard import GuardedVLM, Probe, SafetyReminder, collect
from safety_reminder.guard import generation as guarding
from safety_reminder.types import Check, Done, Intervention, Response, Retraction, Token

POLICIES = ["continue", "rewind", "restart", "stop"]
LENGTH = {"max_new_tokens": 24, "do_sample": False}


def conversation(number: int = 0, *, image: bool = True) -> list[dict]:
    content: list[dict] = [{"type": "text", "text": "Filler " * number}]
    if image:
        content.insert(0, {"type": "image", "image": Image.new("RGB", (8, 8), (40 * number, 0, 0))})
    return [{"role": "user", "content": content}]


BATCH = [conversation(0), conversation(2), conversation(1, image=False), conversation(4)]


@pytest.fixture
def guarded() -> GuardedVLM:
    return tiny_guarded()


def scripted(*script: float, **options) -> GuardedVLM:
    vectors = random_reminder().vectors
    options = {"interval": 5, "threshold": 0.5, **options}
    return GuardedVLM(tiny_vlm(), SafetyReminder(vectors, ScriptedProbe(torch.zeros(32), 0.0, list(script))), **options)


def silent(**options) -> GuardedVLM:
    return GuardedVLM(tiny_vlm(), SafetyReminder(random_reminder().vectors, Probe(torch.zeros(32), -20.0)), **options)


def characters_of_several_bytes(batch_id, sent) -> list[int]:
    return tiny_vlm().tokenizer.encode("é日😀Ж", add_special_tokens=False)


def letters(batch_id, sent) -> list[int]:
    """One byte each, so that no token waits for the rest of its character."""
    return tiny_vlm().tokenizer.encode("abcdefgh", add_special_tokens=False)


def decoded(response: Response) -> str:
    tokenizer = tiny_vlm().tokenizer
    return tokenizer.decode(list(response.token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def assert_same(left: Response, right: Response) -> None:
    for name in ("text", "token_ids", "seen_text", "leaked_tokens", "finish_reason", "tail_start", "prompt_tokens"):
        assert getattr(left, name) == getattr(right, name), name
    strip = lambda checks: [(c.token_index, c.unsafe, c.kind) for c in checks]  # noqa: E731
    assert strip(left.checks) == strip(right.checks)
    assert [c.p_unsafe for c in left.checks] == pytest.approx([c.p_unsafe for c in right.checks], abs=1e-4)
    strip = lambda acts: [(a.token_index, a.policy, a.dropped) for a in acts]  # noqa: E731
    assert strip(left.interventions) == strip(right.interventions)


def story(events) -> tuple[str, str, list[int]]:
    """What stands in the end, everything that was shown, and the tokens that stand."""
    stands, seen = [], ""
    for event in events:
        if isinstance(event, Token):
            stands.append(event)
            seen += event.text
        elif isinstance(event, Retraction):
            del stands[-event.count :]
            seen += "\n"
    return "".join(t.text for t in stands), seen, [t.token_id for t in stands]


@pytest.mark.parametrize("hold_back", [True, False])
@pytest.mark.parametrize("policy", POLICIES)
def test_streamed_is_whole_is_what_the_tokenizer_says(guarded, policy, hold_back):
    fired = 0
    for number in range(4):
        options = {
            "max_new_tokens": 24,
            "policy": policy,
            "hold_back": hold_back,
            "do_sample": True,
            "seed": number,
            "threshold": 0.3,
            "prefix_allowed_tokens_fn": characters_of_several_bytes if number % 2 else None,
        }
        events = list(guarded.stream(conversation(number), **options))
        response = guarded.generate(conversation(number), **options)
        assert story(events) == (response.text, response.seen_text, list(response.token_ids))
        assert response.text == decoded(response)
        fired += response.intervened
        assert isinstance(events[-1], Done)
        assert sum(isinstance(e, Done) for e in events) == 1
    assert fired


def test_characters_of_several_bytes_come_whole(guarded):
    options = {"max_new_tokens": 60, "do_sample": True, "seed": 3}
    events = guarded.stream(
        conversation(1), guard=False, prefix_allowed_tokens_fn=characters_of_several_bytes, **options
    )
    pieces = [event.text for event in events if isinstance(event, Token)]
    assert any(len(piece.encode()) > 1 and "\ufffd" not in piece for piece in pieces)


def test_collecting_a_stream_gives_the_response(guarded):
    collected = collect(guarded.stream(conversation(0), **LENGTH))
    response = guarded.generate(conversation(0), **LENGTH)
    assert (collected.text, collected.checks, collected.interventions) == (
        response.text,
        response.checks,
        response.interventions,
    )


@pytest.mark.parametrize("options", [{"policy": p} for p in POLICIES] + [{"guard": False}, {"hold_back": False}])
def test_a_batch_gives_every_conversation_what_it_gets_alone(guarded, options):
    together = guarded.generate_batch(BATCH, **LENGTH, **options)
    alone = [guarded.generate(messages, **LENGTH, **options) for messages in BATCH]
    assert len({r.token_ids for r in alone}) > 1
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)


def test_an_empty_batch_has_no_answers(guarded):
    assert guarded.generate_batch([], **LENGTH) == []


@pytest.mark.parametrize("make", [tiny_guarded, lambda: GuardedVLM(tiny_vlm()), silent])
@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 1.5, "top_k": 20}])
def test_unguarded_is_what_transformers_itself_generates(make, options):
    vlm, options = tiny_vlm(), LENGTH | options
    inputs = vlm.encode([conversation(3)])
    torch.manual_seed(7)
    ids = vlm.model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
    torch.manual_seed(7)
    guard = make is silent
    response = make().generate(conversation(3), guard=guard, **options)
    assert list(response.token_ids) == ids.tolist()
    assert response.text == vlm.tokenizer.decode(ids, skip_special_tokens=True)
    assert response.prompt_tokens == inputs["input_ids"].shape[1]
    assert bool(response.checks) == guard


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_token": 3}, "unknown generation option 'max_new_token'; did you mean 'max_new_tokens'"),
        ({"polcy": "stop"}, "unknown generation option 'polcy'; did you mean 'policy'"),
        ({"sede": 3}, "unknown generation option 'sede'; did you mean 'seed'"),
        ({"save_pretrained": 1}, "unknown generation option 'save_pretrained'"),
        ({"policy": "rewnd"}, "unknown guard.policy 'rewnd'; did you mean 'rewind'"),
        ({"interval": 0}, "guard.interval must be at least 1 token"),
        ({"threshold": 2}, "guard.threshold must lie in (0, 1]"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": "x"}, "seed must be a whole number from 0"),
        ({"guard": False, "policy": "stop"}, "['policy'] were given, but this generation is not guarded"),
        ({"seed": 2**63}, "seed must be a whole number from 0"),
        ({"do_sample": "no"}, "do_sample must be true or false, got 'no'"),
        ({"max_new_tokens": 12.5}, "max_new_tokens must be a whole number, got 12.5"),
        ({"guard": "no"}, "guard must be true or false, got 'no'"),
        ({"stop": [""]}, "stop must be a text that is not empty"),
        ({"stop": 3}, "stop must be a text that is not empty"),
        ({"stop_strings": [""]}, "stop_strings must be a text that is not empty"),
        ({"generation_config": {"max_new_tokens": 4}}, "generation_config must be a GenerationConfig, got dict"),
        ({"cache_implementation": "offloaded"}, "cache_implementation=offloaded is a cache that"),
        ({"num_beams": 2}, "beam search cannot be guarded"),
        ({"use_cache": False}, "use_cache=False is not supported"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"temperature": -1.0, "do_sample": True}, "temperature must be at least 0, got -1.0"),
        ({"repetition_penalty": "much"}, "repetition_penalty must be a number, got 'much'"),
        ({"top_p": 2}, "top_p must be at least 0 and at most 1, got 2"),
        ({"top_k": 2.5}, "top_k must be a whole number, got 2.5"),
        ({"temperature": 0.0, "do_sample": True}, "cannot generate with these options"),
        ({"max_length": "long"}, "max_length must be a whole number, got 'long'"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(guarded, options, message):
    with pytest.raises(ConfigError) as caught:
        guarded.generate(conversation(), **(LENGTH | options))
    assert message in str(caught.value)


def test_guard_options_without_a_reminder_are_refused():
    with pytest.raises(ConfigError, match="no reminder"):
        GuardedVLM(tiny_vlm(), interval=4)
    with pytest.raises(ConfigError, match="no reminder"):
        GuardedVLM(tiny_vlm(), None, GuardConfig())
    with pytest.raises(ConfigError, match="unknown guard option 'intervall'; did you mean 'interval'"):
        GuardedVLM(tiny_vlm(), random_reminder(), intervall=4)
    with pytest.raises(ConfigError, match="is not guarded"):
        GuardedVLM(tiny_vlm()).generate(conversation(), policy="stop")


def test_messages_are_checked_when_a_stream_is_asked_for_and_not_later(guarded):
    with pytest.raises(MessageError):
        guarded.stream([])
    with pytest.raises(ConfigError):
        guarded.stream(conversation(), nonsense=1)


def test_options_come_from_the_pack_then_from_loading_then_from_the_call():
    reminder = random_reminder(interval=7, threshold=0.9, policy="stop")
    as_packed = GuardedVLM(tiny_vlm(), reminder).guard
    assert as_packed is not None
    assert as_packed.config == GuardConfig(interval=7, threshold=0.9, policy="stop")
    guarded = GuardedVLM(tiny_vlm(), reminder, threshold=1.0)
    checks = guarded.generate(conversation(), interval=9, eos_token_id=None, **LENGTH).checks
    assert [c.token_index for c in checks] == [9, 18, 24]
    assert guarded.guard is not None
    assert guarded.guard.config == GuardConfig(interval=7, threshold=1.0, policy="stop")


@pytest.mark.parametrize("calibrated", [True, False])
def test_the_bare_prompt_is_checked_if_the_threshold_was_calibrated_with_that(calibrated):
    reminder = SafetyReminder(
        random_reminder().vectors, Probe(torch.zeros(32), -20.0), calibration={"prompt_check": calibrated}
    )
    guarded = GuardedVLM(tiny_vlm(), reminder)
    checks = guarded.generate(BATCH[0], **LENGTH).checks
    assert ("prompt" in [c.kind for c in checks]) is calibrated
    checks = guarded.generate(BATCH[0], prompt_check=not calibrated, **LENGTH).checks
    assert ("prompt" in [c.kind for c in checks]) is not calibrated


@pytest.mark.parametrize("given", [{"num_return_sequences": 2}, {"generation_config": 2}, {}])
def test_several_answers_at_once_are_refused_wherever_they_are_asked_for(monkeypatch, given):
    guarded = GuardedVLM(tiny_vlm(), random_reminder())
    if "generation_config" in given:
        given = {"generation_config": GenerationConfig(num_return_sequences=2, do_sample=True)}
    elif not given:
        monkeypatch.setattr(guarded.vlm.model.generation_config, "num_return_sequences", 2)
        monkeypatch.setattr(guarded.vlm.model.generation_config, "do_sample", True)
    options = {"do_sample": True, "max_new_tokens": 2}
    with pytest.raises(ConfigError, match="num_return_sequences must be 1"):
        guarded.generate(conversation(), **given, **options)
    # What is asked for in the call comes first.
    assert guarded.generate(conversation(), **given | {"num_return_sequences": 1}, **options).token_ids


def test_a_seed_gives_the_same_answer_and_leaves_torchs_generator_alone(guarded):
    state = torch.get_rng_state()
    options = {"max_new_tokens": 12, "do_sample": True}
    answers = [guarded.generate(conversation(1), seed=seed, **options).token_ids for seed in (1, 2, 3, 1)]
    assert answers[0] == answers[3]
    assert len(set(answers)) == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_seed_torchs_generator_decides(guarded):
    torch.manual_seed(5)
    first, second = (guarded.generate(conversation(1), do_sample=True, max_new_tokens=12).token_ids for _ in range(2))
    assert first != second
    torch.manual_seed(5)
    assert guarded.generate(conversation(1), do_sample=True, max_new_tokens=12).token_ids == first


def test_transformers_own_stop_strings_work_too():
    model = silent(interval=5)
    whole = model.generate(conversation(3), **LENGTH)
    place = next(i for i, c in enumerate(whole.text) if i > 3 and c.isascii() and c not in whole.text[:i])
    stop, expected = whole.text[place], whole.text[: place + 1]
    assert model.generate(conversation(3), stop_strings=[stop], **LENGTH).text == expected
    own = model.vlm.model.generation_config
    given = GenerationConfig.from_dict({**own.to_dict(), "stop_strings": [stop]})
    assert model.generate(conversation(3), generation_config=given, **LENGTH).text == expected
    assert given.stop_strings == [stop]
    assert model.generate(conversation(3), stop=stop, stopping_criteria=None, **LENGTH).text == expected
    own.stop_strings = [stop]
    try:
        assert model.generate(conversation(3), **LENGTH).text == expected
        assert own.stop_strings == [stop]
    finally:
        own.stop_strings = None


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("guard", [False, True])
def test_a_stop_string_ends_the_answer(as_list, guard):
    model = silent(interval=5)
    whole = model.generate(conversation(3), guard=guard, **LENGTH)
    place = next(i for i, c in enumerate(whole.text) if i > 3 and c.isascii() and c not in whole.text[:i])
    stop = whole.text[place]
    response = model.generate(conversation(3), guard=guard, stop=[stop, "never"] if as_list else stop, **LENGTH)
    assert response.text == whole.text[: place + 1]
    assert response.finish_reason == "stop"
    assert whole.finish_reason == "length"


@pytest.mark.parametrize(
    ("policy", "hold_back", "script", "leaked"),
    [
        ("continue", None, (0.9,), 5),
        ("continue", None, (0.1, 0.9), 10),
        ("continue", None, (0.9, 0.1, 0.9), 5),
        ("rewind", None, (0.9,), 0),
        ("rewind", None, (0.1, 0.9, 0.9), 5),
        ("restart", None, (0.1, 0.1, 0.9), 10),
        ("stop", None, (0.9,), 0),
        ("rewind", False, (0.1, 0.9), 10),
        ("stop", False, (0.9,), 5),
        ("rewind", None, (0.1,) * 9, 0),
    ],
)
def test_the_leak_is_what_was_shown_when_the_guard_first_intervened(policy, hold_back, script, leaked):
    guarded = scripted(*script, policy=policy, hold_back=hold_back)
    response = guarded.generate(conversation(1), prefix_allowed_tokens_fn=letters, **LENGTH)
    assert response.leaked_tokens == leaked
    assert response.intervened == (max(script) > 0.5)


def test_held_back_text_is_never_seen_and_shown_text_cannot_be_unseen():
    options = {"prefix_allowed_tokens_fn": letters, **LENGTH}
    plain = scripted().generate(conversation(1), guard=False, **options).text
    held = scripted(0.1, 0.9, policy="rewind").generate(conversation(1), **options)
    shown = scripted(0.1, 0.9, policy="rewind", hold_back=False).generate(conversation(1), **options)
    assert held.text == held.seen_text == shown.text
    assert shown.seen_text == plain[:10] + "\n" + shown.text[5:]  # what was withdrawn is not continued
    assert plain[:5] == shown.text[:5]
    assert shown.text[shown.tail_start :] == shown.text[5:]


@pytest.mark.parametrize(("hold_back", "seen"), [(None, 0), (False, 6)])
def test_a_policy_of_stop_ends_with_the_fixed_refusal(hold_back, seen):
    guarded = scripted(0.9, policy="stop", refusal="Nö.", hold_back=hold_back)
    response = guarded.generate(conversation(1), prefix_allowed_tokens_fn=letters, **LENGTH)
    assert (response.text, response.finish_reason, response.tail_start) == ("Nö.", "guard", 0)
    assert response.seen_text.endswith("Nö.")
    assert len(response.seen_text) == seen + 3


def test_an_answer_that_nobody_limits_ends_after_512_tokens(monkeypatch):
    assert guarding.NEW_TOKENS == 512
    monkeypatch.setattr(guarding, "NEW_TOKENS", 60)
    guarded = silent(interval=100)
    options = {"do_sample": False, "prefix_allowed_tokens_fn": letters}
    assert len(guarded.generate(conversation(1), **options).token_ids) == 60
    assert len(guarded.generate(conversation(1), max_new_tokens=None, **options).token_ids) == 60
    silent_config = GenerationConfig(do_sample=False, eos_token_id=1, pad_token_id=0)
    options["generation_config"] = silent_config
    assert len(guarded.generate(conversation(1), **options).token_ids) == 60
    del options["generation_config"]
    length = len(guarded.generate(conversation(1), max_length=40, **options).token_ids)
    assert 0 < length < 40


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def hooks(model) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_model_is_left_as_it_was(policy):
    vlm = tiny_vlm()
    model = vlm.model
    weights, config = snapshot(model), copy.deepcopy(model.generation_config.to_dict())
    layers, count = [type(m) for m in model.modules()], hooks(model)
    flags = [p.requires_grad for p in model.parameters()]
    guarded = scripted(0.1, 0.9, 0.9, policy=policy, hold_back=False)
    guarded.generate_batch(BATCH, **LENGTH)
    stream: Any = guarded.stream(conversation(1), **LENGTH)
    assert isinstance(next(stream), Token | Check | Intervention)
    stream.close()
    with pytest.raises(ConfigError):
        guarded.generate(conversation(1), num_beams=2)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert model.generation_config.to_dict() == config
    assert ([type(m) for m in model.modules()], hooks(model)) == (layers, count)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not model.training


def test_only_rows_with_an_image_are_held_to_the_threshold_of_images():
    guarded = scripted(0.4, 0.4, threshold=0.5, image_threshold=0.3, policy="monitor", prompt_check=True)
    found = guarded.generate_batch(BATCH, max_new_tokens=3, do_sample=False)
    assert [response.checks[0].unsafe for response in found] == [True, True, False, True]
    assert all(response.checks[0].p_unsafe == pytest.approx(0.4) for response in found)
