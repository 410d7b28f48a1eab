"""PGD on an image, for one request or universal over many, known as ImgJP and visual adversarial examples.

After Niu et al., arXiv:2402.02309, and Qi et al., arXiv:2306.13213: the image is changed until answers begin with their
targets.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from safety_reminder.attacks.adaptive import GuardedObjective, guard_of
from safety_reminder.attacks.base import Arena, Outcome, require_rows, write_losses
from safety_reminder.attacks.descent import Descent, Objective, Validate, descend, digest
from safety_reminder.attacks.goals import Goal
from safety_reminder.attacks.losses import require_room, target_loss
from safety_reminder.attacks.options import PGDConfig
from safety_reminder.attacks.prompts import Around, Continuing, Prompts, no_vectors
from safety_reminder.attacks.splits import Splits
from safety_reminder.attacks.targets import make_goals
from safety_reminder.defenses.dro import DRO
from safety_reminder.errors import ModelError
from safety_reminder.guard.decoding import Guard
from safety_reminder.models import VLM
from safety_reminder.models.messages import load_image
from safety_reminder.models.pixels import Pixels, from_pil, to_pil
from safety_reminder.models.scoring import frozen, score
from safety_reminder.run_files import write_bytes
from safety_reminder.types import Example

IMAGE, CLEAN = "image.png", "clean.png"  # in a run folder
_RELOADED = 16  # goals whose losses are computed anew from the file
_GREYS = {"grey": 128, "white": 255, "black": 0}


class TargetObjective:
    """The mean loss of requests' targets, in front of one image.

    Raises:
        ConfigError: no goals; a target without tokens, or longer than the model's context.
    """

    def __init__(
        self, vlm: VLM, pixels: Pixels, goals: Sequence[Goal], first_weight: float, around: Around = nullcontext
    ) -> None:
        self.vlm, self.pixels, self.first_weight = vlm, pixels, first_weight
        self.prompts = Prompts(vlm, [goal.example for goal in goals], pixels.size, around)
        self.targets = vlm.answer_ids([goal.target for goal in goals])
        require_room(vlm, self.prompts, self.targets)

    @property
    def count(self) -> int:
        return len(self.targets)

    @property
    def identity(self) -> str:
        return digest(json.dumps([self.prompts.ids, self.targets]).encode())

    def __call__(self, image: Float[Tensor, "3 height width"], items: Sequence[int], step: int) -> dict[str, Tensor]:
        following = {n: Continuing(self.targets[n], len(self.targets[n])) for n in items}
        heads = self.prompts.read(self.pixels(image), items)
        scored = self.prompts.score(heads, following, no_vectors(self.vlm))
        losses = [target_loss(scored[n].logits, self.targets[n], first_weight=self.first_weight) for n in items]
        return {"loss": torch.stack(losses).mean()}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing is kept from step to step."""


def clean_image(name: str, pixels: Pixels, seed: int = 0) -> Float[Tensor, "3 height width"]:
    """The image that an attack begins from, in the attacked size; a picture is resized to it.

    Raises:
        MessageError: no image there, or it cannot be read.
    """
    height, width = pixels.size
    if name in _GREYS:
        return torch.full((3, height, width), _GREYS[name] / 255)
    if name == "noise":
        levels = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed))
        return levels / 255
    return from_pil(load_image(Path(name).expanduser()).resize((width, height), Image.Resampling.BICUBIC))


def pgd(
    vlm: VLM,
    goals: Sequence[Goal],
    config: PGDConfig,
    *,
    guard: Guard | None = None,
    defense: DRO | None = None,
    folder: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    validate: Validate | None = None,
    pixels: Pixels | None = None,
) -> tuple[Descent, Float[Tensor, "3 height width"]]:
    """One image for all goals.

    Args:
        guard: what is attacked with the model, if ``config.adaptive`` says so.
        defense: a soft prompt that stands in front of the requests while the image is learned.
        folder, identity, validate: as :func:`~safety_reminder.attacks.descent.descend` takes them.
        pixels: of ``config.size``, where they have been read off already.

    Returns:
        How it went, and the image it began from.

    Raises:
        ConfigError: no goals, a target that does not fit, an adaptive attack without a guard, or another's checkpoint.
        ModelError: a model whose pixels cannot be attacked.
    """
    pixels = pixels or Pixels(vlm, config.shape)
    clean = clean_image(config.image, pixels, config.seed)
    around: Around = nullcontext
    if defense is not None:
        around = defense.embedded
        fronts = [f"{defense.text} {goal.example.system}".strip() for goal in goals]
        goals = [replace(g, example=replace(g.example, system=s)) for g, s in zip(goals, fronts, strict=True)]
    objective: Objective
    if config.adaptive.knows_guard:
        found = guard_of(guard, config.adaptive)
        first = config.first_weight
        objective = GuardedObjective(vlm, pixels, goals, found, config.adaptive, first_weight=first, around=around)
    else:
        objective = TargetObjective(vlm, pixels, goals, config.first_weight, around)
    with frozen(vlm.model):
        descent = descend(objective, clean, config, folder=folder, identity=identity, validate=validate, describe="PGD")
    return descent, clean


