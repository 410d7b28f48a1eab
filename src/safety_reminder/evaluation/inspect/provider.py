"""Inspect's model provider ``safety-reminder/MODEL``: every Inspect task can be run guarded, or by a rival defence.

inspect eval TASK --model safety-reminder/pocket -M reminder=pocket
inspect eval TASK --model safety-reminder/llava-hf/llava-1.5-7b-hf -M defense=self_reminder
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    ContentImage,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from safety_reminder.config import GuardConfig
from safety_reminder.config.reading import ReadingOptions
from safety_reminder.data import load_detector_rows
from safety_reminder.defenses import defense_options, load_defense
from safety_reminder.defenses.base import Rewriter, Verdicts
from safety_reminder.engines import Answered, BatchingEngine
from safety_reminder.errors import ConfigError
from safety_reminder.evaluation.inspect.logs import TRACE, as_trace
from safety_reminder.evaluation.judges import Item, NoAnswer, judge_each, load_judge
from safety_reminder.evaluation.judges.chat import chat_model
from safety_reminder.evaluation.judges.prompts import fill
from safety_reminder.guard import GuardedVLM, load_reminder
from safety_reminder.models import VLM, load_vlm
from safety_reminder.types import Example, Request, Response, Sampling

_STOP: dict[str, StopReason] = {
    "stop": "stop", "length": "max_tokens", "guard": "content_filter", "guard_error": "content_filter",
}  # fmt: skip


class SafetyReminderAPI(ModelAPI):
    """A model of transformers with a defence, for Inspect. Concurrent samples are answered in batches.

    Args:
        model_name: a configured name (``pocket``), a hub id or a folder.
        reminder: ``pocket``, a hub id or a folder; ``none``.
        defense: a name of :data:`~safety_reminder.defenses.DEFENSES`; default ``reminder``, if there is one.
        label: what to call it in records, to tell two uses of one defence apart; default: its name.
        batch_size: rows answered together.
        device, dtype, check_base: as in :func:`safety_reminder.load`.
        options: guard options (``policy``, ``threshold``, ...), how messages are read (``special_text``,
            ``max_image_pixels``), and options of the defence.

    Raises:
        ConfigError, ModelError, PackError: with what to do about it.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        *,
        reminder: str = "none",
        defense: str | None = None,
        label: str | None = None,
        batch_size: int = 8,
        device: str | None = None,
        dtype: str = "auto",
        check_base: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        with_reminder = reminder not in (None, "none")
        reading = {option: options.pop(option) for option in list(options) if option in ReadingOptions.model_fields}
        vlm, self._one_at_a_time = _load(model_name, device, dtype, ReadingOptions.parse(reading).model_dump_json())
        pack = None
        if with_reminder:
            pack = load_reminder(reminder)
        name = defense or ("reminder" if with_reminder else "none")
        # An option that the defence has itself goes to it, such as the policy of a guard that it makes.
        names = {f.name for f in dataclasses.fields(GuardConfig)} - set(defense_options(name))
        guard = {option: options.pop(option) for option in list(options) if option in names}
        self.guarded = GuardedVLM(vlm, pack, check_base=check_base, **guard)
        self.defense = load_defense(name, self.guarded, _Helpers(device), **options)
        self.label = label or name
        self.batch_size = batch_size
        self._engine: BatchingEngine[Request, Response] | None = None

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        if tools:
            raise ConfigError("guarded models do not call tools; use a task without tools")
        if self._engine is None:
            self._engine = BatchingEngine(
                self._answer, alike=lambda request: request.settings, batch_size=self.batch_size
            )
        future = self._engine.submit(as_request(input, config))
        return self._output(await asyncio.wrap_future(future))

    def _answer(self, requests: Sequence[Request]) -> list[Response]:
        with self._one_at_a_time:
            return self.defense.respond(requests)

    def _output(self, answered: Answered[Response]) -> ModelOutput:
        response = answered.response
        reason = response.finish_reason
        output = ModelOutput.from_content(self.model_name, response.text, stop_reason=_STOP[reason])
        written = len(response.token_ids) + response.extra_tokens
        output.usage = ModelUsage(
            input_tokens=response.prompt_tokens,
            output_tokens=written,
            total_tokens=response.prompt_tokens + written,
        )
        output.time = response.seconds
        output.metadata = {TRACE: as_trace(answered, self.label, monitored=self.defense.monitors)}
        return output

    def max_connections(self) -> int:
        # One batch is answered while the next gathers.
        return 2 * self.batch_size

    def connection_key(self) -> str:
        return f"safety-reminder/{self.model_name}"

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None


@functools.lru_cache(maxsize=1)
def _load(name: str, device: str | None, dtype: str, reading: str) -> tuple[VLM, threading.Lock]:
    """The model, once for all defences of a run, and a lock: they must not use it at the same time. ``reading``: its
    options as JSON."""
    options = ReadingOptions.model_validate_json(reading)
    return load_vlm(name, device=device, dtype=dtype, reading=options), threading.Lock()


@dataclass(frozen=True)
class _Helpers:
    """Judges, chat models and rows by name, for defences that ask for them."""

    device: str | None

    def verdicts(self, judge: str, options: Mapping[str, Any]) -> Verdicts:
        loaded = load_judge(judge, **options)
        return lambda asked: [
            verdict.unsafe
            for verdict in judge_each(loaded, [Item(prompt, answer, image) for prompt, image, answer in asked])
        ]

    def rewriter(self, model: str, url: str | None, prompt: str) -> Rewriter:
        chat = chat_model(model, url, self.device, "auto", 8)

        def rewrite(requests: Sequence[str]) -> list[str]:
            answers = chat.ask([fill(prompt, request=text) for text in requests], max_new_tokens=512)
            return ["" if isinstance(answer, NoAnswer) else answer for answer in answers]  # stays as it was asked

        return rewrite

    def examples(self, name: str) -> list[Example]:
        return load_detector_rows(name)


def as_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Inspect's messages in the form that :class:`GuardedVLM` takes.

    Raises:
        ConfigError: a role or a kind of content that these models do not read.
    """
    out = []
    for message in messages:
        if message.role == "tool":
            raise ConfigError("guarded models do not call tools; use a task without tools")
        if isinstance(message.content, str):
            out.append({"role": message.role, "content": message.content})
            continue
        parts: list[dict[str, Any]] = []
        for part in message.content:
            if isinstance(part, ContentText):
                parts.append({"type": "text", "text": part.text})
            elif isinstance(part, ContentImage):
                parts.append({"type": "image", "image": part.image})
            else:
                raise ConfigError(f"these models read text and images; a message has {part.type!r}")
        out.append({"role": message.role, "content": parts})
    return out


def as_request(messages: Sequence[ChatMessage], config: GenerateConfig) -> Request:
    """Inspect's messages and generation options. Temperature 0 is greedy. A seed belongs to its sample, wherever that
    stands in a batch."""
    if config.num_choices not in (None, 1):
        raise ConfigError("num_choices is not supported; use epochs")
    temperature = config.temperature
    sampling = Sampling(
        max_new_tokens=config.max_tokens,
        do_sample=None if temperature is None else temperature > 0,
        temperature=temperature or None,
        top_p=config.top_p if temperature != 0 else None,  # of a greedy answer they say nothing
        top_k=config.top_k if temperature != 0 else None,
    )
    return Request(as_messages(messages), sampling, seed=config.seed, stop=tuple(config.stop_seqs or ()))
