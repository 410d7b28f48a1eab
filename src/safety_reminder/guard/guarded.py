"""``GuardedVLM``: a model and a reminder, used with chat messages."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from safety_reminder.config import GuardConfig
from safety_reminder.config.reading import ReadingOptions
from safety_reminder.errors import ConfigError, ModelError, SafetyReminderError, shortened
from safety_reminder.guard.decoding import Guard, Kept, decode
from safety_reminder.guard.generation import generate_arguments
from safety_reminder.guard.options import parse, shared_settings
from safety_reminder.guard.reminder import SafetyReminder
from safety_reminder.models import VLM, Messages, fingerprint_mismatch
from safety_reminder.models.checked import require_correct
from safety_reminder.types import Check, Done, Event, Intervention, Request, Response, Retraction, Token


def guard_config(reminder: SafetyReminder, config: GuardConfig | None, options: Mapping[str, Any]) -> GuardConfig:
    """The pack's own interval, thresholds and policy, and the prompt check if its threshold was calibrated with it,
    unless ``config`` is given; then ``options`` on top.

    Raises:
        ConfigError: an option that is none; or only the pack says ``monitor``, which guards nobody.
    """
    if config is None:
        if reminder.policy == "monitor" and "policy" not in options:
            raise ConfigError(
                "the pack's own policy is monitor, which reports verdicts and stops nothing; say which one you want: "
                "policy=rewind guards, policy=monitor watches"
            )
        config = GuardConfig(
            interval=reminder.interval,
            threshold=reminder.threshold,
            prompt_threshold=reminder.prompt_threshold,
            image_threshold=reminder.image_threshold,
            policy=reminder.policy,  # type: ignore[arg-type]
            prompt_check=reminder.prompt_check,
            hold_back_checks=reminder.hold_back_checks,
        )
    return config.replace(**options)


class GuardedVLM:
    """A :class:`~safety_reminder.models.VLM` guarded by a :class:`SafetyReminder`; neither is changed.

    Args:
        vlm: the model and its processor.
        reminder: None gives an unguarded model through the same interface.
        config: default: what the pack says.
        check_base: refuse a reminder whose pack was trained on other weights.
        kept: for controls, what an unsafe verdict leaves in the context in the reminder's place; see :class:`Guard`.

    Raises:
        ModelError: the reminder does not fit the model, or the model cannot be guarded.
        ConfigError: a name or a path, which :func:`load` takes, in the place of a model or a reminder; guard options
            without a reminder.
    """

    def __init__(
        self,
        vlm: VLM,
        reminder: SafetyReminder | None = None,
        config: GuardConfig | None = None,
        *,
        check_base: bool = True,
        kept: Kept | None = None,
        **options: Any,
    ) -> None:
        _require_loaded(vlm, reminder)
        self.vlm = vlm
        self.reminder = reminder
        self.check_base = check_base
        self.guard: Guard | None = None
        if reminder is None:
            if config is not None or options or kept is not None:
                raise ConfigError("guard options were given, but no reminder")
            return
        require_correct(vlm)
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
        self.guard = Guard(reminder, guard_config(reminder, config, options), kept)

    def generate(self, messages: Messages, *, guard: bool = True, **options: Any) -> Response:
        """Answer one conversation.

        Args:
            messages: chat messages as in transformers or OpenAI's API: ``{"role", "content"}``, content a string or
                a list of ``{"type": "text", "text"}``, ``{"type": "image", "image"|"path"|"url"}`` and
                ``{"type": "image_url", "image_url": {"url"}}`` parts. Images: path, PIL image or data URL. If the last
                message is the assistant's, it is continued; it is not part of the response's text.
            guard: False generates without checks, through the same loop.
            options: ``seed``, ``stop`` (strings), guard fields by name (``policy="stop"``), and anything
                ``GenerationConfig`` takes (``max_new_tokens``, by default 512, ``do_sample``, ``temperature``, ...).

        Raises:
            MessageError: the messages or an image cannot be read.
        """
        return self.generate_batch([messages], guard=guard, **options)[0]

    def generate_batch(self, batch: Sequence[Messages], *, guard: bool = True, **options: Any) -> list[Response]:
        """Answer several conversations in one batch, or continue those that end with an assistant message. Each answer
        is what :meth:`generate` gives for it alone.

        ``seed``: row i draws from ``seed + i``; or one for each row, in a list.
        """
        return self.respond(self._parse(batch, guard, options))

    def respond(self, requests: Sequence[Request], watch: Callable[[Event], object] | None = None) -> list[Response]:
        """Answer requests that have the same settings in one batch.

        Args:
            watch: called with every event, as it comes.

        Raises:
            ConfigError: their settings differ, or an option is not valid. MessageError: messages or an image.
        """
        if not requests:
            return []
        began = time.perf_counter()
        prepared = self.vlm.prepare([request.messages for request in requests])
        inputs = prepared.inputs
        collectors = [_Collector() for _ in requests]
        for event in self._events(inputs, requests):
            collectors[event.row].add(event)
            if watch is not None:
                watch(event)
        seconds = time.perf_counter() - began
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        return [
            c.response(prompt, seconds, inert)
            for c, prompt, inert in zip(collectors, lengths, prepared.inert, strict=True)
        ]

    def stream(self, messages: Messages, *, guard: bool = True, **options: Any) -> Iterator[Event]:
        """Answer (or continue, as :meth:`generate` does) one conversation event by event: tokens as they are released,
        checks, interventions, the end."""
        requests = self._parse([messages], guard, options)
        return self._events(self.vlm.encode([messages]), requests)

    def _parse(self, batch: Sequence[Messages], guard: bool, options: Mapping[str, Any]) -> list[Request]:
        return parse(batch, options, guard=guard, base=self.guard.config if self.guard else None)

    def _events(self, inputs: Mapping[str, Any], requests: Sequence[Request]) -> Iterator[Event]:
        shared = shared_settings(requests)
        seeds = [request.seed for request in requests if request.seed is not None]
        method = functools.partial(
            decode, guard=self._guard_of(shared), tokenizer=self.vlm.tokenizer, seed=seeds or None
        )
        model, options = generate_arguments(self.vlm, shared.sampling, shared.stop)
        # `generate` prepares everything and hands over; what it returns is the iterator of events.
        try:
            return model.generate(**inputs, custom_generate=method, **options)
        except SafetyReminderError:
            raise
        except (ValueError, TypeError, ImportError, AssertionError) as error:
            raise ConfigError(f"cannot generate with these options: {error}") from error

    def _guard_of(self, request: Request) -> Guard | None:
        if request.guard is False:
            return None
        if request.guard is True:
            return self.guard
        if self.guard is None:
            raise ConfigError("a request brings guard options along, but this model has no reminder")
        return dataclasses.replace(self.guard, config=request.guard)


def _require_loaded(vlm: object, reminder: object) -> None:
    """Raises: ConfigError: something else stands where a loaded model or reminder is due; says how to load it."""

    def named(value: object) -> str:
        return shortened(repr(str(value)), 80) if isinstance(value, str | Path) else f"a {type(value).__name__}"

    names = "safety_reminder.load(MODEL, REMINDER) takes names and folders"
    if not isinstance(vlm, VLM):
        raise ConfigError(f"GuardedVLM takes a VLM, as load_vlm(MODEL) gives it, not {named(vlm)}; {names}")
    if reminder is not None and not isinstance(reminder, SafetyReminder):
        loads = "SafetyReminder.from_pretrained(FOLDER) loads a pack"
        raise ConfigError(f"GuardedVLM takes a SafetyReminder, not {named(reminder)}; {loads}, and {names}")


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

    def response(self, prompt_tokens: int, seconds: float, inert_tokens: int = 0) -> Response:
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
            inert_tokens=inert_tokens,
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
    reminder: str | Path | SafetyReminder | None = None,
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
        options: fields of :class:`GuardConfig`, and of :class:`~safety_reminder.config.reading.ReadingOptions`:
            ``special_text="refuse"``, ``max_image_pixels``.

    Raises:
        ModelError, PackError, ConfigError: with what to do about it.
    """
    from safety_reminder.models import load_vlm

    if isinstance(reminder, str | Path):
        reminder = load_reminder(str(reminder))
    reading = {name: options.pop(name) for name in list(options) if name in ReadingOptions.model_fields}
    vlm = load_vlm(model, device=device, dtype=dtype, reading=ReadingOptions.parse(reading))
    return GuardedVLM(vlm, reminder, config, check_base=check_base, **options)
