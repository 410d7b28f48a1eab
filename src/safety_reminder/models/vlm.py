"""One adapter for every decoder-only model of transformers, with or without a vision tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import PreTrainedModel, StopStringCriteria

from safety_reminder.config.reading import ReadingOptions
from safety_reminder.errors import MessageError, ModelError
from safety_reminder.models.continuing import append_begun, split_begun
from safety_reminder.models.embedding import hidden_size
from safety_reminder.models.families import Family, family_of
from safety_reminder.models.inert import InertText
from safety_reminder.models.loading import load_checkpoint, one_line_errors
from safety_reminder.models.messages import Messages, normalise
from safety_reminder.models.processors import limit_pixels

_PLACEHOLDERS = ("image_token", "video_token", "boi_token", "fake_image_token")


@dataclass(frozen=True)
class Prepared:
    """Model inputs of a batch, as :meth:`VLM.encode` gives them. ``inert``: how many special tokens each conversation
    spelled in words, which are read as such."""

    inputs: dict[str, Any]
    inert: tuple[int, ...]


class VLM:
    """A model, and what turns chat messages into its inputs. Holds no state between calls.

    Args:
        model: a decoder-only transformers model, in ``eval`` mode.
        processor: its processor, or its tokenizer where it reads text only.
        name: what to call it in messages.
        reading: how messages are read.
    """

    def __init__(
        self, model: PreTrainedModel, processor: Any, name: str = "", reading: ReadingOptions | None = None
    ) -> None:
        self.reading = reading or ReadingOptions()
        self.model: Any = model.eval()
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.name = name or model.config.model_type
        known = family_of(model.config.model_type)
        self.family = known or Family(model.config.model_type, reads_images=hasattr(processor, "image_processor"))
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if model.generation_config.pad_token_id is None:
            model.generation_config.pad_token_id = self.tokenizer.pad_token_id

    @property
    def hidden_size(self) -> int:
        return hidden_size(self.model)

    @property
    def eos_ids(self) -> frozenset[int]:
        eos = self.model.generation_config.eos_token_id
        return frozenset([eos] if isinstance(eos, int) else eos or [self.tokenizer.eos_token_id])

    def encode(self, batch: Sequence[Messages], *, add_generation_prompt: bool = True) -> dict[str, Any]:
        """Conversations → model inputs on the model's device: left-padded ``input_ids`` and ``attention_mask``
        (batch, length), and whatever the family needs for images.

        With ``add_generation_prompt``, a conversation that ends with an assistant message is continued: the ids are
        those of the conversation before it, the header of the assistant's turn, and the message's own tokens.

        Raises:
            MessageError: messages or an image that cannot be read, or that the model's template or processor refuses.
        """
        return self.prepare(batch, add_generation_prompt=add_generation_prompt).inputs

    def prepare(self, batch: Sequence[Messages], *, add_generation_prompt: bool = True) -> Prepared:
        """As :meth:`encode`, and what was made inert on the way."""
        dtype, device = self.model.dtype, self.model.device
        prepared = self._process(batch, add_generation_prompt=add_generation_prompt)
        inputs = {
            key: value.to(device, dtype) if torch.is_floating_point(value) else value.to(device)
            for key, value in prepared.inputs.items()
        }
        return Prepared(inputs, prepared.inert)

    def process(self, batch: Sequence[Messages], *, add_generation_prompt: bool = True) -> dict[str, torch.Tensor]:
        """As :meth:`encode`, in the processor's own precision, on the CPU."""
        return self._process(batch, add_generation_prompt=add_generation_prompt).inputs

    def _process(self, batch: Sequence[Messages], *, add_generation_prompt: bool) -> Prepared:
        conversations = [self.conversation(messages) for messages in batch]
        if not add_generation_prompt:
            return self._encode(conversations, add_generation_prompt=False)
        split = [split_begun(conversation) for conversation in conversations]
        prepared = self._encode([before for before, _ in split], add_generation_prompt=True)
        if not any(begun for _, begun in split):
            return prepared
        ids, cut = self._answers([text for _, text in split])
        inputs = append_begun(prepared.inputs, ids, self.tokenizer.pad_token_id)
        return Prepared(inputs, tuple(map(sum, zip(prepared.inert, cut, strict=True))))

    def answer_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of answers, as they follow the header of the assistant's turn. Special tokens that they spell
        are plain text there too."""
        return self._answers(texts)[0]

    def _answers(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """The ids, and how many special tokens each text spells."""
        gap = self._gap_after_header
        answers = [self._inert.answer_ids(text if not text or text[0].isspace() else gap + text) for text in texts]
        return [ids for ids, _ in answers], [count for _, count in answers]

    def _encode(self, conversations: list[list[dict[str, Any]]], *, add_generation_prompt: bool) -> Prepared:
        """Conversations in the template's form → model inputs."""
        try:
            cuts = [self._inert.cut(conversation, begins=add_generation_prompt) for conversation in conversations]
            counts = tuple(cut.count for cut in cuts)
            if not any(counts):
                return Prepared(self._apply(self.processor, conversations, add_generation_prompt), counts)
            inputs = self._apply(self._inert.copy, [cut.conversation for cut in cuts], add_generation_prompt)
        except (ValueError, TemplateError) as error:
            if isinstance(error, MessageError):
                raise
            raise MessageError(f"{self.name} does not take this conversation: {error}") from error
        return Prepared(self._inert.without_cuts(inputs, self.tokenizer.pad_token_id), counts)

    def _apply(self, processor: Any, conversations: list[Any], add_generation_prompt: bool) -> dict[str, Any]:
        """Render the chat template, and encode."""
        options: dict[str, Any] = {
            "add_generation_prompt": add_generation_prompt,
            "tokenize": True,
            "return_dict": True,
            "return_tensors": "pt",
        }
        if self.tokenizer is self.processor:
            inputs = processor.apply_chat_template(conversations, padding=True, **options)
        else:
            inputs = processor.apply_chat_template(
                conversations, processor_kwargs={"padding": True, "return_tensors": "pt"}, **options
            )
        return {key: value for key, value in inputs.items() if isinstance(value, torch.Tensor)}

    def render(self, messages: Messages) -> str:
        """The prompt as text, up to where the answer begins; an image is its placeholder.

        Raises:
            MessageError: as :meth:`encode`.
        """
        try:
            return self.processor.apply_chat_template(
                self.conversation(messages), add_generation_prompt=True, tokenize=False
            )
        except (ValueError, TemplateError) as error:
            raise MessageError(f"{self.name} does not take this conversation: {error}") from error

    def conversation(self, messages: Messages) -> list[dict[str, Any]]:
        """The conversation in the form its chat template takes, images opened.

        Raises:
            MessageError: messages or an image that cannot be read.
        """
        return normalise(
            messages,
            reads_images=self.family.reads_images,
            placeholders=self._placeholders,
            max_pixels=self.reading.max_image_pixels,
        )

    def end_of_turn(self) -> int:
        """The token id that ends an answer in this model's chat template: among several end-of-sequence tokens, the one
        that the model itself writes."""
        header = self.assistant_header()
        messages: list[Messages] = [[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes"}]]
        turn = self.encode(messages, add_generation_prompt=False)["input_ids"][0].tolist()
        begins = max(i for i in range(len(turn)) if turn[i : i + len(header)] == header) + len(header)
        return next((token for token in turn[begins:] if token in self.eos_ids), min(self.eos_ids))

    def assistant_header(self) -> list[int]:
        """Token ids that open the assistant's turn in this model's chat template.

        Raises:
            ModelError: its template has none of its own.
        """
        messages: list[Messages] = [[{"role": "user", "content": "Hello"}]]
        whole, turn = (self.encode(messages, add_generation_prompt=p)["input_ids"][0].tolist() for p in (True, False))
        if whole[: len(turn)] != turn or len(whole) == len(turn):
            raise ModelError(f"the chat template of {self.name} does not open the assistant's turn")
        return whole[len(turn) :]

    @cached_property
    def _gap_after_header(self) -> str:
        """The space that this model's chat template puts between header and answer, where its tokenizer makes a token
        of it: the model writes it itself."""
        user, answer = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes"}
        header = self.encode([[user]])["input_ids"][0].tolist()
        turn = self.encode([[user, answer]], add_generation_prompt=False)["input_ids"][0].tolist()
        written, bare, spaced = turn[len(header) :], self._ids("Yes"), self._ids(" Yes")
        with_space = turn[: len(header)] == header and written[: len(spaced)] == spaced
        return " " if with_space and written[: len(bare)] != bare else ""

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    @cached_property
    def _inert(self) -> InertText:
        return InertText(self.processor, self.tokenizer, self._placeholders, self.reading.special_text, self.name)

    @cached_property
    def _placeholders(self) -> Sequence[str]:
        return self._image_placeholders() if self.family.reads_images else ()

    def _image_placeholders(self) -> list[str]:
        """What the processor replaces with an image, and what it puts there: text must hold neither."""
        tokens = (getattr(holder, name, None) for holder in (self.processor, self.tokenizer) for name in _PLACEHOLDERS)
        return sorted({str(token) for token in tokens if token})

    def stop_criterion(self, strings: list[str]) -> StopStringCriteria:
        return StopStringCriteria(self.tokenizer, strings)


def load_vlm(
    name: str,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    reading: ReadingOptions | None = None,
) -> VLM:
    """Load a model by configured name (``pocket``), hub id or folder. One of a family that no test knows is checked
    first, once: see ``models/checked.py``. ``reading``: how it reads messages.

    Raises:
        ModelError: nothing there, not a model that transformers can load, or one that cannot be guarded.
        ConfigError: unknown ``dtype``.
    """
    from safety_reminder.models.checked import require_correct

    vlm = open_vlm(name, device=device, dtype=dtype, reading=reading)
    require_correct(vlm)
    return vlm


def open_vlm(
    name: str,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    reading: ReadingOptions | None = None,
) -> VLM:
    """As :func:`load_vlm`, unchecked."""
    model, processor = load_checkpoint(name, device=device, dtype=dtype)
    if reading is not None:
        limit_pixels(processor, reading.min_pixels, reading.max_pixels, name)
    with one_line_errors(name):
        return VLM(model, processor, name, reading)
