"""The nouns that flow through the package. No torch here: these are plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from safety_reminder.config.guard import GuardConfig, Policy
from safety_reminder.errors import ConfigError
from safety_reminder.outside import require_writable

CheckKind = Literal["prompt", "periodic", "final"]
FinishReason = Literal["stop", "length", "guard", "guard_error"]
Kind = Literal["attack", "advice", "harmless"]  # of a request


@dataclass(frozen=True)
class Sampling:
    """How the tokens of an answer are chosen. None: as the model's own generation configuration says.

    Raises:
        ConfigError: a value of the wrong type, or out of its range.
    """

    max_new_tokens: Annotated[int | None, "at most so many, from 1"] = None
    do_sample: Annotated[bool | None, "false: always the likeliest token"] = None
    temperature: Annotated[float | None, "from 0"] = None
    top_p: Annotated[float | None, "of the likeliest tokens, those that make up this share, from 0 to 1"] = None
    top_k: Annotated[int | None, "of the likeliest tokens, so many; 0: all"] = None
    repetition_penalty: Annotated[float | None, "from 0; 1: none"] = None
    more: Annotated[
        Mapping[str, Any],
        "any other field of transformers' GenerationConfig, and what its generate takes beside them (logits_processor, "
        "stopping_criteria, prefix_allowed_tokens_fn, generation_config)",
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.do_sample is not None and not isinstance(self.do_sample, bool):
            raise ConfigError(f"do_sample must be true or false, got {self.do_sample!r}")
        for name, least in (("max_new_tokens", 1), ("top_k", 0)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise ConfigError(f"{name} must be a whole number, got {value!r}")
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")
        for name, most in (("temperature", math.inf), ("top_p", 1.0), ("repetition_penalty", math.inf)):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(f"{name} must be a number, got {value!r}")
            if not 0 <= value <= most or math.isinf(value):
                up_to = "" if math.isinf(most) else f" and at most {most:g}"
                raise ConfigError(f"{name} must be at least 0{up_to}, got {value}")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Sampling:
        """From options by name; those that are not fields go into ``more``."""
        names = {f.name for f in fields(cls)} - {"more"}
        more = {name: value for name, value in options.items() if name not in names}
        return cls(**{name: value for name, value in options.items() if name in names}, more=more)

    @property
    def given(self) -> dict[str, Any]:
        """What is not None, by name."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "more"}
        return {name: value for name, value in named.items() if value is not None} | dict(self.more)


def is_seed(seed: Any) -> bool:
    """A whole number from 0 to 2**63 - 1, or none."""
    return seed is None or (isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**63)


def row_seeds(seed: int, rows: int) -> list[int]:
    """``seed + i`` for row i. They wrap around at the end of the range, so that the last seed serves a batch too."""
    return [(seed + row) % 2**63 for row in range(rows)]


@dataclass(frozen=True)
class Request:
    """One conversation that waits for an answer.

    Args:
        messages: chat messages, as :meth:`safety_reminder.GuardedVLM.generate` takes them.
        sampling: how tokens are chosen.
        guard: True: as the answering model is guarded; False: unguarded; or a configuration of this answer's own.
        seed: of this answer's own random numbers; None: torch's global generator.
        stop: texts that end the answer.

    Raises:
        ConfigError: a seed or a stop text that is none.
    """

    messages: Sequence[Mapping[str, Any]]
    sampling: Sampling = field(default_factory=Sampling)
    guard: GuardConfig | bool = True
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.guard, bool | GuardConfig):
            raise ConfigError(f"guard must be true or false, got {self.guard!r}")
        if not is_seed(self.seed):
            raise ConfigError(f"seed must be a whole number from 0 to 2**63 - 1, got {self.seed!r}")
        if not isinstance(self.stop, tuple) or not all(isinstance(text, str) and text for text in self.stop):
            raise ConfigError(f"stop must be texts that are not empty, got {self.stop!r}")
        for text in self.stop:
            require_writable(text, f"stop, {text!a},", ConfigError)

    @property
    def settings(self) -> tuple[Sampling, GuardConfig | bool, tuple[str, ...], bool]:
        """What must be equal for two requests to be answered in one batch."""
        return self.sampling, self.guard, self.stop, self.seed is None


@dataclass(frozen=True, slots=True)
class Token:
    """A token the user may see. ``index`` counts visible tokens from 0; ``text`` is what it adds to the text."""

    token_id: int
    text: str
    index: int
    row: int = 0


@dataclass(frozen=True, slots=True)
class Check:
    """The reminder was appended after ``token_index`` answer tokens and the probe was read."""

    token_index: int
    p_unsafe: float
    unsafe: bool
    kind: CheckKind
    row: int = 0


@dataclass(frozen=True, slots=True)
class Intervention:
    """An unsafe verdict was acted on. ``dropped`` tokens of the answer were taken back from the context."""

    token_index: int
    p_unsafe: float
    policy: Policy
    dropped: int
    row: int = 0


@dataclass(frozen=True, slots=True)
class Retraction:
    """The last ``count`` tokens that were already shown are withdrawn; ``text`` is what they had shown."""

    count: int
    text: str
    row: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """The row is finished. ``guard``: ended by the fixed refusal; ``guard_error``: the guard itself failed."""

    reason: FinishReason
    row: int = 0


Event = Token | Check | Intervention | Retraction | Done


