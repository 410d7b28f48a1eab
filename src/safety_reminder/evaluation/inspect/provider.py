"""Inspect's model provider ``safety-reminder/MODEL``: every Inspect task can be run guarded, or by a rival defence.

inspect eval TASK --model safety-reminder/pocket -M reminder=pocket
inspect eval TASK --model safety-reminder/llava-hf/llava-1.5-7b-hf -M defense=self_reminder
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import threading
from collections.abc import Sequence
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
from safety_reminder.defenses import defense_options, load_defense
from safety_reminder.defenses.bluesuffix import REWRITE, Rewriter
from safety_reminder.defenses.post_hoc import Verdicts
from safety_reminder.engines import Answered, BatchingEngine
from safety_reminder.errors import ConfigError
from safety_reminder.evaluation.inspect.logs import TRACE, as_trace
from safety_reminder.evaluation.judges import Item, Judge, load_judge
from safety_reminder.evaluation.judges.chat import chat_model
from safety_reminder.evaluation.judges.prompts import fill
from safety_reminder.guard import GuardedVLM, load_reminder
from safety_reminder.models import VLM, load_vlm
from safety_reminder.types import Response

_STOP: dict[str, StopReason] = {
    "stop": "stop", "length": "max_tokens", "guard": "content_filter", "guard_error": "content_filter",
}  # fmt: skip


class SafetyReminderAPI(ModelAPI):
    """A model of transformers behind a defence, for Inspect. Concurrent samples are answered in batches.

    Args:
        model_name: a configured name (``pocket``), a hub id or a folder.
        reminder: ``pocket``, a hub id or a folder; ``none``.
        defense: a name of :data:`~safety_reminder.defenses.DEFENSES`; default ``reminder`` if there is one.
        label: what to call it in records, to tell two uses of one defence apart; default: its name.
        batch_size: rows answered together.
        device, dtype, check_base: as in :func:`safety_reminder.load`.
        options: guard options (``policy``, ``threshold``, ...) and options of the defence.

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
        vlm, self._one_at_a_time = _load(model_name, device, dtype)
        pack = None
        if with_reminder:
            pack = load_reminder(reminder)
        name = defense or ("reminder" if with_reminder else "none")
        # An option that the defence has itself is its own, such as the policy of a guard that it makes.
        names = {f.name for f in dataclasses.fields(GuardConfig)} - set(defense_options(name))
        guard = {option: options.pop(option) for option in list(options) if option in names}
        if name == "post_hoc" and "judge" in options:
            options["judge"] = _verdicts(load_judge(options["judge"], **options.pop("judge_options", {})))
        if name == "bluesuffix" and "rewriter_model" in options:
            options["rewriter"] = _rewriter(options.pop("rewriter_model"), options.pop("rewriter_url", None), device)
        self.guarded = GuardedVLM(vlm, pack, check_base=check_base, **guard)
        self.defense = load_defense(name, self.guarded, **options)
        self.label = label or name
        self.batch_size = batch_size
        self._engine: BatchingEngine[Any, Response] | None = None

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        if tools:
            raise ConfigError("models behind a guard do not call tools; use a task without tools")
        if self._engine is None:
            self._engine = BatchingEngine(self._answer, batch_size=self.batch_size)
        future = self._engine.submit(as_messages(input), **_options(config))
        return self._output(await asyncio.wrap_future(future))

    def _answer(self, batch: Sequence[Any], **options: Any) -> list[Response]:
        if options.get("seed") is not None:
            # Every row its own, or its answer would depend on where in a batch it came to stand.
            options["seed"] = [options["seed"]] * len(batch)
        with self._one_at_a_time:
            return self.defense.generate_batch(batch, **options)

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
def _load(name: str, device: str | None, dtype: str) -> tuple[VLM, threading.Lock]:
    """The model, once for all defences of a run, and a lock: they must not use it at the same time."""
    return load_vlm(name, device=device, dtype=dtype), threading.Lock()


def _rewriter(model: str, url: str | None, device: str | None) -> Rewriter:
    chat = chat_model(model, url, device, "auto", 8)
    return lambda requests: chat.ask([fill(REWRITE, request=text) for text in requests], max_new_tokens=512)


def _verdicts(judge: Judge) -> Verdicts:
    return lambda asked: [
        found.unsafe for found in judge.judge([Item(prompt, answer, image) for prompt, image, answer in asked])
    ]


def as_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Inspect's messages in the form that :class:`GuardedVLM` takes.

    Raises:
        ConfigError: a role or a kind of content that these models do not read.
    """
    out = []
    for message in messages:
        if message.role == "tool":
            raise ConfigError("models behind a guard do not call tools; use a task without tools")
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


def _options(config: GenerateConfig) -> dict[str, Any]:
    """Inspect's generation options by the names of transformers. Temperature 0 is greedy."""
    options: dict[str, Any] = {}
    if config.num_choices not in (None, 1):
        raise ConfigError("num_choices is not supported; use epochs")
    for theirs, ours in (
        ("max_tokens", "max_new_tokens"), ("top_p", "top_p"), ("top_k", "top_k"), ("seed", "seed"),
    ):  # fmt: skip
        if (value := getattr(config, theirs)) is not None:
            options[ours] = value
    if config.stop_seqs:
        options["stop"] = list(config.stop_seqs)
    if config.temperature is not None:
        options["do_sample"] = config.temperature > 0
        if config.temperature > 0:
            options["temperature"] = config.temperature
    return options
