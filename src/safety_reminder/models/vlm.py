"""One adapter for every decoder-only model of transformers, with or without a vision tower."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    StopStringCriteria,
)

from safety_reminder.errors import ConfigError, MessageError, ModelError, SafetyReminderError, unknown_name
from safety_reminder.models.embedding import hidden_size
from safety_reminder.models.families import FAMILIES, Family
from safety_reminder.models.messages import Messages, normalise
from safety_reminder.models.processors import load_processor

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_PLACEHOLDERS = ("image_token", "video_token", "boi_token", "fake_image_token")


class VLM:
    """A model with what turns chat messages into its inputs. Holds no state between calls.

    Args:
        model: a decoder-only transformers model, in ``eval`` mode.
        processor: its processor, or its tokenizer where it reads text only.
        name: what to call it in messages.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, name: str = "") -> None:
        self.model = model.eval()
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.name = name or model.config.model_type
        known = FAMILIES.get(model.config.model_type)
        if known is None:
            warnings.warn(
                f"guarded decoding is not tested for model type {model.config.model_type!r}; "
                f"tested: {', '.join(sorted(FAMILIES))}",
                stacklevel=2,
            )
            known = Family(model.config.model_type, reads_images=self.tokenizer is not processor)
        self.family = known
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

        Raises:
            MessageError: messages or an image that cannot be read, or that the model's template or processor refuses.
        """
        conversations = [self.check(messages) for messages in batch]
        options: dict[str, Any] = {
            "add_generation_prompt": add_generation_prompt,
            "tokenize": True,
            "return_dict": True,
            "return_tensors": "pt",
        }
        try:
            if self.tokenizer is self.processor:
                inputs = self.processor.apply_chat_template(conversations, padding=True, **options)
            else:
                inputs = self.processor.apply_chat_template(
                    conversations, processor_kwargs={"padding": True, "return_tensors": "pt"}, **options
                )
        except (ValueError, TemplateError) as error:
            raise MessageError(f"{self.name} does not take this conversation: {error}") from error
        dtype, device = self.model.dtype, self.model.device
        return {
            key: value.to(device, dtype) if torch.is_floating_point(value) else value.to(device)
            for key, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }

    def check(self, messages: Messages) -> list[dict[str, Any]]:
        """The conversation in the form its chat template takes, images opened.

        Raises:
            MessageError: messages or an image that cannot be read.
        """
        reads_images = self.family.reads_images
        placeholders = self._image_placeholders() if reads_images else ()
        return normalise(messages, reads_images=reads_images, placeholders=placeholders)

    def end_of_turn(self) -> int:
        """The token id that ends an answer in this model's chat template: of several end-of-sequence tokens, it is the
        one that the model itself writes."""
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

    def _image_placeholders(self) -> list[str]:
        """What the processor replaces with an image, and what it makes of it: text must hold neither."""
        found = (getattr(holder, name, None) for holder in (self.processor, self.tokenizer) for name in _PLACEHOLDERS)
        return sorted({str(token) for token in found if token})

    def stop_criterion(self, strings: list[str]) -> StopStringCriteria:
        return StopStringCriteria(self.tokenizer, strings)


def load_vlm(name: str, *, device: str | torch.device | None = None, dtype: str | torch.dtype = "auto") -> VLM:
    """Load a model by configured name (``pocket``), hub id or folder.

    Raises:
        ModelError: nothing there, or not a decoder-only model that transformers can load.
        ConfigError: unknown ``dtype``.
    """
    from safety_reminder.models.pocket import checkpoint_folder

    if isinstance(dtype, str) and dtype not in _DTYPES:
        raise ConfigError(unknown_name("dtype", dtype, _DTYPES))
    folder = str(checkpoint_folder()) if name == "pocket" else name
    _require_findable(name, folder)
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        if config.is_encoder_decoder:
            raise ModelError(f"{name} is an encoder-decoder model; only decoder-only models can be guarded")
        loader = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        if sees:
            processor = load_processor(folder, config)
        else:
            processor = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model: Any = loader.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
        model.to(device)
        return VLM(model, processor, name)
    except SafetyReminderError:
        raise
    except Exception as error:  # files from anywhere: what transformers raises on a damaged one is not a closed list
        reason = " ".join(str(error).split())[:240] or type(error).__name__
        if "trust_remote_code" in str(error):
            reason = (
                "it needs code of its own, which is not run; take the checkpoint in transformers' own format, whose "
                "name often ends in -hf"
            )
        raise ModelError(f"cannot load the model {name!r}: {reason}") from error


def _require_findable(name: str, folder: str) -> None:
    path = Path(folder).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path} is not a model folder: it has no config.json")
        return
    if path.exists() or folder.startswith((".", "/", "~")) or folder.count("/") > 1:
        raise ModelError(f"no model at {name!r}: expected 'pocket', a folder, or a hub id like 'org/name'")
    if "/" not in folder and folder != "pocket":
        raise ModelError(f"unknown model {name!r}: expected 'pocket', a folder, or a hub id like 'org/name'")
