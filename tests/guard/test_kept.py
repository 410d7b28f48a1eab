"""Controls leave something else in the context than the reminder that the probe is read after."""

from __future__ import annotations

import pytest
import torch

from helpers import (
    OPTIONS,
    REMINDER_IDS,
    answer,
    cached_tiny_model,
    extended,
    outcomes,
    plain,
    random_probe,
    reminder_of_tokens,
    run_events,
    scripted,
    single,
)
from safety_reminder.config import GuardConfig
from safety_reminder.errors import ConfigError, ModelError
from safety_reminder.guard import Guard, decode
from safety_reminder.models.tiny import tiny_inputs

WORDS: tuple[int, ...] = (41, 8, 77, 23, 60)  # another length than the reminder's
MODES = ["exact", "fused"]


def kept_events(model, inputs, reminder, kept, **options):
    guard_fields = {k: options.pop(k) for k in list(options) if k in GuardConfig.__dataclass_fields__}
    guard = Guard(reminder, GuardConfig(interval=5).replace(**guard_fields), kept)
    seed = options.pop("seed", None)

    def method(*arguments, **kwargs):
        return decode(*arguments, **kwargs, guard=guard, seed=seed)

    return list(model.generate(**inputs, custom_generate=method, **(OPTIONS | options)))


def vectors_of(model, ids):
    return model.get_input_embeddings()(torch.tensor(ids)).detach().float()


@pytest.mark.parametrize(
    ("family", "policy"),
    [("gemma3", "continue"), ("qwen2_vl", "rewind"), ("llama", "restart")],  # sliding windows, M-RoPE
)
def test_the_model_goes_on_as_from_the_same_text_with_the_words_in_it(family, policy):
    """Two interventions, so that the second one stands after the first one's words, and not after vectors."""
    model = cached_tiny_model(family)
    inputs = single(model, 12)
    events = kept_events(
        model, inputs, scripted(model, 0.1, 0.9, 0.1, 0.9), WORDS, policy=policy, eos_token_id=None, max_new_tokens=20,
    )  # fmt: skip
    before = plain(model, inputs, eos_token_id=None)[0].tolist()
    begun = {"continue": before[:10], "rewind": before[:5], "restart": []}[policy]
    first = [*begun, *WORDS]
    more = plain(model, extended(inputs, first), eos_token_id=None)[0].tolist()
    following = {"continue": more[:10], "rewind": more[:5], "restart": []}[policy]
    again = list(WORDS) if policy == "restart" else [*first, *following, *WORDS]
    written = [] if policy == "restart" else [*begun, *following]
    rest = plain(model, extended(inputs, again), eos_token_id=None, max_new_tokens=20)[0].tolist()
    assert answer(events) == (written + rest)[:20]
    assert len(outcomes(events)[0].interventions) == 2


@pytest.mark.parametrize("kept", [WORDS, None])
@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen2_vl", "lfm2"])
def test_what_waited_for_more_checks_is_taken_back_though_it_had_passed_one(family, kept):
    """Twice, the second time to right after the first reminder, which a cache that forgets must read again."""
    model = cached_tiny_model(family)
    lengths = (12, 9) if family in ("llama", "lfm2") else (12,)  # without images a row is easily taken alone
    inputs = tiny_inputs(model, lengths)
    options = {"policy": "rewind", "hold_back_checks": 2, "eos_token_id": None, "max_new_tokens": 24}
    events = kept_events(model, inputs, scripted(model, 0.1, 0.1, 0.9, 0.1, 0.9), kept, **options)
    for row, length in enumerate(lengths):
        alone = inputs
        if len(lengths) > 1:
            alone = {name: value[row : row + 1, -length:] for name, value in inputs.items()}
        begun = plain(model, alone, eos_token_id=None)[0].tolist()[:5]
        again = [*begun, *(kept or REMINDER_IDS), *(kept or REMINDER_IDS)]
        rest = plain(model, extended(alone, again), eos_token_id=None)[0].tolist()
        found = outcomes(events)[row]
        assert found.tokens == (begun + rest)[:24]
        assert [i.dropped for i in found.interventions] == [10, 10]


