"""Another engine over the same decisions: one that knows token ids alone, streams, probes beside the stream, and aborts
and resubmits where the context changes. It has no model, no cache and no torch of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from helpers import OPTIONS, cached_tiny_model, random_probe, reminder_of_tokens, single
from safety_reminder.config import GuardConfig
from safety_reminder.guard import Guard, decode
from safety_reminder.guard.answer import Answer, Drop, Feed, Finished, Keep, Read, Rewind
from safety_reminder.types import Done, Event, FinishReason

Ids = tuple[int, ...]
REMINDER_IDS = (900, 901, 902)
MANY_EOS = list(range(1, 12))


@dataclass
class Server:
    """What a serving engine offers: a stream of tokens after some ids, and the probe's value after some ids. ``tokens``
    (what is drawn there each time) and ``probes`` say what comes after which ids; to ask for others is a mistake."""

    tokens: Mapping[Ids, list[tuple[int, FinishReason | None]]]
    probes: Mapping[Ids, float]
    submitted: list[Ids] = field(default_factory=list)
    probed: list[Ids] = field(default_factory=list)

    def stream(self, ids: Ids) -> Iterator[tuple[int, FinishReason | None]]:
        self.submitted.append(ids)
        return self._written(ids)

    def _written(self, ids: Ids) -> Iterator[tuple[int, FinishReason | None]]:
        while True:
            token, finish = self.tokens[ids].pop(0)
            yield token, finish
            ids = (*ids, token)

    def probe(self, ids: Ids) -> float:
        self.probed.append(ids)
        return self.probes[ids]


def serve(server: Server, prompt: Ids, answer: Answer) -> list[Event]:
    """One request: the stream goes on while checks pass, and is asked for anew where the context was changed."""
    events: list[Event] = []
    stream = server.stream(prompt)

    def ids() -> Ids:
        flat = [REMINDER_IDS if item is None else (item,) for item in answer.context]
        return (*prompt, *(token for part in flat for token in part))

    while not isinstance(answer.todo, Finished):
        match answer.todo:
            case Read():
                events += answer.verdict(server.probe((*ids(), *REMINDER_IDS)))
                if isinstance(answer.todo, Keep | Rewind):
                    stream = server.stream(ids())
            case Feed() | Drop() | Keep() | Rewind():
                events += answer.token(*next(stream))
    return events


@dataclass
class Log:
    """What a run of ``decode`` drew and read, by what the model had read then."""

    tokens: dict[Ids, list[tuple[int, FinishReason | None]]] = field(default_factory=dict)
    probes: dict[Ids, float] = field(default_factory=dict)


def logged(monkeypatch, prompt: Ids, log: Log) -> None:
    """Let every :class:`Answer` of ``decode`` write down what it is told."""

    class Logging(Answer):
        def _ids(self) -> Ids:
            flat = [REMINDER_IDS if item is None else (item,) for item in self.context]
            return (*prompt, *(token for part in flat for token in part))

        def token(self, token, finish=None):
            log.tokens.setdefault(self._ids(), []).append((token, finish))
            return super().token(token, finish)

        def verdict(self, p_unsafe):
            log.probes[(*self._ids(), *REMINDER_IDS)] = p_unsafe
            return super().verdict(p_unsafe)

    monkeypatch.setattr("safety_reminder.guard.decoding.Answer", Logging)


def comparable(events: list[Event]) -> list[str]:
    return [repr(event) for event in events]  # NaN is not itself


@pytest.mark.parametrize("policy", ["continue", "rewind", "restart", "stop", "monitor"])
@pytest.mark.parametrize("prompt_check", [False, True])
@pytest.mark.parametrize("threshold", [0.4, 0.6, 1.0])
def test_an_engine_of_token_ids_gets_the_events_that_decoding_gets(monkeypatch, policy, prompt_check, threshold):
    model: Any = cached_tiny_model("llama")
    config = GuardConfig(policy=policy, prompt_check=prompt_check, threshold=threshold, interval=3, mode="exact")
    reminder = reminder_of_tokens(model, random_probe(model, scale=0.4))
    inputs = single(model)
    prompt, log = tuple(inputs["input_ids"][0].tolist()), Log()
    logged(monkeypatch, prompt, log)

    def method(*given, **kwargs):
        return decode(*given, guard=Guard(reminder, config), tokenizer=None, seed=4, **kwargs)

    options = OPTIONS | {"do_sample": True, "eos_token_id": MANY_EOS}
    expected = list(model.generate(**inputs, custom_generate=method, **options))
    server = Server(log.tokens, log.probes)
    answer = Answer(config, eos=MANY_EOS, max_tokens=OPTIONS["max_new_tokens"])
    assert comparable(serve(server, prompt, answer)) == comparable(expected)
    # As many streams as the context was changed under one, and a probe for every check.
    changed = [
        e for e in expected if type(e).__name__ == "Intervention" and e.policy in ("continue", "rewind", "restart")
    ]
    assert len(server.submitted) == 1 + len(changed)
    assert len(server.probed) == sum(type(e).__name__ == "Check" for e in expected)


def test_scripted_verdicts_drive_it_without_any_model():
    prompt = (1000, 1001)
    beginning, again = (10, 11, 12, 13), (20, 21)
    tokens: dict[Ids, list[tuple[int, FinishReason | None]]] = {}
    for at, token in enumerate(beginning):
        tokens[(*prompt, *beginning[:at])] = [(token, None)]
    reminded = (*prompt, 10, 11, *REMINDER_IDS)
    tokens[reminded], tokens[(*reminded, 20)] = [(20, None)], [(21, "length")]
    probes = {
        (*prompt, 10, 11, *REMINDER_IDS): 0.1,
        (*prompt, *beginning, *REMINDER_IDS): 0.9,
        (*reminded, *again, *REMINDER_IDS): 0.2,
    }
    server = Server(tokens, probes)
    events = serve(server, prompt, Answer(GuardConfig(interval=2, policy="rewind")))
    assert [type(e).__name__ for e in events] == [
        "Check", "Token", "Token", "Check", "Intervention", "Check", "Token", "Token", "Done",
    ]  # fmt: skip
    assert server.submitted == [prompt, reminded]


def test_a_probe_that_fails_on_the_server_closes_the_answer():
    prompt = (1000,)
    server = Server({prompt: [(10, None)], (*prompt, 10): [(11, None)]}, {(*prompt, 10, 11, *REMINDER_IDS): math.nan})
    events = serve(server, prompt, Answer(GuardConfig(interval=2)))
    assert events[-1] == Done("guard_error")
    assert not any(type(event).__name__ == "Token" for event in events)


def test_the_machine_needs_no_torch():
    """An import contract says it of the source; this says it of what is loaded."""
    import subprocess
    import sys

    code = "import sys, safety_reminder.guard.answer as a; assert 'torch' not in sys.modules, 'torch was loaded'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert torch is not None