@dataclass(frozen=True)
class Reloaded:
    """Mean losses of the targets in front of one image: ``optimised``, by the code that was descended with, and
    ``reloaded``, in whole sequences through the model's own processor, from the file."""

    optimised: float
    reloaded: float


@torch.no_grad()
def reload(
    vlm: VLM, goals: Sequence[Goal], path: Path, *, first_weight: float, pixels: Pixels | None = None
) -> Reloaded:
    """Both losses of a saved image, which has the size of ``pixels``.

    Raises:
        ModelError: what was optimised is not, token for token, what the model reads.
    """
    with Image.open(path) as opened:
        image = from_pil(opened)
    objective = TargetObjective(vlm, pixels or Pixels(vlm), goals, first_weight)
    optimised, reloaded = [], []
    for number, goal in enumerate(goals):
        optimised.append(float(objective(image, [number], 0)["loss"]))
        inputs = vlm.encode([replace(goal.example, image=path).messages()])
        if inputs["input_ids"][0].tolist() != objective.prompts.ids[number]:
            raise ModelError(f"the prompt of {goal.example.id} is not read as it was optimised")
        target = objective.targets[number]
        [whole] = score(vlm.model, inputs, [[target]], no_vectors(vlm))
        reloaded.append(float(target_loss(whole.logits[0], target, first_weight=first_weight)))
    return Reloaded(sum(optimised) / len(goals), sum(reloaded) / len(goals))


def save_image(image: Float[Tensor, "3 height width"], path: Path) -> None:
    """As a PNG of eight bits a channel, which keeps every pixel; JPEG would not."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def run(arena: Arena, config: PGDConfig) -> Outcome:
    """``attack=pgd``: one image that is learned on the training requests, or one for each test request."""
    require_rows(arena, "test", *(["train"] if config.universal else []))
    pixels = Pixels(arena.vlm, config.shape)
    clean = clean_image(config.image, pixels, config.seed)
    save_image(clean, arena.folder / CLEAN)
    blank = arena.splits.each(lambda e: replace(e, image=arena.folder / CLEAN))
    attacked = blank.train if config.universal else blank.test
    goals = make_goals(attacked, config.targets, arena.answers)
    alike = config.universal or config.targets.kind == "corpus"  # what is learned from is the same for every image
    parts = [goals if alike else [goals[number]] for number in range(1 if config.universal else len(attacked))]
    images, losses, marks, figures, seconds = [], [], [], [], 0.0
    for number, part in enumerate(parts):
        folder = arena.folder if config.universal else arena.folder / f"{number:03d}"
        validated = (blank.validation or blank.train) if config.universal else [blank.test[number]]
        # Offsets of several descents in one curve.
        descent, path = _one(arena, part, validated, config, folder, pixels)
        marks += [{**m, "step": len(losses) + m["restart"] * config.steps + m["step"]} for m in descent.validations]
        losses += [{"image": number, **row} for row in descent.losses]
        images.append(path)
        seconds += descent.seconds
        read = part[:_RELOADED]
        figures.append(reload(arena.vlm, read, path, first_weight=config.first_weight, pixels=pixels))
    write_losses(arena.folder, losses, marks)
    if config.universal:
        splits = blank.each(lambda e: replace(e, image=images[0]))
    else:
        splits = Splits([], [], [replace(e, image=path) for e, path in zip(blank.test, images, strict=True)])
    return Outcome(
        splits,
        blank.test,
        {
            "steps": len(losses),
            "seconds": seconds,
            "loss": sum(f.optimised for f in figures) / len(figures),
            "loss_reloaded": sum(f.reloaded for f in figures) / len(figures),
        },
    )


def _one(
    arena: Arena,
    goals: Sequence[Goal],
    validated: Sequence[Example],
    config: PGDConfig,
    folder: Path,
    pixels: Pixels,
) -> tuple[Descent, Path]:
    guard = arena.guarded.guard if config.adaptive.knows_guard else None
    defense = DRO(arena.guarded, config.soft_prompt) if config.soft_prompt else None

    def validate(image: Tensor) -> float:
        shown = [replace(e, image=to_pil(image)) for e in validated]
        return arena.success(shown, guard=guard is not None, respond=defense.respond if defense else None)

    path = folder / IMAGE
    folder.mkdir(parents=True, exist_ok=True)
    descent, _ = pgd(
        arena.vlm,
        goals,
        config,
        guard=guard,
        defense=defense,
        folder=folder,
        identity={
            **arena.identity,
            "soft_prompt": defense and defense.digest,
            "validation": [[e.id, e.prompt, arena.tokens] for e in validated],
        },
        validate=validate if config.validate_every else None,
        pixels=pixels,
    )
    save_image(descent.image, path)
    return descent, path