@pytest.mark.parametrize("mode", MODES)
def test_vectors_that_are_kept_are_followed_as_the_tokens_that_they_embed(mode):
    llama = cached_tiny_model("llama")
    inputs = single(llama, 12)
    options = {"policy": "continue", "mode": mode, "prompt_check": True, "eos_token_id": None}
    found = [
        answer(kept_events(llama, inputs, scripted(llama, 0.9, 0.1, 0.9), kept, **options))
        for kept in (WORDS, vectors_of(llama, list(WORDS)))
    ]
    assert found[0] == found[1]
    itself = kept_events(llama, inputs, scripted(llama, 0.9, 0.1, 0.9), tuple(REMINDER_IDS), **options)
    assert answer(itself) == answer(run_events(llama, inputs, scripted(llama, 0.9, 0.1, 0.9), **options))
    assert found[0] != answer(itself)


@pytest.mark.parametrize(("kept", "policy"), [(WORDS, "rewind"), ("vectors", "continue")])
def test_up_to_the_first_intervention_verdicts_are_the_plain_guard_s(kept, policy):
    model = cached_tiny_model("llama")
    kept = 3 * torch.randn(2, 32, generator=torch.Generator().manual_seed(1)) if kept == "vectors" else kept
    inputs = tiny_inputs(model, (9, 14, 5))
    options = {"policy": policy, "threshold": 0.6, "eos_token_id": None}
    reminder = reminder_of_tokens(model, random_probe(model))
    expected, found = (
        outcomes(events)
        for events in (
            run_events(model, inputs, reminder, **options),
            kept_events(model, inputs, reminder, kept, **options),
        )
    )
    fired = 0
    for row, one in expected.items():
        other = found[row]
        end = next((n + 1 for n, check in enumerate(one.checks) if check.unsafe), len(one.checks))
        fired += any(check.unsafe for check in one.checks)
        assert [c.token_index for c in other.checks[:end]] == [c.token_index for c in one.checks[:end]]
        assert [c.p_unsafe for c in other.checks[:end]] == [c.p_unsafe for c in one.checks[:end]]
    assert fired
    assert any(found[row].tokens != one.tokens for row, one in expected.items())


@pytest.mark.parametrize(("kept", "family"), [(WORDS, "gemma3"), ("vectors", "qwen2_vl")])
def test_a_batch_gives_every_row_what_it_gets_alone(kept, family):
    model = cached_tiny_model(family)
    kept = 0.5 * torch.randn(4, 32, generator=torch.Generator().manual_seed(1)) if kept == "vectors" else kept
    lengths = (9, 16)
    options = {
        "mode": "exact",
        "interval": 4,
        "max_interventions": 2,
        "threshold": 0.05,
        "eos_token_id": list(range(1, 12)),
        "max_new_tokens": 14,
    }
    reminder = reminder_of_tokens(model, random_probe(model, scale=0.4))
    batch = outcomes(kept_events(model, tiny_inputs(model, lengths), reminder, kept, **options))
    for row, length in enumerate(lengths):
        alone = outcomes(kept_events(model, tiny_inputs(model, (length,), seed=row), reminder, kept, **options))[0]
        assert batch[row].tokens == alone.tokens
        assert [c.p_unsafe for c in batch[row].checks] == pytest.approx([c.p_unsafe for c in alone.checks], abs=1e-4)
    assert any(row.interventions for row in batch.values())


def test_positions_are_reserved_for_what_is_kept(monkeypatch):
    llama = cached_tiny_model("llama")
    monkeypatch.setattr(llama.config, "max_position_embeddings", 40)
    inputs = single(llama, 12)
    options = {"max_interventions": 2, "eos_token_id": None, "prompt_check": True}
    written = len(answer(kept_events(llama, inputs, scripted(llama), WORDS, **options)))
    assert written == 40 - 12 - 3 - 2 * len(WORDS)


@pytest.mark.parametrize(
    ("kept", "error", "message"),
    [
        ((), ConfigError, "at least one token"),
        (torch.zeros(2, 31), ConfigError, r"shape \(n, 32\), got \(2, 31\)"),
        (torch.zeros(0, 32), ConfigError, "got"),
        (torch.full((1, 32), torch.nan), ConfigError, "not finite"),
        ((5, 128), ModelError, "does not know"),
    ],
)
def test_what_cannot_be_kept_is_refused(kept, error, message):
    llama = cached_tiny_model("llama")
    with pytest.raises(error, match=message):
        kept_events(llama, single(llama), scripted(llama), kept)
