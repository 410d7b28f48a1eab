"""The objective: after a random cut and the reminder, what must follow, and what the probe must say."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from safety_reminder.models.prefix import Prefix
from safety_reminder.models.scoring import Continuation, Place, Script, follow
from safety_reminder.training.config import TrainingConfig
from safety_reminder.training.samples import Sample

TURN = 3  # tokens after a reminder that decide whether an answer turns into a refusal or goes on


@dataclass(frozen=True)
class Cut:
    """Keep ``tokens`` of the answer; then ``script`` follows. ``unsafe``: what the probe must say at each reminder in
    it. ``learn``: whether each run of tokens in it is to be predicted."""

    tokens: int
    script: Script
    unsafe: tuple[bool, ...]
    learn: tuple[bool, ...]


def draw_cut(sample: Sample, rng: random.Random, config: TrainingConfig) -> Cut:
    """A random cut: with ``config.emptied`` nothing is kept, else any number of tokens that leaves at least one to
    predict.

    Of an unsafe answer, with ``repeat_prob``, a second reminder comes in the middle of the refusal, as the checks after
    an intervention do; with ``correction_prob`` the refusal has begun without a reminder, as when a model notices by
    itself. In both, the text is safe there and the refusal must go on. Of any answer, with ``unheeded_prob``, the
    first reminder has stayed and the answer has gone on all the same, as when an intervention fails: the second reads
    what the first did.
    """
    example, answer = sample.example, sample.answer
    declines = example.safe and example.harmful_prompt
    if not declines and (rng.random() < config.emptied or len(answer) < 2):
        tokens = 0
    else:
        first = min(4 if declines else max(config.min_tokens, sample.least), len(answer) - 1)
        tokens = rng.randrange(first, len(answer))
    ahead = answer[tokens : tokens + config.target_tokens]
    unheeded = not declines and len(ahead) > 1 and rng.random() < config.unheeded_prob
    middle = rng.randrange(1, len(ahead)) if unheeded else 0
    if example.safe:
        if unheeded:
            return Cut(tokens, [None, ahead[:middle], None, ahead[middle:]], (False, False), (True, True))
        return Cut(tokens, [None, ahead], (False,), (True,))
    if unheeded:
        return Cut(tokens, [None, ahead[:middle], None, sample.correction], (True, True), (False, True))
    refusal = sample.correction if tokens else sample.refusal
    if len(refusal) > 4:
        middle = rng.randrange(3, len(refusal) - 1)
        if rng.random() < config.repeat_prob:
            return Cut(tokens, [None, refusal[:middle], None, refusal[middle:]], (True, False), (True, True))
        if tokens and rng.random() < config.correction_prob:
            return Cut(tokens, [refusal[:middle], None, refusal[middle:]], (False,), (False, True))
    return Cut(tokens, [None, refusal], (True,), (True,))


@dataclass(frozen=True)
class Losses:
    """Of every place. ``turn``: the language loss of the first :data:`TURN` tokens that are learned; it is part of
    ``language``, and chooses the epoch."""

    language: Float[Tensor, " places"]
    probe: Float[Tensor, " places"]
    kl: Float[Tensor, " places"]
    turn: Float[Tensor, " places"]

    def total(self, config: TrainingConfig) -> Float[Tensor, " places"]:
        """What is minimised."""
        return self.language + config.probe_weight * self.probe + config.kl_weight * self.kl


def losses(
    model: Any,
    places: Sequence[tuple[Prefix, Cut]],
    vectors: Float[Tensor, "k hidden_size"],
    weight: Float[Tensor, " hidden_size"],
    bias: Float[Tensor, ""],
    *,
    kl: bool = False,
) -> Losses:
    """Language-model loss and the probe's cross-entropy; with ``kl`` also the divergence KL(unguarded ‖ with the
    reminder) of next tokens after safe cuts of at least one token (elsewhere 0). One forward pass, or two with ``kl``.
    """
    continuations = follow(model, [Place(prefix, cut.tokens, cut.script) for prefix, cut in places], vectors)
    device = continuations[0].hidden.device
    language, probe, turn = [], [], []
    for continuation, (_, cut) in zip(continuations, places, strict=True):
        runs = [run for run in cut.script if run is not None]
        learned = [
            (logits.float(), torch.tensor(list(run), device=device))
            for logits, run, learn in zip(continuation.logits, runs, cut.learn, strict=True)
            if learn
        ]
        logits, targets = (torch.cat(parts) for parts in zip(*learned, strict=True))
        each = F.cross_entropy(logits, targets, reduction="none")
        language.append(each.mean())
        turn.append(each.detach()[: min(TURN, len(learned[0][1]))].mean())
        unsafe = torch.tensor([float(u) for u in cut.unsafe], device=device)
        # Not a matrix product, which autocast would run in half precision.
        score = (continuation.hidden.float() * weight.to(device)).sum(-1) + bias.to(device)
        probe.append(F.binary_cross_entropy_with_logits(score, unsafe))
    divergence = torch.zeros(len(places), device=device)
    if kl:
        divergence = _divergence(model, places, continuations, vectors)
    return Losses(torch.stack(language), torch.stack(probe), divergence, torch.stack(turn))


def _divergence(
    model: Any, places: Sequence[tuple[Prefix, Cut]], reminded: Sequence[Continuation], vectors: Tensor
) -> Float[Tensor, " places"]:
    compared = [i for i, (_, cut) in enumerate(places) if cut.tokens and not any(cut.unsafe) and cut.script[0] is None]
    out = torch.zeros(len(places), device=reminded[0].hidden.device)
    if not compared:
        return out
    with torch.no_grad():
        # The same tokens without a reminder: the last kept one is run again, since it predicts the first of them.
        unguarded_places = []
        for i in compared:
            prefix, cut = places[i]
            target = cut.script[1]
            assert target is not None
            unguarded_places.append(Place(prefix, cut.tokens - 1, [[prefix.tokens[cut.tokens], *target]]))
        plain = follow(model, unguarded_places, vectors)
    rows = [
        F.kl_div(
            reminded[i].logits[0].float().log_softmax(-1),
            unguarded.logits[0].float().log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        )
        for i, unguarded in zip(compared, plain, strict=True)
    ]
    return out.index_put((torch.tensor(compared, device=out.device),), torch.stack(rows))
