"""Judges that are models, run with transformers: greedy, left-padded, a few new tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jinja2 import TemplateError

from safety_reminder.errors import ConfigError, ModelError
from safety_reminder.evaluation.judges.base import Item, Judgement, unreadable
from safety_reminder.models import load_checkpoint, load_image, weights_digest, write_greedily
from safety_reminder.models.inert import special_texts

_MARKERS = ("first-turn-marker", "second-turn-marker")


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation to judge: ``user`` or ``assistant``."""

    role: str
    text: str
    image: Any | None = None


@dataclass(frozen=True)
class Generation:
    """What the model wrote.

    ``logits`` (vocabulary) are those that its first token that is not blank was chosen from: some judges begin with
    empty lines. None where they were not asked for, or all was blank. ``problem``: why the model was not asked.
    """

    text: str
    logits: torch.Tensor | None = None
    problem: str = ""


class LocalModel:
    """A model with its tokenizer or processor.

    Args:
        name: a hub id or a folder, of a causal or an image-text-to-text model.
        device: where it runs; an accelerator if there is one.
        dtype: ``auto`` (as saved), ``float32``, ``bfloat16`` or ``float16``.
        batch_size: conversations in one pass.

    Raises:
        ConfigError: an unknown dtype or a batch size below 1.
        ModelError: nothing there, or nothing that transformers can load without running code from the hub.
    """

    def __init__(self, name: str, *, device: str | None = None, dtype: str = "auto", batch_size: int = 8) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ConfigError(f"batch_size of a judge must be a whole number from 1, got {batch_size!r}")
        self.name, self.batch_size = name, batch_size
        self.model, self.processor = load_checkpoint(name, device=device, dtype=dtype, kind="judge model")
        self.tokenizer = getattr(self.processor, "tokenizer", self.processor)
        self.reads_images = self.tokenizer is not self.processor
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._special = sorted(special_texts(self.tokenizer).values(), key=len, reverse=True)

    @cached_property
    def version(self) -> str:
        """Name, data type and a hash of projections of the weights: a folder may be filled anew."""
        return f"{self.name}@{weights_digest(self.model)}/{str(self.model.dtype).removeprefix('torch.')}"

    def chat(
        self, conversations: Sequence[Sequence[Turn]], *, max_new_tokens: int, logits: bool = False, **template: Any
    ) -> list[Generation]:
        """Answer conversations through the model's own chat template.

        Args:
            template: variables of the chat template.

        Raises:
            ModelError: it has no chat template, or one that leaves the conversation out.
            MessageError: an image that cannot be read.
        """
        rows = [[self._message(turn) for turn in turns] for turns in conversations]
        encode = lambda batch: self._encode_chat(batch, template)  # noqa: E731
        # Some processors cannot batch conversations with and without images.
        pictured = [any(turn.image is not None for turn in turns) for turns in conversations]
        return self._in_batches(rows, pictured, encode, max_new_tokens, logits)

    def complete(self, prompts: Sequence[str], *, max_new_tokens: int, logits: bool = False) -> list[Generation]:
        """Continue prompts that hold their template already; the tokenizer adds its beginning-of-sequence token."""
        encode = lambda batch: self.tokenizer(batch, padding=True, return_tensors="pt")  # noqa: E731
        return self._in_batches(prompts, [False] * len(prompts), encode, max_new_tokens, logits)

    def defuse(self, text: str) -> str:
        """``text`` in which nothing is read as a control token: what is judged must not end its own turn."""
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def preference(self, logits: torch.Tensor | None, word: str, other: str) -> float | None:
        """P(``word``) against ``other`` as the next token; None where their first tokens are the same."""
        if logits is None:
            return None
        ids, other_ids = self._first_tokens(word), self._first_tokens(other)
        if not ids or not other_ids or ids & other_ids:
            return None
        scores = torch.stack([logits[sorted(tokens)].float().logsumexp(0) for tokens in (ids, other_ids)])
        return float(scores.softmax(0)[0])

    def _first_tokens(self, word: str) -> set[int]:
        """First tokens of the word at a beginning and after a space, blank ones left out."""
        tokens = {
            next((i for i in self.tokenizer.encode(text, add_special_tokens=False) if not self._blank(i)), None)
            for text in (word, f" {word}")
        }
        return {i for i in tokens if i is not None}

    def _blank(self, token: int) -> bool:
        return not self.tokenizer.decode([token], skip_special_tokens=True).strip()

    def _message(self, turn: Turn) -> dict[str, Any]:
        text = self.defuse(turn.text)
        if not self.reads_images:
            content = text if self._plain_content else [{"type": "text", "text": text}]
            return {"role": turn.role, "content": content}
        parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
        if turn.image is not None:
            parts.insert(0, {"type": "image", "image": load_image(turn.image, max_pixels=None)})
        return {"role": turn.role, "content": parts}

    @cached_property
    def _plain_content(self) -> bool:
        """Whether the template takes a message's text as it is, or as a list of parts. A template that expects the
        other form drops the text without an error, and the judge would judge nothing."""
        for plain in (True, False):
            messages = [
                {"role": role, "content": text if plain else [{"type": "text", "text": text}]}
                for role, text in zip(("user", "assistant"), _MARKERS, strict=True)
            ]
            try:
                text = str(self.tokenizer.apply_chat_template(messages, tokenize=False))
            except (ValueError, TypeError, TemplateError):
                continue
            if all(text.count(marker) == 1 for marker in _MARKERS):
                return plain
        raise ModelError(f"{self.name} has no chat template that holds a request and its answer; it cannot judge")

    def _encode_chat(self, batch: list[Any], template: Mapping[str, Any]) -> Any:
        options: dict[str, Any] = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, **template}
        padding = {"padding": True, "return_tensors": "pt"}
        if self.reads_images:
            options["processor_kwargs"] = padding
        else:
            options |= padding
        try:
            return self.processor.apply_chat_template(batch, **options)
        except (ValueError, TypeError, TemplateError) as error:
            raise ModelError(f"{self.name} has no chat template that takes this conversation: {error}") from error

    def _in_batches(
        self,
        rows: Sequence[Any],
        pictured: Sequence[bool],
        encode: Callable[[list[Any]], Any],
        max_new_tokens: int,
        logits: bool,
    ) -> list[Generation]:
        by_row: dict[int, Generation] = {}
        for kind in (False, True):
            places = [i for i, is_pictured in enumerate(pictured) if is_pictured == kind]
            for start in range(0, len(places), self.batch_size):
                batch = places[start : start + self.batch_size]
                generations = self._batch([rows[i] for i in batch], encode, max_new_tokens, logits)
                by_row |= dict(zip(batch, generations, strict=True))
        return [by_row[i] for i in range(len(rows))]

    def _batch(
        self, rows: list[Any], encode: Callable[[list[Any]], Any], max_new_tokens: int, logits: bool
    ) -> list[Generation]:
        inputs = encode(rows)
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        lengths = inputs["attention_mask"].sum(1).tolist()
        if room is None or max(lengths) + max_new_tokens <= room:
            return self._generate(inputs, max_new_tokens, logits)
        # A text that was cut off would be another text; the rest of the batch is judged as if it were not there.
        fits = [length + max_new_tokens <= room for length in lengths]
        short = [row for row, is_short in zip(rows, fits, strict=True) if is_short]
        rest = iter(self._generate(encode(short), max_new_tokens, logits) if short else [])
        too_long = f"not judged: {{}} tokens and the verdict, of the {room} that {self.name} takes"
        return [
            next(rest) if is_short else Generation("", problem=too_long.format(length))
            for is_short, length in zip(fits, lengths, strict=True)
        ]

    def _generate(self, inputs: Any, max_new_tokens: int, logits: bool) -> list[Generation]:
        written, all_logits = write_greedily(
            self.model, self.tokenizer, inputs, max_new_tokens=max_new_tokens, logits=logits
        )
        generations = []
        for row, ids in enumerate(written):
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            first = next((i for i, token in enumerate(ids.tolist()) if not self._blank(token)), None)
            read = all_logits[first][row].cpu() if all_logits is not None and first is not None else None
            generations.append(Generation(text, read))
        return generations


class LocalJudge(ABC):
    """A judge that is a model. Subclasses say what it is asked and how its verdict is read.

    Args:
        model: a hub id or a folder; by default the published judge, which its publisher may ask you to apply for.
        device, dtype, batch_size: as for :class:`LocalModel`.
    """

    name = ""
    default_model = ""
    prompt_version = "2"  # of what is asked and how the verdict is read
    max_new_tokens = 16

    def __init__(
        self, model: str | None = None, device: str | None = None, dtype: str = "auto", batch_size: int = 8
    ) -> None:
        self.model = LocalModel(model or self.default_model, device=device, dtype=dtype, batch_size=batch_size)
        self.version = f"{self.prompt_version}/{self.model.version}"

    @abstractmethod
    def ask(self, items: Sequence[Item]) -> list[Generation]: ...

    @abstractmethod
    def read(self, generation: Generation) -> Judgement: ...

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        if not items:
            return []
        return [
            unreadable(generation.problem) if generation.problem else self.read(generation)
            for generation in self.ask(items)
        ]


def exchange(item: Item, *, image: bool = False) -> list[Turn]:
    """Request and answer as a conversation, with the request's image where the judge sees."""
    return [Turn("user", item.prompt, item.image if image else None), Turn("assistant", item.response)]