@dataclass(frozen=True, slots=True)
class Response:
    """One answer and what the guard did.

    ``text`` and ``token_ids`` are what stands at the end; ``seen_text`` is everything the user was ever shown,
    retracted tokens included, and is what safety is judged on. ``leaked_tokens`` counts the answer tokens the user
    had been shown when the guard first intervened. ``text[tail_start:]`` is what follows the last intervention.
    ``extra_tokens``: what else the model wrote for it, such as a verdict on its first answer. ``inert_tokens``: how
    many special tokens the messages spelled in words, which the model read as plain text.
    """

    text: str
    token_ids: tuple[int, ...]
    seen_text: str
    checks: tuple[Check, ...]
    interventions: tuple[Intervention, ...]
    leaked_tokens: int
    finish_reason: FinishReason
    tail_start: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0
    extra_tokens: int = 0
    inert_tokens: int = 0

    @property
    def intervened(self) -> bool:
        return bool(self.interventions)


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a benchmark: a prompt, perhaps with an image, and whether answering it would be harmful.

    ``instruction``: what is asked, where the prompt only points to an image of it. ``target``: where there is a right
    answer, what it must hold, in the benchmark's own notation. What an attack may add: ``system``, a system prompt;
    ``turns``, earlier ones, each a role (user or assistant) and its text; and ``prefill``, the beginning of the answer,
    written for the model. The image belongs to the first user message. ``advice``: counts as harmful in the benchmark,
    but asks for advice (on law, money, health or politics) that a model may well give; metrics report it apart.
    """

    id: str
    prompt: str
    image: Any | None = None  # path or PIL image
    harmful: bool = True
    category: str = ""
    instruction: str = ""
    target: str = ""
    system: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    prefill: str = ""
    advice: bool = False

    @property
    def kind(self) -> Kind:
        return _kind(self.harmful, self.advice)

    def messages(self) -> list[dict[str, Any]]:
        """The conversation; one that ends with an assistant message is to be continued."""
        turns = [*self.turns, ("user", self.prompt)]
        first = next(i for i, (role, _) in enumerate(turns) if role == "user")
        image = [] if self.image is None else [{"type": "image", "image": self.image}]
        messages: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        for number, (role, text) in enumerate(turns):
            before = image if number == first else []
            messages.append({"role": role, "content": [*before, {"type": "text", "text": text}]})
        if self.prefill:
            messages.append({"role": "assistant", "content": self.prefill})
        return messages


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A conversation that waits for an answer, and what that answer may be.

    ``safe`` rows teach to go on: a beginning of ``chosen`` must be followed by its rest. The others teach to turn back:
    a beginning of ``rejected`` must be followed by ``chosen``, as a rule a refusal. Where ``rejected`` is empty, only
    the bare prompt is learned from. ``harmful_prompt`` on a safe row: the answer is a refusal, and the bare prompt is
    not safe. ``messages`` are text; ``image`` (a path or PIL image) comes before that of the first user message.
    ``source``, ``topic`` and ``attack`` say where a row is from, what it is about and in which form it is asked; empty
    where nobody says.
    """

    messages: tuple[dict[str, Any], ...]
    safe: bool
    chosen: str
    rejected: str = ""
    image: Any | None = None
    harmful_prompt: bool = False
    source: str = ""
    topic: str = ""
    attack: str = ""

    @property
    def answer(self) -> str:
        """What is cut at a random token."""
        return self.chosen if self.safe else self.rejected

    @property
    def prompt(self) -> str:
        """The text of the whole conversation, to name and to compare it."""
        return "\n".join(str(message["content"]) for message in self.messages)

    def conversation(self) -> list[dict[str, Any]]:
        """``messages`` with the image in its place."""
        messages = [dict(message) for message in self.messages]
        if self.image is not None:
            first = next(m for m in messages if m["role"] == "user")
            first["content"] = [{"type": "image", "image": self.image}, {"type": "text", "text": first["content"]}]
        return messages


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of one sample. On disk: :mod:`safety_reminder.evaluation.records`.

    ``seconds``: of the whole batch, or the sample's share of it, as the reader of a log says. ``batch``: ids of the
    samples that were answered together; empty where nobody knows. ``verdicts``: what judges said of the answer.
    ``instruction``: what is asked, in words, where the prompt may only point to it; empty where nobody knows.
    ``context_sha256``: of the example's system prompt, earlier turns and prefill; None: it has none of them.
    ``prefill``: what the answer was begun with. ``inert_tokens``: as the response has it. ``advice``: as the
    example has it; false in records of earlier versions.
    """

    id: str
    prompt: str
    harmful: bool
    category: str
    image_sha256: str | None
    prompt_tokens: int
    text: str
    seen_text: str
    token_ids: tuple[int, ...]
    checks: tuple[Check, ...]
    interventions: tuple[Intervention, ...]
    leaked_tokens: int
    tail_start: int
    finish_reason: str
    seconds: float
    guard: bool
    batch: tuple[str, ...]
    extra_tokens: int = 0
    verdicts: Mapping[str, Any] = field(default_factory=dict)
    instruction: str = ""
    context_sha256: str | None = None
    prefill: str = ""
    inert_tokens: int = 0
    advice: bool = False

    @property
    def kind(self) -> Kind:
        return _kind(self.harmful, self.advice)


def _kind(harmful: bool, advice: bool) -> Kind:
    if advice:
        return "advice"
    return "attack" if harmful else "harmless"
