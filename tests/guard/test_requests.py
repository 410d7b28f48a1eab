"""What a call leaves behind: no hook, no gradient mode, no changed configuration; and requests as values."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from checkpoints import tiny_guarded, tiny_vlm
from guard.test_guarded import LENGTH, conversation, hooks, silent
from helpers import ScriptedProbe
from safety_reminder.errors import ConfigError
from safety_reminder.guard import GuardedVLM, SafetyReminder, guarded_decoding
from safety_reminder.models.tiny import tiny_inputs, tiny_model
from safety_reminder.types import Request, Sampling


@pytest.fixture
def guarded() -> GuardedVLM:
    return tiny_guarded()


@pytest.mark.parametrize("family", ["llama", "llava"])
def test_no_hook_of_a_guard_stays_on_a_model(family):
    """transformers leaves some of its own where a vision tower's states are wanted, whoever generates."""
    models: list[Any] = [tiny_model(family) for _ in range(2)]
    own, ours = models
    inputs = tiny_inputs(own, (9,))
    own.generate(**inputs, max_new_tokens=6, do_sample=False)
    size = ours.get_input_embeddings().weight.shape[1]
    reminder = SafetyReminder(torch.zeros(2, size), ScriptedProbe(torch.zeros(size), 0.0, [0.1, 0.9]))
    ours.generate(**inputs, custom_generate=guarded_decoding(reminder, interval=2), max_new_tokens=6, do_sample=False)
    assert hooks(ours) == hooks(own)
    if family == "llama":
        assert hooks(ours) == 0


@pytest.mark.slow
def test_a_stream_that_is_abandoned_says_nothing_at_exit(tmp_path):
    from safety_reminder.models.tiny import tiny_checkpoint

    tiny_checkpoint("llama", tmp_path / "model")
    code = (
        "import safety_reminder\n"
        f"guarded = safety_reminder.load({str(tmp_path / 'model')!r}, device='cpu')\n"
        "stream = guarded.stream([{'role': 'user', 'content': 'Hello'}], max_new_tokens=8)\n"
        "next(stream)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert "Exception ignored" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stream_leaves_gradients_as_its_reader_has_them(guarded):
    stream = guarded.stream(conversation(1), **LENGTH)
    next(stream)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        next(stream)
    stream.close()
    assert torch.is_grad_enabled()


def test_stop_strings_of_the_model_s_own_survive_threads():
    model = silent(interval=5)
    own = model.vlm.model.generation_config
    whole = model.generate(conversation(3), **LENGTH)
    place = next(i for i, c in enumerate(whole.text) if i > 3 and c.isascii() and c not in whole.text[:i])
    own.stop_strings = [whole.text[place]]
    try:
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda _: model.generate(conversation(3), **LENGTH).text, range(8)))
        assert set(answers) == {whole.text[: place + 1]}
        assert own.stop_strings == [whole.text[place]]
    finally:
        own.stop_strings = None


def test_requests_of_one_batch_agree_in_their_settings(guarded):
    sampling = Sampling(max_new_tokens=6, do_sample=False)
    one, other = (Request(conversation(n), sampling) for n in (1, 2))
    assert [r.text for r in guarded.respond([one, other])] == [
        r.text for r in guarded.generate_batch([conversation(1), conversation(2)], max_new_tokens=6, do_sample=False)
    ]
    for change in ({"guard": False}, {"stop": ("x",)}, {"seed": 3}, {"sampling": Sampling(max_new_tokens=7)}):
        with pytest.raises(ConfigError, match="requests of one batch must agree"):
            guarded.respond([one, replace(other, **change)])
    assert guarded.respond([]) == []


def test_a_request_may_bring_a_guard_configuration_of_its_own(guarded):
    sampling = Sampling(max_new_tokens=9, do_sample=False)
    config = guarded.guard.config.replace(policy="monitor", interval=3)
    (response,) = guarded.respond([Request(conversation(1), sampling, guard=config)])
    assert [check.token_index for check in response.checks] == [3, 6, 9]
    with pytest.raises(ConfigError, match="this model has no reminder"):
        GuardedVLM(tiny_vlm()).respond([Request(conversation(1), sampling, guard=config)])
