"""What probes would see at every check of every answer: after the reminder, and at its rivals' places."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from safety_reminder.errors import SafetyReminderError
from safety_reminder.guard.schedule import Schedule, checkable
from safety_reminder.models.prefix import Prefix
from safety_reminder.models.scoring import Place, follow
from safety_reminder.training.config import TrainingConfig
from safety_reminder.training.prefixes import Prefixes, passes, slices
from safety_reminder.training.probing.regression import auc
from safety_reminder.training.samples import Sample
from safety_reminder.types import TrainingExample

# ``header``: the assistant's header is put after the partial answer and its last token is read (Any-Depth Alignment,
# arXiv:2510.18081); ``last``: the last token of the text as it is.
Where = Literal["reminder", "header", "last"]


@dataclass(frozen=True)
class Readings:
    """``hidden`` (n, hidden_size) float32; of each, (n,): whether it is ``unsafe``, the number of its answer
    (``groups``), and the answer's ``tokens`` so far. ``sources``: of each answer. ``further``, (n,): where no check of
    a plain answer is; None: all are checks."""

    hidden: torch.Tensor
    unsafe: torch.Tensor
    groups: torch.Tensor
    tokens: torch.Tensor
    sources: tuple[str, ...]
    further: torch.Tensor | None = None

    def select(self, chosen: torch.Tensor) -> Readings:
        further = None if self.further is None else self.further[chosen]
        return Readings(
            self.hidden[chosen], self.unsafe[chosen], self.groups[chosen], self.tokens[chosen], self.sources, further
        )

    @property
    def checks(self) -> Readings:
        """Those at checks of plain answers."""
        return self if self.further is None else self.select(~self.further)


def prompt_numbers(samples: Sequence[Sample]) -> torch.Tensor:
    """(samples,) ints: one for all answers to one prompt, which are alike, where groups are to be of prompts."""
    _, numbers = np.unique([sample.key for sample in samples], return_inverse=True)
    return torch.from_numpy(numbers)


def check_places(example: TrainingExample, answer: Sequence[int], interval: int, eos_ids: Collection[int]) -> list[int]:
    """After how many tokens decoding would check this answer: 0, ``interval``, ... and its end, also where it was cut
    off. A refusal is not looked at before it begins, since the bare prompt is not safe."""
    places = Schedule(interval, prompt=True).places(len(checkable(answer, eos_ids)))
    if example.safe and example.harmful_prompt:
        return [place for place in places if place] or places
    return places


@torch.no_grad()
def read(
    prefixes: Prefixes,
    samples: Sequence[Sample],
    vectors: torch.Tensor,
    interval: int,
    *,
    where: Where = "reminder",
    trained_with: TrainingConfig | None = None,
    description: str = "reading",
) -> Readings:
    """Hidden states where ``where`` says, at every check of every answer.

    ``trained_with``: also where the cuts of these options put a reminder that no check of a plain answer meets (those
    marked ``further_place`` in :class:`~safety_reminder.training.config.TrainingConfig`).

    Raises:
        SafetyReminderError: a state that is not finite (with ``on_error=skip``, no other), or no state at all.
    """
    vlm, at_once = prefixes.vlm, prefixes.micro_batch_size
    header = vlm.assistant_header() if where == "header" else []
    hidden, rows = [], []
    with tqdm(total=len(samples), desc=description, unit="example", dynamic_ncols=True) as progress:
        for numbered in slices(list(enumerate(samples)), at_once):
            looks: list[_Look] = []
            for number, sample in numbered:
                prefix = prefixes.of(sample)
                cuts = check_places(sample.example, sample.answer, interval, vlm.eos_ids)
                for n in cuts:
                    if where == "last":
                        place = Place(prefix, n - 1, [[prefix.tokens[n]]])
                    else:
                        place = Place(prefix, n, [header if where == "header" else None])
                    looks.append(_Look(number, not sample.example.safe, n, place))
                looks += _further(number, sample, prefix, cuts, interval, trained_with)
            states = _states(vlm.model, looks, vectors, at_once)
            spoilt = {look.number for look, state in zip(looks, states, strict=True) if not state.isfinite().all()}
            for number in sorted(spoilt):
                prefixes.leave_out(samples[number], "the model's hidden state is not finite")
            for look, state in zip(looks, states, strict=True):
                if look.number not in spoilt:
                    hidden.append(state)
                    rows.append((look.unsafe, look.number, look.tokens, look.further))
            progress.update(len(numbered))
    if not rows:
        raise SafetyReminderError(f"{description}: no row of {len(samples)} has a hidden state that can be used")
    unsafe, groups, tokens, further = zip(*rows, strict=True)
    return Readings(
        torch.stack(hidden),
        torch.tensor(unsafe),
        torch.tensor(groups),
        torch.tensor(tokens),
        tuple(sample.example.source for sample in samples),
        torch.tensor(further),
    )


@dataclass(frozen=True)
class _Look:
    """The state at the end of ``place``, in the answer of sample ``number`` after so many ``tokens``; ``further``:
    beyond the checks of a plain answer."""

    number: int
    unsafe: bool
    tokens: int
    place: Place
    further: bool = False


def _states(model: Any, looks: Sequence[_Look], vectors: torch.Tensor, at_once: int) -> list[torch.Tensor]:
    """One state for each look, (hidden_size,) float32 on the CPU."""
    states: dict[int, torch.Tensor] = {}
    for part in passes(range(len(looks)), lambda i: looks[i].place.script, len(vectors), at_once):
        continuations = follow(model, [looks[i].place for i in part], vectors, logits=False)
        states |= {i: state.last.float().cpu() for i, state in zip(part, continuations, strict=True)}
    return [states[i] for i in range(len(looks))]


def _further(
    number: int, sample: Sample, prefix: Prefix, cuts: Sequence[int], interval: int, config: TrainingConfig | None
) -> Iterator[_Look]:
    """Looks beyond the checks of a plain answer."""
    if config is None:
        return
    if config.unheeded_prob and interval in cuts and 0 in cuts:
        # Begun anew after a reminder, as after ``rewind``.
        place = Place(prefix, 0, [None, sample.answer[:interval], None])
        yield _Look(number, not sample.example.safe, 0, place, True)
    if sample.example.safe:
        return
    tokens = cuts[-1] // 2
    refusal = sample.correction if tokens else sample.refusal
    begun = refusal[: len(refusal) // 2]
    if config.repeat_prob and begun:
        yield _Look(number, False, tokens, Place(prefix, tokens, [None, begun, None]), True)
    if config.correction_prob and begun and tokens:
        yield _Look(number, False, tokens, Place(prefix, tokens, [begun, None]), True)


def positions(tokens: torch.Tensor, interval: int) -> dict[str, torch.Tensor]:
    """Which checks stand where: after ``0``, ``interval``, ... tokens, and ``end`` for those at an answer's end that
    are at none of these places. ``tokens``: (n,) ints; the masks are (n,) bool."""
    periodic = tokens % interval == 0
    masks = {str(n): tokens == n for n in sorted(set(tokens[periodic].tolist()))}
    return masks if periodic.all() else {**masks, "end": ~periodic}


def where_is(place: str) -> str:
    """A key of :func:`positions`, in words."""
    return "at another end" if place == "end" else f"after {place} tokens"


def auc_by(scores: torch.Tensor, readings: Readings, interval: int) -> dict[str, dict[str, float]]:
    """The probe's AUC over all checks, by tokens so far (:func:`positions`) and by source against all safe rows.

    Where all checks are of one kind, there is no AUC.
    """
    unsafe = readings.unsafe
    aucs: dict[str, dict[str, float]] = {"all": {}, "tokens": {}, "source": {}}
    if unsafe.any() and not unsafe.all():
        aucs["all"]["all"] = auc(scores, unsafe)
    for place, mask in positions(readings.tokens, interval).items():
        if unsafe[mask].any() and not unsafe[mask].all():
            aucs["tokens"][place] = auc(scores[mask], unsafe[mask])
    of_row = [readings.sources[group] for group in readings.groups.tolist()]
    for source in sorted(set(of_row)):
        mask = torch.tensor([name == source for name in of_row])
        if unsafe[mask].any():
            mask |= ~unsafe
            if not unsafe[mask].all():
                aucs["source"][source] = auc(scores[mask], unsafe[mask])
    return aucs
