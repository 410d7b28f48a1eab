"""What tests share: reminders whose vectors are token embeddings, scripted probes, and event collectors."""

from __future__ import annotations

import errno
import functools
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessor

from safety_reminder.config import GuardConfig
from safety_reminder.guard import Guard, Probe, SafetyReminder, decode
from safety_reminder.models.tiny import EOS, tiny_inputs, tiny_model
from safety_reminder.types import Check, Done, Event, Intervention, Retraction, Token

# A reminder made of ordinary tokens can be put into input_ids, where the model itself says what must come out.
REMINDER_IDS = [11, 57, 93]
# Random models would say image tokens, which no prompt may then hold without an image.
OPTIONS = {"max_new_tokens": 23, "do_sample": False, "suppress_tokens": list(range(118, 128))}


def reminder_of_tokens(model, probe: Probe | None = None) -> SafetyReminder:
    vectors = model.get_input_embeddings()(torch.tensor(REMINDER_IDS)).detach().float()
    return SafetyReminder(vectors, probe or random_probe(model))


def random_probe(model, scale: float = 0.5) -> Probe:
    size = model.get_input_embeddings().weight.shape[1]
    return Probe(scale * torch.randn(size, generator=torch.Generator().manual_seed(5)), 0.0)


def silent_probe(model) -> Probe:
    return Probe(torch.zeros(model.get_input_embeddings().weight.shape[1]), -20.0)


@dataclass(frozen=True)
class ScriptedProbe(Probe):
    """Says what it is told, check by check (the same for all rows); silent when the script is over."""

    script: list[float] = field(default_factory=list)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        p = self.script.pop(0) if self.script else 0.0
        return torch.full(hidden.shape[:1], p)


def scripted(model, *script: float) -> SafetyReminder:
    size = model.get_input_embeddings().weight.shape[1]
    return reminder_of_tokens(model, ScriptedProbe(torch.zeros(size), 0.0, list(script)))


def run_events(model, inputs, reminder=None, *, seed=None, tokenizer=None, config=None, **options: Any) -> list[Event]:
    """Decode and return all events. ``options``: GuardConfig fields, and those of ``generate``."""
    guard_fields = {k: options.pop(k) for k in list(options) if k in GuardConfig.__dataclass_fields__}
    guard = None if reminder is None else Guard(reminder, (config or GuardConfig(interval=5)).replace(**guard_fields))
    method = functools.partial(decode, guard=guard, tokenizer=tokenizer, seed=seed)
    return list(model.generate(**inputs, custom_generate=method, **(OPTIONS | options)))


@dataclass
class Outcome:
    tokens: list[int] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    interventions: list[Intervention] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    text: str = ""


def outcomes(events: list[Event]) -> dict[int, Outcome]:
    rows: dict[int, Outcome] = defaultdict(Outcome)
    for event in events:
        row = rows[event.row]
        match event:
            case Token(token_id=token, text=text):
                row.tokens.append(token)
                row.text += text
            case Retraction(count=count, text=text):
                del row.tokens[-count:]
                row.text = row.text.removesuffix(text)
            case Check():
                row.checks.append(event)
            case Intervention():
                row.interventions.append(event)
            case Done(reason=reason):
                row.reasons.append(reason)
    return rows


def answer(events: list[Event], row: int = 0) -> list[int]:
    return outcomes(events)[row].tokens


def plain(model, inputs, **options: Any) -> torch.Tensor:
    """transformers' own generate, without guard; the generated part."""
    ids = model.generate(**inputs, **(OPTIONS | options))
    return ids[:, inputs["input_ids"].shape[1] :]


def extended(inputs, tokens: list[int]) -> dict[str, torch.Tensor]:
    """The same batch of one with ``tokens`` after the prompt."""
    extra = torch.tensor([tokens], dtype=torch.long)
    out = dict(inputs)
    out["input_ids"] = torch.cat([inputs["input_ids"], extra], 1)
    out["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(extra)], 1)
    for key in ("mm_token_type_ids", "token_type_ids"):
        if key in inputs:
            out[key] = torch.cat([inputs[key], torch.zeros_like(extra)], 1)
    return out


@torch.no_grad()
def recomputed_hidden(model, inputs, tokens: list[int]) -> torch.Tensor:
    """The last final hidden state of prompt + tokens, in one pass without a cache, as the model itself computes it."""
    return model(**extended(inputs, tokens), output_hidden_states=True, use_cache=False).hidden_states[-1][0, -1]


def without_eos(tokens: list[int]) -> list[int]:
    return [token for token in tokens if token != EOS]


class Recorder(LogitsProcessor):
    """Keeps the logits it is shown."""

    def __init__(self) -> None:
        self.logits: list[torch.Tensor] = []

    def __call__(self, input_ids, scores):
        self.logits.append(scores.clone())
        return scores


def single(model, length: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    return tiny_inputs(model, (length,), seed=seed)


@functools.cache
def cached_tiny_model(family: str):
    return tiny_model(family)


def full_disk(_: Any) -> None:
    """In the place of ``os.fsync``."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def contents(folder: Path) -> list[str]:
    """Every file's path in it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
