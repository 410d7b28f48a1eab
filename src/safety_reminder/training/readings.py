"""What probes would see at every check of every answer: behind the reminder, and at its rivals' places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tqdm import tqdm

from safety_reminder.guard.context import Place, follow
from safety_reminder.training.objective import checkpoints
from safety_reminder.training.probe import auc
from safety_reminder.training.samples import Prefixes, Sample

# ``header``: the assistant's header is put behind the partial answer and its last token is read (Any-Depth Alignment,
# arXiv:2510.18081); ``last``: the last token of the text as it is.
Where = Literal["reminder", "header", "last"]


@dataclass(frozen=True)
class Readings:
    """``hidden`` (n, hidden_size) float32; of each, (n,): whether it is ``unsafe``, the number of its answer
    (``groups``), and the answer's ``tokens`` so far. ``sources``: of each answer."""

    hidden: torch.Tensor
    unsafe: torch.Tensor
    groups: torch.Tensor
    tokens: torch.Tensor
    sources: tuple[str, ...]

    def select(self, chosen: torch.Tensor) -> Readings:
        return Readings(
            self.hidden[chosen], self.unsafe[chosen], self.groups[chosen], self.tokens[chosen], self.sources
        )


@torch.no_grad()
def read(
    prefixes: Prefixes,
    samples: Sequence[Sample],
    vectors: torch.Tensor,
    interval: int,
    *,
    where: Where = "reminder",
    unheeded: bool = False,
    description: str = "reading",
) -> Readings:
    """Hidden states where ``where`` says, at every check of every answer.

    ``unheeded``: also at the first check of an answer that was begun anew behind a reminder, as after ``rewind``.
    """
    vlm = prefixes.vlm
    header = vlm.assistant_header() if where == "header" else []
    hidden, rows = [], []
    for number, sample in enumerate(tqdm(samples, desc=description, unit="example", dynamic_ncols=True)):
        prefix = prefixes.of(sample)
        cuts = checkpoints(sample.example, sample.answer, interval, vlm.eos_ids)
        if where == "reminder":
            places = [Place(prefix, n, [None]) for n in cuts]
        elif where == "header":
            places = [Place(prefix, n, [header]) for n in cuts]
        else:
            places = [Place(prefix, n - 1, [[prefix.tokens[n]]]) for n in cuts]
        hidden += [found.last.float().cpu() for found in follow(vlm.model, places, vectors)]
        rows += [(not sample.example.safe, number, n) for n in cuts]
        if unheeded and interval in cuts and 0 in cuts:
            place = Place(prefix, 0, [None, sample.answer[:interval], None])
            hidden.append(follow(vlm.model, [place], vectors)[0].last.float().cpu())
            rows.append((not sample.example.safe, number, interval))
    unsafe, groups, tokens = zip(*rows, strict=True)
    return Readings(
        torch.stack(hidden),
        torch.tensor(unsafe),
        torch.tensor(groups),
        torch.tensor(tokens),
        tuple(sample.example.source for sample in samples),
    )


def auc_by(scores: torch.Tensor, readings: Readings, interval: int) -> dict[str, dict[str, float]]:
    """The probe's AUC over all checks, by tokens so far (in steps of ``interval``) and by source against all safe rows.

    What has one kind only is left out.
    """
    unsafe = readings.unsafe
    found: dict[str, dict[str, float]] = {"all": {}, "tokens": {}, "source": {}}
    if unsafe.any() and not unsafe.all():
        found["all"]["all"] = auc(scores, unsafe)
    for step in sorted(set((readings.tokens // interval).tolist())):
        here = readings.tokens // interval == step
        if unsafe[here].any() and not unsafe[here].all():
            found["tokens"][str(step * interval)] = auc(scores[here], unsafe[here])
    of_row = [readings.sources[group] for group in readings.groups.tolist()]
    for source in sorted(set(of_row)):
        here = torch.tensor([name == source for name in of_row])
        if unsafe[here].any():
            here |= ~unsafe
            if not unsafe[here].all():
                found["source"][source] = auc(scores[here], unsafe[here])
    return found
