"""PGD on an image, for one request or universal over many, known as ImgJP and visual adversarial examples.

After Niu et al., arXiv:2402.02309, and Qi et al., arXiv:2306.13213: the image is changed until answers begin with their
targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from safety_reminder.attacks.descent import Descent, DescentConfig, Validate, descend
from safety_reminder.attacks.goals import Goal
from safety_reminder.attacks.losses import target_loss
from safety_reminder.attacks.prompts import Continuing, Prompts, no_vectors, target_ids
from safety_reminder.config.options import Field
from safety_reminder.errors import ConfigError
from safety_reminder.models import VLM
from safety_reminder.models.messages import load_image
from safety_reminder.models.pixels import Pixels, from_pil, to_pil
from safety_reminder.models.scoring import score

_GREYS = {"grey": 128, "white": 255, "black": 0}


class PGDConfig(DescentConfig):
    """The options of ``attack=pgd``."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "epsilon": 64 / 255,
            "step_size": 1 / 255,
            "steps": 3000,
            "batch_size": 4,
            "start": "uniform",
            "schedule": "constant",
            "momentum": 0.0,
            "seed": 42,
        }
    }

    image: Annotated[str, Field(description="to begin from: grey, white, black, noise, or a path")] = "grey"
    first_weight: Annotated[float, Field(ge=0, description="of the first token's loss, beside the mean of all")] = 1.0


class TargetObjective:
    """The mean loss of requests' targets, in front of one image.

    Raises:
        ConfigError: no goals; a target without tokens, or longer than the model's context.
    """

    def __init__(self, vlm: VLM, pixels: Pixels, goals: Sequence[Goal], first_weight: float) -> None:
        self.vlm, self.pixels, self.first_weight = vlm, pixels, first_weight
        self.prompts = Prompts(vlm, [goal.example for goal in goals], pixels.size)
        self.targets = [target_ids(vlm, goal.target) for goal in goals]
        require_room(vlm, self.prompts, self.targets)

    @property
    def count(self) -> int:
        return len(self.targets)

    def __call__(self, image: Float[Tensor, "3 height width"], items: Sequence[int], step: int) -> dict[str, Tensor]:
        following = {n: Continuing(self.targets[n], len(self.targets[n])) for n in items}
        scored = self.prompts.score(self.pixels(image), following, no_vectors(self.vlm))
        losses = [target_loss(scored[n].logits, self.targets[n], first_weight=self.first_weight) for n in items]
        return {"loss": torch.stack(losses).mean()}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing is kept from step to step."""


def require_room(vlm: VLM, prompts: Prompts, targets: Sequence[Sequence[int]]) -> None:
    """Raises: ConfigError: nothing to aim at, or too long."""
    if not targets:
        raise ConfigError("there are no requests to attack; the data set, or its training split, is empty")
    longest = getattr(vlm.model.config.get_text_config(), "max_position_embeddings", None)
    for number, (ids, target) in enumerate(zip(prompts.ids, targets, strict=True), 1):
        if not target:
            raise ConfigError(f"the target of request {number} has no tokens")
        if longest is not None and len(ids) + len(target) > longest:
            raise ConfigError(
                f"request {number} and its target have {len(ids) + len(target)} tokens, but {vlm.name} reads "
                f"{longest}; shorten the target"
            )


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
    folder: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    validate: Validate | None = None,
    pixels: Pixels | None = None,
) -> tuple[Descent, Float[Tensor, "3 height width"]]:
    """One image for all goals.

    Args:
        folder, identity, validate: as :func:`~safety_reminder.attacks.descent.descend` takes them.
        pixels: of another size than the model's own.

    Returns:
        How it went, and the image it began from.
    """
    pixels = pixels or Pixels(vlm)
    clean = clean_image(config.image, pixels, config.seed)
    objective = TargetObjective(vlm, pixels, goals, config.first_weight)
    who = {"goals": [[goal.example.id, goal.target] for goal in goals], **(identity or {})}
    return descend(objective, clean, config, folder=folder, identity=who, validate=validate, describe="PGD"), clean


@dataclass(frozen=True)
class Reloaded:
    """Mean losses of the targets in front of one image: ``optimised``, by the code that was descended with, and
    ``reloaded``, in whole sequences through the model's own processor, from the file."""

    optimised: float
    reloaded: float


@torch.no_grad()
def reload(vlm: VLM, goals: Sequence[Goal], path: Path, first_weight: float, pixels: Pixels | None = None) -> Reloaded:
    """Both losses of a saved image."""
    with Image.open(path) as opened:
        image = from_pil(opened)
    objective = TargetObjective(vlm, pixels or Pixels(vlm), goals, first_weight)
    optimised, reloaded = [], []
    for number, goal in enumerate(goals):
        optimised.append(float(objective(image, [number], 0)["loss"]))
        inputs = vlm.encode([replace(goal.example, image=path).messages()])
        target = objective.targets[number]
        [whole] = score(vlm.model, inputs, [[target]], no_vectors(vlm))
        reloaded.append(float(target_loss(whole.logits[0], target, first_weight=first_weight)))
    return Reloaded(sum(optimised) / len(goals), sum(reloaded) / len(goals))


def save_image(image: Float[Tensor, "3 height width"], path: Path) -> None:
    """As a PNG of eight bits a channel, which keeps every pixel; JPEG would not."""
    to_pil(image).save(path, "PNG")
