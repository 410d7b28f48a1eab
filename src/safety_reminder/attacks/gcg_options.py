"""The options of GCG, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import model_validator

from safety_reminder.attacks.options import AdaptiveConfig, TargetsConfig
from safety_reminder.config.options import Field, Options
from safety_reminder.errors import ConfigError


class GCGConfig(Options):
    """Options of GCG. ``PRESETS``: by name, what to begin from."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "attack.steps": 500,
            "attack.width": 64,
            "attack.top_k": 64,
            "attack.length": 20,
            "attack.seed": 42,
            "attack.merge": 0,
            "attack.recall": 0,
            "attack.buffer": 0,
        }
    }

    steps: Annotated[int, Field(description="steps at most, each one gradient and its candidates", ge=1)] = 250
    width: Annotated[int, Field(description="candidates of one step", ge=1)] = 12
    top_k: Annotated[int, Field(description="tokens to choose from at each position", ge=1)] = 64
    length: Annotated[int, Field(description="tokens of the suffix that begins as so many x", ge=1)] = 20
    init: Annotated[str, Field(description="text to begin from in place of that; its tokens count")] = ""
    separator: Annotated[str, Field(description="text between request and suffix")] = " "
    swaps: Annotated[int, Field(description="tokens that a candidate changes", ge=1)] = 1
    swaps_until: Annotated[
        int, Field(description="fewer and fewer, and from this step on one; 0: always alike", ge=0)
    ] = 0
    merge: Annotated[
        int, Field(description="of the best candidates of a step, so many merged into one, by and by; 0: none", ge=0)
    ] = 3
    recall: Annotated[
        int, Field(description="candidates of a step that repeat swaps which lowered the loss in earlier ones", ge=0)
    ] = 6
    buffer: Annotated[int, Field(description="best suffixes that are kept to go on from; 0: the newest one", ge=0)] = 1
    first_token: Annotated[float, Field(description="weight of the first target token, added to the mean", ge=0)] = 0.0
    mellowmax: Annotated[
        float, Field(description="0: mean of the target's losses; above: leans to the worst", ge=0)
    ] = 0.0
    filter_tokens: Annotated[
        int, Field(description="score candidates on so many target tokens, and the best of them on all; 0: off", ge=0)
    ] = 0
    filter_keep: Annotated[float, Field(description="share of them that is scored on all", gt=0, le=1)] = 0.25
    probe_share: Annotated[float, Field(description="with a draft model: share scored by both", gt=0, le=1)] = 0.0625
    probe_divisor: Annotated[
        float, Field(description="with a draft model: the higher, the fewer it lets pass", ge=1)
    ] = 8.0
    allow_non_ascii: Annotated[bool, Field(description="also tokens that are not printable ASCII")] = False
    banned: Annotated[list[str], Field(description="texts that no token of the suffix may hold", default_factory=list)]
    progressive: Annotated[bool, Field(description="goals join one by one, when those before them succeed")] = True
    check_every: Annotated[int, Field(description="let the model answer every so many steps; 0: never", ge=0)] = 10
    answer_tokens: Annotated[int, Field(description="tokens of such an answer", ge=1)] = 48
    batch: Annotated[
        int, Field(description="candidates in one pass; 0: 16 on a CPU, else all; halved where memory is short", ge=0)
    ] = 0
    save_every: Annotated[
        int, Field(description="steps between two checkpoints", ge=1, json_schema_extra={"later": True})
    ] = 10
    seed: Annotated[int, Field(description="of the candidates", ge=0)] = 0
    image: Annotated[str | None, Field(description="a picture that all requests show; null: their own, or none")] = None
    universal: Annotated[
        bool, Field(description="one suffix, learned on the training requests; false: one for each test request")
    ] = True
    targets: Annotated[TargetsConfig, Field(description="what answers are to begin with")] = TargetsConfig()
    adaptive: Annotated[
        AdaptiveConfig,
        Field(description="whether and how the attack knows the guard; continuations are renewed with each new suffix"),
    ] = AdaptiveConfig()

    @model_validator(mode="after")
    def _fit(self) -> GCGConfig:
        if self.adaptive.knows_guard and self.buffer != 1:
            raise ConfigError(
                "an attack on the guard needs attack.buffer=1: suffixes are compared on the answer of the one that "
                "they were made from"
            )
        if self.adaptive.warm_up:
            raise ConfigError("attack.adaptive.warm_up is for images; a suffix is searched behind the guard throughout")
        return self


@dataclass(frozen=True)
class Step:
    """One step: the best ``loss`` of its candidates, the ``best`` so far, and ``seconds`` and ``candidates`` since the
    beginning. ``goals``: how many it was for."""

    step: int
    loss: float
    best: float
    seconds: float
    candidates: int
    goals: int


@dataclass(frozen=True)
class GCGResult:
    """``suffix``: the text to append to each request, and its token ids.

    ``loss``: mean over goals and models of the loss, by a plain forward pass over the whole conversation;
    ``search_loss``: what the search believed it to be. Where the guard is attacked, its part is in both, in the latter
    on the answer of the suffix before. ``mean_losses``: of each goal (of each model, one after the other), the mean
    cross-entropy of the target's tokens in nats, by the same pass. ``succeeded``: by the last answers to it; None:
    nobody asked. ``steps``: each of them.
    """

    suffix: str
    suffix_ids: tuple[int, ...]
    loss: float
    search_loss: float
    mean_losses: tuple[float, ...]
    steps: tuple[Step, ...]
    candidates: int
    seconds: float
    succeeded: bool | None
