"""BAP's first step: an image that makes a model affirm, whatever it is asked (Ying et al., arXiv:2406.04031).

No request that is attacked is used. Affirmative openings become likelier and refusing ones less likely, over corpora of
this project's own, in front of the image alone or of harmless requests: those stand for requests in general. Without
them, an image learns to be affirmed by itself, which does not carry over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from safety_reminder.attacks.base import Arena, Outcome, require_rows, write_losses
from safety_reminder.attacks.corpora import load_corpus
from safety_reminder.attacks.descent import descend, digest
from safety_reminder.attacks.goals import Goal
from safety_reminder.attacks.losses import require_room, target_loss
from safety_reminder.attacks.options import BAPImageConfig
from safety_reminder.attacks.pgd import CLEAN, IMAGE, clean_image, reload, save_image
from safety_reminder.attacks.prompts import Continuing, Prompts, no_vectors
from safety_reminder.models import VLM
from safety_reminder.models.pixels import Pixels, to_pil
from safety_reminder.models.scoring import frozen
from safety_reminder.types import Example

_RELOADED = 16  # openings whose losses are computed anew from the file


class CorpusObjective:
    """The loss of affirmative openings, and a hinge on that of refusals.

    Logged beside ``loss``: ``target``, of affirmative openings; ``refusals``, in nats a token.
    """

    def __init__(self, vlm: VLM, pixels: Pixels, config: BAPImageConfig) -> None:
        self.vlm, self.pixels, self.config = vlm, pixels, config
        texts = load_corpus(config.affirmative)
        self.affirmative = vlm.answer_ids(texts)
        self.refusals = vlm.answer_ids(load_corpus(config.refusals))
        requests = ("",) if config.requests == "none" else load_corpus(config.requests)
        # Each opening twice: the prompt that it affirms, and the same again for a refusal.
        asked = [requests[n % len(requests)] for n in range(self.count) for _ in range(2)]
        examples = [Example(id=str(n), prompt=text) for n, text in enumerate(asked)]
        self.goals = [Goal(example, text) for example, text in zip(examples[::2], texts, strict=True)]
        self.prompts = Prompts(vlm, examples, pixels.size)
        openings = [ids for n in range(self.count) for ids in (self.affirmative[n], self._refusal(n))]
        require_room(vlm, self.prompts, openings)

    @property
    def count(self) -> int:
        return len(self.affirmative)

    @property
    def identity(self) -> str:
        return digest(json.dumps([self.prompts.ids, self.affirmative, self.refusals]).encode())

    def _refusal(self, item: int) -> list[int]:
        return self.refusals[item % len(self.refusals)]

    def __call__(self, image: Float[Tensor, "3 height width"], items: Sequence[int], step: int) -> dict[str, Tensor]:
        following = {}
        for n in items:
            following[2 * n] = Continuing(self.affirmative[n], len(self.affirmative[n]))
            following[2 * n + 1] = Continuing(self._refusal(n), len(self._refusal(n)))
        heads = self.prompts.read(self.pixels(image), following)
        scored = self.prompts.score(heads, following, no_vectors(self.vlm))
        affirmed = torch.stack([target_loss(scored[2 * n].logits, self.affirmative[n]) for n in items]).mean()
        refused = torch.stack([target_loss(scored[2 * n + 1].logits, self._refusal(n)) for n in items])
        hinge = F.relu(self.config.bound - refused).mean()
        return {"loss": affirmed + self.config.weight * hinge, "target": affirmed, "refusals": refused.mean()}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing is kept from step to step."""


def run(arena: Arena, config: BAPImageConfig) -> Outcome:
    """``attack=bap_image``. The data set's requests are not learned from: they validate and measure."""
    require_rows(arena, "test")
    pixels = Pixels(arena.vlm)
    clean = clean_image(config.image, pixels, config.seed)
    save_image(clean, arena.folder / CLEAN)
    validated = arena.splits.validation

    def validate(image: Tensor) -> float:
        picture = to_pil(image)
        return arena.success([replace(e, image=picture) for e in validated])

    objective = CorpusObjective(arena.vlm, pixels, config)
    with frozen(arena.vlm.model):
        descent = descend(
            objective,
            clean,
            config,
            folder=arena.folder,
            identity={**arena.identity, "validation": [[e.id, e.prompt, arena.tokens] for e in validated]},
            validate=validate if validated and config.validate_every else None,
            describe="BAP",
        )
    save_image(descent.image, arena.folder / IMAGE)
    marks = [{**m, "step": m["restart"] * config.steps + m["step"]} for m in descent.validations]
    write_losses(arena.folder, descent.losses, marks)
    blank = arena.splits.each(lambda e: replace(e, image=arena.folder / CLEAN))
    attacked = arena.splits.each(lambda e: replace(e, image=arena.folder / IMAGE))
    read = reload(arena.vlm, objective.goals[:_RELOADED], arena.folder / IMAGE, first_weight=0.0, pixels=pixels)
    figures = {"steps": len(descent.losses), "seconds": descent.seconds}
    return Outcome(attacked, blank.test, {**figures, "loss": read.optimised, "loss_reloaded": read.reloaded})
