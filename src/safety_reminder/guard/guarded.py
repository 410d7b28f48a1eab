"""``GuardedVLM``: a model and a reminder, used with chat messages."""

from __future__ import annotations

import copy
import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from safety_reminder.config import GuardConfig
from safety_reminder.errors import ConfigError, ModelError, SafetyReminderError, unknown_name
from safety_reminder.guard.decode import Guard, decode
from safety_reminder.guard.reminder import SafetyReminder
from safety_reminder.models import VLM, Messages, fingerprint_mismatch
from safety_reminder.types import Check, Done, Event, Intervention, Response, Retraction, Token

NEW_TOKENS = 512  # where neither the caller nor the model's generation config says


def guard_config(reminder: SafetyReminder, config: GuardConfig | None, options: Mapping[str, Any]) -> GuardConfig:
    """The pack's own interval, threshold and policy, and the prompt check if its threshold was calibrated with it,
    unless ``config`` is given; then ``options`` on top."""
    if config is None:
        config = GuardConfig(
            interval=reminder.interval,
            threshold=reminder.threshold,
            policy=reminder.policy,  # type: ignore[arg-type]
            prompt_check=reminder.prompt_check,
        )
    return config.replace(**options)


class GuardedVLM:
    """A :class:`~safety_reminder.models.VLM` guarded by a :class:`SafetyReminder`; neither is changed.

    Args:
        vlm: the model and its processor.
        reminder: None gives an unguarded model through the same interface.
        config: default: what the pack says.
        check_base: refuse a reminder whose pack was trained on other weights.

    Raises:
        ModelError: the reminder does not fit the model.
    """

    def __init__(
        self,
        vlm: VLM,
        reminder: SafetyReminder | None = None,
        config: GuardConfig | None = None,
        *,
        check_base: bool = True,
        **options: Any,
    ) -> None:
        self.vlm = vlm
        self.reminder = reminder
        self.check_base = check_base
        self.guard: Guard | None = None
        if reminder is None:
            if config is not None or options:
                raise ConfigError("guard options were given, but no reminder")
            return
        if reminder.hidden_size != vlm.hidden_size:
            raise ModelError(
                f"the reminder was trained for {reminder.base_model or 'a model'} with hidden size "
                f"{reminder.hidden_size}, but {vlm.name} has hidden size {vlm.hidden_size}"
            )
        if check_base and (reason := fingerprint_mismatch(reminder.fingerprint, vlm.model)):
            raise ModelError(
                f"the reminder was trained for {reminder.base_model or 'another model'}, but {vlm.name} is not that "
                f"model: {reason}. Load the model named in the pack, or pass check_base=False to use it anyway"
            )
        self.guard = Guard(reminder, guard_config(reminder, config, options))

    def generate(self, messages: Messages, *, guard: bool = True, **options: Any) -> Response:
        """Answer one conversation.

        Args:
            messages: chat messages as in transformers or OpenAI's API: ``{"role", "content"}``, content a string or
                a list of ``{"type": "text", "text"}``, ``{"type": "image", "image"|"path"|"url"}`` and
                ``{"type": "image_url", "image_url": {"url"}}`` parts. Images: path, PIL image or data URL.
            guard: False generates without checks, through the same loop.
            options: ``seed``, ``stop`` (strings), guard fields by name (``policy="stop"``), and anything
                ``GenerationConfig`` takes (``max_new_tokens``, by default 512, ``do_sample``, ``temperature``, ...).

        Raises:
            MessageError: the messages or an image cannot be read.
        """
        return self.generate_batch([messages], guard=guard, **options)[0]

    def generate_batch(self, batch: Sequence[Messages], *, guard: bool = True, **options: Any) -> list[Response]:
        """Answer several conversations in one batch. Each answer is what :meth:`generate` gives for it alone."""
        if not batch:
            return []
        began = time.perf_counter()
        inputs = self.vlm.encode(batch)
        collectors = [_Collector() for _ in batch]
        for event in self._events(inputs, guard, options):
            collectors[event.row].add(event)
        seconds = time.perf_counter() - began
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        return [c.response(prompt, seconds) for c, prompt in zip(collectors, lengths, strict=True)]

    def stream(self, messages: Messages, *, guard: bool = True, **options: Any) -> Iterator[Event]:
        """Answer one conversation event by event: tokens as they are released, checks, interventions, the end."""
        return self._events(self.vlm.encode([messages]), guard, options)

    def _events(self, inputs: Mapping[str, Any], guard: bool, options: dict[str, Any]) -> Iterator[Event]:
        if not isinstance(guard, bool):
            raise ConfigError(f"guard must be true or false, got {guard!r}")
        options = dict(options)
        names = {f.name for f in dataclasses.fields(GuardConfig)}
        changes = {name: options.pop(name) for name in list(options) if name in names}
        chosen = None
        if guard and self.guard is not None:
            chosen = Guard(self.guard.reminder, self.guard.config.replace(**changes))
        elif changes:
            raise ConfigError(f"guard options {sorted(changes)} were given, but this generation is not guarded")
        method = functools.partial(
            decode, guard=chosen, tokenizer=self.vlm.tokenizer, seed=_seed(options.pop("seed", None))
        )
        stop = _stop_strings("stop", options.pop("stop", None))
        config = self.vlm.model.generation_config
        known = {n for n in vars(config) if not n.startswith("_")} | _GENERATE_ARGUMENTS
        for name in options:
            if name not in known:
                raise ConfigError(unknown_name("generation option", name, known | names | {"seed", "stop"}))
        for name, kind in _KINDS.items():
            value = options.get(name)
            if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
                article = "a whole number" if kind is int else "true or false"
                raise ConfigError(f"{name} must be {article}, got {value!r}")
        given = options.get("generation_config")
        if given is not None:
            if not isinstance(given, GenerationConfig):
                raise ConfigError(f"generation_config must be a GenerationConfig, got {type(given).__name__}")
            given = options["generation_config"] = copy.deepcopy(given)  # the caller's stays as it is
        configs = [c for c in (given, config) if c is not None]
        asked = [options.get("num_return_sequences"), *(c.num_return_sequences for c in configs)]
        if next((count for count in asked if count is not None), 1) > 1:
            raise ConfigError("num_return_sequences must be 1 here; repeat the conversation in generate_batch")
        for name in _LENGTHS & options.keys():
            if options[name] is None:
                del options[name]
        if not options.keys() & _LENGTHS and not any(getattr(c, n) for c in configs for n in _LENGTHS):
            if given is None:
                options["max_new_tokens"] = NEW_TOKENS
            else:
                given.max_new_tokens = NEW_TOKENS
        # `generate` does not hand its tokenizer on to a callable, and cannot find stop strings without one.
        own = options.pop("stop_strings", None) or next((c.stop_strings for c in configs if c.stop_strings), None)
        stop += _stop_strings("stop_strings", own)
        if given is not None:
            given.stop_strings = None
        if stop:
            criterion = self.vlm.stop_criterion(stop)
            options["stopping_criteria"] = [*(options.pop("stopping_criteria", None) or []), criterion]
        kept = config.stop_strings
        # `generate` prepares everything and hands over; what it returns is the iterator of events.
        try:
            config.stop_strings = None
            return self.vlm.model.generate(**inputs, custom_generate=method, **options)  # type: ignore[return-value]
        except SafetyReminderError:
            raise
        except (ValueError, TypeError, ImportError, AssertionError) as error:
            raise ConfigError(f"cannot generate with these options: {error}") from error
        finally:
            config.stop_strings = kept


