"""Limits: prompts as long as the model reads, and generation options that would change nothing, or are out of range."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, MambaConfig

from checkpoints import random_reminder, tiny_vlm
from safety_reminder.errors import ConfigError, MessageError
from safety_reminder.guard import GuardedVLM, guarded_decoding
from safety_reminder.models.limits import most_positions

HELLO = [{"role": "user", "content": "Hello"}]
LONG = [{"role": "user", "content": "Hello" * 20}]


@pytest.fixture(scope="module")
def guarded() -> GuardedVLM:
    return GuardedVLM(tiny_vlm("llama"), random_reminder(), interval=4, policy="stop", threshold=1.0)


@pytest.fixture
def short(guarded, monkeypatch) -> int:
    """The model knows so many positions: the long prompt's, twelve more, and those that the reminder needs."""
    prompt = guarded.vlm.encode([LONG])["input_ids"].shape[1]
    positions = prompt + 12 + 2 * 4
    monkeypatch.setattr(guarded.vlm.model.config, "max_position_embeddings", positions)
    return positions


def test_an_answer_ends_where_the_positions_do(guarded, short):
    for guard, tokens in ((True, 12), (False, 20)):
        [alone] = guarded.generate_batch([LONG], guard=guard, max_new_tokens=30, eos_token_id=-1)
        assert (len(alone.token_ids), alone.finish_reason) == (tokens, "length")
        batch = guarded.generate_batch([HELLO, LONG], guard=guard, max_new_tokens=30, eos_token_id=-1)
        assert [len(response.token_ids) for response in batch] == [30, tokens]
        assert batch[1].token_ids == alone.token_ids
    assert len(guarded.generate(LONG, max_new_tokens=3, eos_token_id=-1).token_ids) == 3


@pytest.mark.parametrize("way", ["generate", "stream", "custom_generate"])
def test_a_prompt_beyond_them_is_refused(guarded, short, way):
    longer = [{"role": "user", "content": "Hello" * 23}]
    inputs = guarded.vlm.encode([longer])
    count = inputs["input_ids"].shape[1]
    message = rf"the prompt has {count} tokens, but the model knows {short} positions \(max_position_embeddings\)"
    method = guarded_decoding(guarded.reminder)
    ways = {
        "generate": lambda: guarded.generate(longer, max_new_tokens=1),
        "stream": lambda: list(guarded.stream(longer, max_new_tokens=1)),
        "custom_generate": lambda: guarded.vlm.model.generate(**inputs, custom_generate=method, max_new_tokens=1),
    }
    with pytest.raises(MessageError, match=message):
        ways[way]()
    with pytest.raises(MessageError, match="the prompt of conversation 1 has"):
        guarded.generate_batch([HELLO, longer], max_new_tokens=1)


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({}, 64),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, 256),
        (
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32,
                    "rope_theta": 1e4,
                }
            },
            128,
        ),
    ],
)
def test_scaled_positions_count(changes, most):
    class Model:
        config = LlamaConfig(max_position_embeddings=64, **changes)

    assert most_positions(Model) == most


def test_a_model_that_names_no_limit_has_none():
    class Model:
        config = MambaConfig()

    assert most_positions(Model) is None


WRONG = [
    ({"top_p": 2.0}, "top_p must be at least 0 and at most 1, got 2"),
    ({"min_p": 1.5}, "min_p must be at least 0 and at most 1, got 1.5"),
    ({"typical_p": -1.0}, "typical_p must be at least 0 and at most 1, got -1"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be at least 0, got -1"),
    ({"num_beams": 0}, "num_beams selects a decoding method"),
    ({"num_beams": 3}, "beam search cannot be guarded"),
    ({"constraints": ["x"]}, "constraints selects a decoding method"),
    ({"force_words_ids": [[5]]}, "force_words_ids selects a decoding method"),
    ({"num_beam_groups": 2}, "num_beam_groups selects a decoding method"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
@pytest.mark.parametrize("way", ["options", "config", "custom_generate"])
def test_options_that_are_wrong_or_of_another_method_are_refused(guarded, options, message, way):
    config = GenerationConfig(max_new_tokens=1, **options)
    inputs, method = guarded.vlm.encode([HELLO]), guarded_decoding(guarded.reminder)
    ways = {
        "options": lambda: guarded.generate(HELLO, max_new_tokens=1, **options),
        "config": lambda: guarded.generate(HELLO, generation_config=config),
        "custom_generate": lambda: guarded.vlm.model.generate(
            **inputs, custom_generate=method, generation_config=config
        ),
    }
    with pytest.raises(ConfigError, match=message):
        ways[way]()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.5}, r"temperature=0\.5 has no effect without sampling; add do_sample=True, or remove it"),
        ({"token_healing": True}, "token_healing selects a decoding method"),
        ({"top_k": 5, "do_sample": False}, "top_k=5 has no effect without sampling"),
        ({"min_p": "half"}, "min_p must be a number, got 'half'"),
        (
            {"length_penalty": 2.0},
            "length_penalty selects a decoding method that the guard replaces, or belongs to one",
        ),
        ({"num_return_sequences": 0}, "num_return_sequences must be at least 1, got 0"),
        ({"min_new_tokens": True}, "min_new_tokens must be a whole number, got True"),
    ],
)
def test_options_without_an_effect_are_refused(guarded, options, message):
    with pytest.raises(ConfigError, match=message):
        guarded.generate(HELLO, max_new_tokens=1, **options)


def test_options_that_say_what_is_done_anyway_are_taken(guarded):
    plain = guarded.generate(HELLO, max_new_tokens=2)
    neutral: dict[str, Any] = {"num_beams": 1, "length_penalty": 1.0, "early_stopping": False, "temperature": 1.0}
    assert guarded.generate(HELLO, max_new_tokens=2, top_p=1.0, **neutral).token_ids == plain.token_ids
    sampled = GenerationConfig(max_new_tokens=2, temperature=0.5, top_k=3, do_sample=True)
    assert guarded.generate(HELLO, generation_config=sampled, do_sample=False).token_ids == plain.token_ids


def test_the_last_seed_serves_a_batch(guarded):
    options: dict[str, Any] = {"max_new_tokens": 3, "do_sample": True}
    batch = guarded.generate_batch([HELLO, HELLO], seed=2**63 - 1, **options)
    assert batch[1].token_ids == guarded.generate(HELLO, seed=0, **options).token_ids
    inputs = guarded.vlm.encode([HELLO, HELLO])
    generate = guarded.vlm.model.generate
    last = generate(**inputs, custom_generate=guarded_decoding(guarded.reminder, seed=2**63 - 1), **options)
    first = generate(**inputs, custom_generate=guarded_decoding(guarded.reminder, seed=0), **options)
    assert torch.equal(last[1], first[0])


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True, "x"])
def test_a_seed_that_is_none_is_refused_at_once(guarded, seed):
    with pytest.raises(ConfigError, match=r"seed must be a whole number from 0 to 2\*\*63 - 1"):
        guarded_decoding(guarded.reminder, seed=seed)
