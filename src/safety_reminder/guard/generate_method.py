"""The guard as a decoding method for those who call ``model.generate`` themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers.generation import GenerateDecoderOnlyOutput

from safety_reminder.config import GuardConfig
from safety_reminder.errors import ConfigError
from safety_reminder.guard.decoding import Guard, decode
from safety_reminder.guard.guarded import guard_config
from safety_reminder.guard.reminder import SafetyReminder
from safety_reminder.types import Check, Event, Intervention, Retraction, Token, is_seed


@dataclass
class GuardedGenerateOutput(GenerateDecoderOnlyOutput):
    """What ``generate(return_dict_in_generate=True)`` returns: transformers' fields, and what the guard did."""

    checks: tuple[Check, ...] | None = None
    interventions: tuple[Intervention, ...] | None = None


def guarded_decoding(
    reminder: SafetyReminder | None,
    config: GuardConfig | None = None,
    *,
    tokenizer: Any | None = None,
    streamer: Any | None = None,
    seed: int | None = None,
    **options: Any,
) -> Callable[..., torch.Tensor | GuardedGenerateOutput]:
    """A decoding method: ``model.generate(**inputs, custom_generate=guarded_decoding(reminder))``.

    Returns what ``generate`` returns: (rows, prompt + answer) token ids, right-padded, or a
    :class:`GuardedGenerateOutput`. Sampling options, logits processors and stopping criteria of ``generate`` apply.

    Args:
        reminder: the pack; None generates unguarded, through the same loop.
        config: default: the pack's interval, threshold and policy. ``options`` change single fields of it.
        tokenizer: only needed for the text of the fixed refusal; without one the answer just ends there.
        streamer: receives the prompt, then released tokens (one row only). It cannot withdraw, so tokens are held
            back. Given here because transformers 5 does not hand ``generate(streamer=...)`` on to a callable.
        seed: row i samples from its own generator; None: torch's global one, as transformers does.

    Raises:
        ConfigError: options without a reminder, or with a streamer those under which shown text is withdrawn; a seed
            that is none.
    """
    if not is_seed(seed):
        raise ConfigError(f"seed must be a whole number from 0 to 2**63 - 1, got {seed!r}")
    guard = _guard(reminder, config, options, streamer)

    def custom_generate(
        model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs
    ) -> torch.Tensor | GuardedGenerateOutput:
        if streamer is not None:
            if input_ids.shape[0] > 1:
                raise ConfigError("a streamer follows one row; give a batch of one, or no streamer")
            streamer.put(input_ids.cpu())  # as transformers does: a streamer may skip the prompt
        events = decode(
            model,
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            guard=guard,
            tokenizer=tokenizer,
            seed=seed,
            **{k: v for k, v in model_kwargs.items() if k not in ("synced_gpus", "streamer")},
        )
        answers, checks, interventions = _consume(events, input_ids.shape[0], streamer)
        sequences = _after_prompts(input_ids, answers, generation_config.pad_token_id)
        if not generation_config.return_dict_in_generate:
            return sequences
        return GuardedGenerateOutput(
            sequences=cast(torch.LongTensor, sequences), checks=tuple(checks), interventions=tuple(interventions)
        )

    return custom_generate


def _guard(
    reminder: SafetyReminder | None, config: GuardConfig | None, options: dict[str, Any], streamer: Any | None
) -> Guard | None:
    if reminder is None:
        if config is not None or options:
            raise ConfigError("guard options were given, but no reminder")
        return None
    if streamer is not None:
        options.setdefault("hold_back", True)
    used = guard_config(reminder, config, options)
    withdraws = used.policy == "restart" or (used.policy in ("rewind", "stop") and not used.holds_back)
    if streamer is not None and withdraws:
        raise ConfigError(
            f"a streamer cannot withdraw what it was given, as policy={used.policy} with "
            f"hold_back={used.hold_back} would; use rewind or stop, with hold_back"
        )
    return Guard(reminder, used)


def _consume(
    events: Iterable[Event], rows: int, streamer: Any | None
) -> tuple[list[list[int]], list[Check], list[Intervention]]:
    """The tokens of each row that stand at the end, and what the guard did in all of them."""
    answers: list[list[int]] = [[] for _ in range(rows)]
    checks, interventions = [], []
    for event in events:
        match event:
            case Token(token_id=token, row=row):
                answers[row].append(token)
                if streamer is not None:
                    streamer.put(torch.tensor([token]))
            case Retraction(count=count, row=row):
                del answers[row][-count:]
            case Check():
                checks.append(event)
            case Intervention():
                interventions.append(event)
    if streamer is not None:
        streamer.end()
    return answers, checks, interventions


def _after_prompts(input_ids: torch.Tensor, answers: list[list[int]], pad: int | None) -> torch.Tensor:
    """(rows, prompt + answer), right-padded."""
    longest = max(map(len, answers))
    padded = [answer + [0 if pad is None else pad] * (longest - len(answer)) for answer in answers]
    tail = torch.tensor(padded, dtype=input_ids.dtype, device=input_ids.device)
    return torch.cat([input_ids, tail.view(len(answers), longest)], dim=1)
