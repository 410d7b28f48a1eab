"""DRO, directed representation optimisation (Zheng et al., "On prompt-driven safeguarding for large language models",
ICML 2024, arXiv:2401.18018): a safety prompt whose embeddings were trained, ``safety-reminder dro``.

What differs from the paper and its code: the prompt also stands in front of requests with images, and of a system
message that is there already; ``training/dro.py`` says what differs in training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch

from safety_reminder.config.options import Field, Options
from safety_reminder.defenses.base import unguarded
from safety_reminder.errors import ConfigError, ModelError, PackError
from safety_reminder.guard import GuardedVLM
from safety_reminder.guard.pack import read_tensors, write_folder
from safety_reminder.models import VLM, Messages, fingerprint_mismatch
from safety_reminder.models.editing import with_system_text
from safety_reminder.models.soft_prompt import replaced_embeddings
from safety_reminder.outside import read_object
from safety_reminder.types import Request, Response

FORMAT = 1
WEIGHTS, CONFIG = "prompt.safetensors", "config.json"


class SoftPromptConfig(Options):
    """``config.json`` of a soft prompt."""

    format: int
    text: Annotated[str, Field(min_length=1)]
    base_model: str
    fingerprint: dict[str, Any]
    training: dict[str, Any]
    versions: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class SoftPrompt:
    """``vectors`` (n, hidden_size) float32 that stand where the n tokens of ``text``, a system message, would.

    ``base_model`` and ``fingerprint``: of the model it was trained for; ``training``: data, options and outcome.
    """

    text: str
    vectors: torch.Tensor
    base_model: str = ""
    fingerprint: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise PackError(f"a soft prompt's text is a string, got {self.text!r}")
        if self.vectors.ndim != 2 or 0 in self.vectors.shape:
            raise PackError(f"a soft prompt has shape (n, hidden_size), got {tuple(self.vectors.shape)}")
        if not torch.isfinite(self.vectors).all():
            raise PackError("the soft prompt holds values that are not finite")

    @property
    def digest(self) -> str:
        """SHA-256 of text and vectors."""
        data = self.vectors.detach().float().cpu().contiguous().numpy().tobytes()
        return hashlib.sha256(self.text.encode() + b"\0" + data).hexdigest()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SoftPrompt:
        """Load from a folder that :meth:`save_pretrained` wrote.

        Raises:
            PackError: a file is missing, damaged or of another format.
        """
        folder = Path(folder).expanduser()
        for name in (WEIGHTS, CONFIG):
            if not (folder / name).is_file():
                raise PackError(
                    f"no soft prompt at {str(folder)!r}, which has no {name}: expected 'pocket-dro', or a folder that "
                    "safety-reminder dro wrote"
                )
        config = read_object(folder / CONFIG, PackError, "a soft prompt's config")
        if (found := config.get("format")) != FORMAT or isinstance(found, bool):
            raise PackError(f"{folder} has format {found}, this version reads {FORMAT}")
        try:
            kept = SoftPromptConfig.parse(config)
        except ConfigError as error:
            raise PackError(f"{folder} is damaged: {CONFIG}: {error}") from error
        vectors = read_tensors(folder / WEIGHTS, ("prompt",))["prompt"]
        return cls(kept.text, vectors, kept.base_model, kept.fingerprint, kept.training)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``prompt.safetensors`` and ``config.json`` to ``folder``, atomically."""
        config = {
            "format": FORMAT,
            "text": self.text,
            "base_model": self.base_model,
            "fingerprint": self.fingerprint,
            "training": self.training,
            "versions": {"torch": torch.__version__, "transformers": version("transformers")},
        }
        tensors = {"prompt": self.vectors.detach().float().cpu().contiguous()}
        return write_folder(Path(folder), WEIGHTS, tensors, CONFIG, config)


class DRO:
    """The soft prompt is the system message, in front of one that is there already.

    Args:
        prompt: a folder that ``safety-reminder dro`` wrote; ``pocket-dro`` ships.
    """

    name = "dro"
    monitors = False
    needs_reminder = False

    def __init__(self, guarded: GuardedVLM, prompt: str = "pocket-dro") -> None:
        self._guarded, self._prompt = guarded, load_soft_prompt(prompt)
        self.digest = self._prompt.digest
        if guarded.check_base and (reason := fingerprint_mismatch(self._prompt.fingerprint, guarded.vlm.model)):
            raise ModelError(
                f"the soft prompt was trained for {self._prompt.base_model or 'another model'}, but "
                f"{guarded.vlm.name} is not that model: {reason}. Train one with safety-reminder dro; give prompt=DIR"
            )
        if self._prompt.vectors.shape[1] != guarded.vlm.hidden_size:
            raise ModelError(
                f"the soft prompt's vectors have size {self._prompt.vectors.shape[1]}, but {guarded.vlm.name} has "
                f"hidden size {guarded.vlm.hidden_size}"
            )
        self._ids = system_tokens(guarded.vlm, self._prompt.text)
        if len(self._ids) != len(self._prompt.vectors):
            raise ModelError(
                f"the soft prompt has {len(self._prompt.vectors)} vectors, but in {guarded.vlm.name}'s template its "
                f"text has {len(self._ids)} tokens"
            )

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        if not requests:
            return []
        changed = [unguarded(request, in_front(request.messages, self.text)) for request in requests]
        with self.embedded():
            return self._guarded.respond(changed)

    @property
    def text(self) -> str:
        """The system message whose tokens the vectors stand for."""
        return self._prompt.text

    def embedded(self) -> AbstractContextManager[None]:
        """While this is open, the next prompts that the model embeds have the vectors in place of that text."""
        return replaced_embeddings(self._guarded.vlm.model, self._ids, self._prompt.vectors)


def in_front(messages: Messages, text: str) -> list[dict[str, Any]]:
    """A copy with ``text`` as, or in front of, the system message's text. A space separates them: many tokenizers would
    join line breaks to the text's last token."""
    return with_system_text(messages, text, between=" ")


def system_tokens(vlm: VLM, text: str) -> list[int]:
    """The token ids that ``text`` becomes as a system message.

    Raises:
        MessageError, ModelError: the model's chat template takes no system message.
    """

    def encoded(text: str) -> list[int]:
        return vlm.encode([in_front([{"role": "user", "content": "Hello"}], text)])["input_ids"][0].tolist()

    ids, other = encoded(text), encoded("-")
    before = next((i for i, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b), None)
    if before is None:
        raise ModelError(f"the chat template of {vlm.name} leaves system messages out; a soft prompt needs one")
    after = next(i for i, (a, b) in enumerate(zip(ids[::-1], other[::-1], strict=False)) if a != b)
    return ids[before : len(ids) - after]


def load_soft_prompt(name: str) -> SoftPrompt:
    """By name: ``pocket-dro``, or a folder."""
    from safety_reminder.models.pocket import soft_prompt_folder

    return SoftPrompt.from_pretrained(soft_prompt_folder() if name == "pocket-dro" else name)