_LENGTHS = {"max_new_tokens", "max_length"}
_KINDS = {"do_sample": bool, "max_new_tokens": int, "max_length": int}
_GENERATE_ARGUMENTS = {"logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "generation_config"}


def _seed(seed: Any) -> int | list[int] | None:
    for one in seed if isinstance(seed, list | tuple) else [] if seed is None else [seed]:
        if isinstance(one, bool) or not isinstance(one, int) or not 0 <= one < 2**63:
            raise ConfigError(f"seed must be a whole number from 0 to 2**63 - 1, or one for each row, got {seed!r}")
    return list(seed) if isinstance(seed, tuple) else seed


def _stop_strings(name: str, given: Any) -> list[str]:
    strings = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(strings, list | tuple) or not all(isinstance(s, str) and s for s in strings):
        raise ConfigError(f"{name} must be a text that is not empty, or a list of such, got {given!r}")
    return list(strings)


class _Collector:
    """Folds the events of one row into a :class:`Response`."""

    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self.seen: list[str] = []
        self.checks: list[Check] = []
        self.interventions: list[Intervention] = []
        self.leaked = 0
        self.kept = 0  # answer tokens before the last intervention's continuation
        self.reason: str | None = None

    def add(self, event: Event) -> None:
        match event:
            case Token():
                self.tokens.append(event)
                self.seen.append(event.text)
            case Retraction(count=count):
                del self.tokens[-count:]
                # What was shown stays seen, and what comes next does not continue it.
                self.seen.append("\n")
            case Check():
                self.checks.append(event)
            case Intervention():
                if not self.interventions:
                    self.leaked = len(self.tokens)
                self.interventions.append(event)
                self.kept = event.token_index - event.dropped
            case Done(reason=reason):
                self.reason = reason

    def response(self, prompt_tokens: int, seconds: float) -> Response:
        assert self.reason is not None
        return Response(
            text="".join(token.text for token in self.tokens),
            token_ids=tuple(token.token_id for token in self.tokens),
            seen_text="".join(self.seen),
            checks=tuple(self.checks),
            interventions=tuple(self.interventions),
            leaked_tokens=self.leaked,
            finish_reason=self.reason,  # type: ignore[arg-type]
            tail_start=sum(len(token.text) for token in self.tokens[: self.kept]),
            prompt_tokens=int(prompt_tokens),
            seconds=seconds,
        )


def collect(events: Iterator[Event]) -> Response:
    """The :class:`Response` that a stream of one row's events amounts to."""
    collector = _Collector()
    began = time.perf_counter()
    for event in events:
        collector.add(event)
    return collector.response(0, time.perf_counter() - began)


def load_reminder(name: str) -> SafetyReminder:
    """By name: ``pocket``, ``pocket-header`` (of the defence ``header_probe``), a hub id or a folder."""
    from safety_reminder.models.pocket import header_folder, reminder_folder

    shipped = {"pocket": reminder_folder, "pocket-header": header_folder}
    return SafetyReminder.from_pretrained(shipped[name]() if name in shipped else name)


def load(
    model: str,
    reminder: str | SafetyReminder | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    check_base: bool = True,
    config: GuardConfig | None = None,
    **options: Any,
) -> GuardedVLM:
    """Load a model and a reminder: ``load("pocket", "pocket")``, ``load("llava-hf/llava-1.5-7b-hf", "./my-pack")``.

    Args:
        model: a configured name (``pocket``), a hub id or a folder.
        reminder: ``pocket``, a hub id, a folder, a :class:`SafetyReminder`, or None for an unguarded model.
        device: default: an accelerator if there is one.
        dtype: ``auto`` takes the checkpoint's own.
        check_base: refuse a reminder that was trained on other weights.
        options: fields of :class:`GuardConfig`.

    Raises:
        ModelError, PackError, ConfigError: with what to do about it.
    """
    from safety_reminder.models import load_vlm

    if isinstance(reminder, str):
        reminder = load_reminder(reminder)
    return GuardedVLM(load_vlm(model, device=device, dtype=dtype), reminder, config, check_base=check_base, **options)
