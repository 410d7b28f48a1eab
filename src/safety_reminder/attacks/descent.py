"""Projected gradient descent on one image, for whatever objective: steps, validation, checkpoints.

The published attacks take plain sign steps of one size, by the thousand. Here the sign is that of a momentum
(MI-FGSM, Dong et al., arXiv:1710.06081), and the step size falls along a cosine, so that tens of steps do.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from safety_reminder.attacks.options import DescentConfig
from safety_reminder.config.options import checked
from safety_reminder.errors import ConfigError, ModelError
from safety_reminder.run_files import differing, write_bytes

CHECKPOINT = "checkpoint.safetensors"


class Objective(Protocol):
    """What is minimised."""

    @property
    def count(self) -> int:
        """Items that mini-batches are drawn from."""
        ...

    @property
    def identity(self) -> str:
        """A digest of what it is made of: a run that broke off goes on only with the same."""
        ...

    def __call__(self, image: Float[Tensor, "3 height width"], items: Sequence[int], step: int) -> dict[str, Tensor]:
        """``loss``, with a gradient, and whatever else is to be logged, by name."""
        ...

    def state(self) -> dict[str, Any]:
        """What it must be given again to go on after a kill, as JSON knows it."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


Validate = Callable[[Tensor], float]  # an image, (3, height, width) in [0, 1] → success, the higher the better


@torch.no_grad()
def descent_step(
    image: Float[Tensor, "3 height width"],
    gradient: Float[Tensor, "3 height width"],
    velocity: Float[Tensor, "3 height width"],
    clean: Float[Tensor, "3 height width"],
    *,
    size: float,
    epsilon: float | None,
    momentum: float,
) -> tuple[Float[Tensor, "3 height width"], Float[Tensor, "3 height width"]]:
    """One step along the sign of the momentum, back within ``epsilon`` of ``clean`` and into [0, 1].

    Returns:
        The new image and the new velocity: the old one times ``momentum``, and the gradient, scaled to a mean absolute
        value of 1.
    """
    velocity = momentum * velocity + gradient / gradient.abs().mean().clamp(min=1e-30)
    moved = image - size * velocity.sign()
    if epsilon is not None:
        moved = clean + (moved - clean).clamp(-epsilon, epsilon)
    return moved.clamp(0, 1), velocity


@dataclass(frozen=True)
class Descent:
    """How it went. ``image``: the best one, eight bits a channel, (3, height, width) in [0, 1]; ``score``: its
    validation success (None: not validated); ``losses``: of each step, its number, start, and what the objective
    logged; ``validations``: of each, restart, step and success; ``seconds``: all in all, before a kill as well."""

    image: Tensor
    score: float | None
    best_step: int
    losses: list[dict[str, float]]
    validations: list[dict[str, float]]
    seconds: float


@dataclass
class _State:
    image: Tensor
    velocity: Tensor
    best: Tensor
    restart: int = 0
    step: int = 0  # steps of this start that are done
    score: float | None = None
    best_step: int = 0
    worse: int = 0  # validations of this start without a gain
    gained: float = -1.0  # the best validation of this start
    done: bool = False
    seconds: float = 0.0
    lowest: float | None = None  # of starts that nobody validates, the lowest mean of their last losses
    losses: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)


_TENSORS = ("image", "velocity", "best")


def descend(
    objective: Objective,
    clean: Float[Tensor, "3 height width"],
    config: DescentConfig,
    *,
    folder: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    validate: Validate | None = None,
    describe: str = "attack",
) -> Descent:
    """Change ``clean`` until the objective is low.

    Args:
        folder: for checkpoints; a run that broke off goes on from there, with the same result.
        identity: what, beside ``config``, must be the same for that.
        validate: the best image by this is kept; without, the last one of the start with the lowest losses.
        describe: of the progress bar.

    Raises:
        ConfigError: a checkpoint of another attack, or one that cannot be read.
        ModelError: a loss that is not a number.
    """
    parts = {"objective": objective.identity, "image": digest(clean.numpy().tobytes())}
    who = json.loads(json.dumps({"config": config.model_dump(), **parts, **(identity or {})}))
    state = _load(folder, who, objective) or _first(clean, config)
    began = time.perf_counter() - state.seconds
    total = config.restarts * config.steps
    with tqdm(total=total, initial=state.restart * config.steps + state.step, desc=describe, unit="step") as progress:
        while not state.done:
            _one_step(objective, clean, config, state)
            shown = {"loss": f"{state.losses[-1]['loss']:.3f}"}
            if validate is not None and _due(config, state):
                _validate(validate, config, state)
            if state.score is not None:
                shown["success"] = f"{state.score:.0%}"
            _next_start(clean, config, state, validated=validate is not None)
            state.seconds = time.perf_counter() - began
            progress.set_postfix(shown, refresh=False)
            progress.update()
            if folder is not None and (state.done or state.step % config.save_every == 0):
                _save(folder, state, who, objective)
    return Descent(eight_bits(state.best), state.score, state.best_step, state.losses, state.validations, state.seconds)


def digest(*parts: bytes) -> str:
    """SHA-256."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def eight_bits(image: Tensor) -> Tensor:
    """As it will be saved."""
    return (image * 255).round() / 255


def _first(clean: Tensor, config: DescentConfig) -> _State:
    image = _begin(clean, config, 0)
    return _State(image, torch.zeros_like(clean), image)


def _begin(clean: Tensor, config: DescentConfig, restart: int) -> Tensor:
    if config.start == "clean" and restart == 0:
        return clean.clone()
    generator = torch.Generator().manual_seed(config.seed * 1000 + restart)
    epsilon = 1.0 if config.reach is None else config.reach
    return (clean + (2 * torch.rand(clean.shape, generator=generator) - 1) * epsilon).clamp(0, 1)


def items_of(count: int, batch_size: int, seed: int, restart: int, step: int) -> list[int]:
    """The mini-batch of a step: all items in an order of each epoch's own, again and again."""
    size = min(batch_size, count)
    chosen: list[int] = []
    for place in range(step * size, (step + 1) * size):
        epoch, at = divmod(place, count)
        order = random.Random(f"{seed}/{restart}/{epoch}").sample(range(count), count)
        chosen.append(order[at])
    return list(dict.fromkeys(chosen))  # an epoch may end and begin with the same one


def _one_step(objective: Objective, clean: Tensor, config: DescentConfig, state: _State) -> None:
    items = items_of(objective.count, config.batch_size, config.seed, state.restart, state.step)
    image = state.image.clone().requires_grad_()
    parts = objective(image, items, state.restart * config.steps + state.step)
    (gradient,) = torch.autograd.grad(parts["loss"], [image])
    logged = {name: float(part.detach()) for name, part in parts.items()}
    if not (math.isfinite(logged["loss"]) and bool(torch.isfinite(gradient).all())):
        raise ModelError(
            f"step {state.step} of the attack has a loss or a gradient that is not finite; dtype=float32 may help"
        )
    if not bool(gradient.any()):
        raise ModelError(
            f"step {state.step} of the attack has a gradient of zero everywhere: the model does not see the image, or "
            "its precision is too low; dtype=float32 may help"
        )
    state.image, state.velocity = descent_step(
        state.image,
        gradient,
        state.velocity,
        clean,
        size=config.size_at(state.step),
        epsilon=config.reach,
        momentum=config.momentum,
    )
    state.losses.append({"restart": state.restart, "step": state.step, **logged})
    state.step += 1


def _due(config: DescentConfig, state: _State) -> bool:
    every = config.validate_every
    return state.step == config.steps or (every > 0 and state.step % every == 0)


def _validate(validate: Validate, config: DescentConfig, state: _State) -> None:
    score = validate(eight_bits(state.image))
    state.validations.append({"restart": state.restart, "step": state.step, "success": score})
    state.worse = 0 if score > state.gained else state.worse + 1
    state.gained = max(state.gained, score)
    if state.score is None or score >= state.score:  # of equals the later one, whose loss is lower as a rule
        state.score, state.best, state.best_step = score, state.image.clone(), state.step


def _next_start(clean: Tensor, config: DescentConfig, state: _State, *, validated: bool) -> None:
    """Begin the next start where this one is at its end, or end."""
    ends = state.step == config.steps
    if not validated and ends:
        last = [row["loss"] for row in state.losses[-min(10, config.steps) :]]
        mean = sum(last) / len(last)
        if state.lowest is None or mean < state.lowest:
            state.lowest, state.best, state.best_step = mean, state.image.clone(), state.step
    if state.score is not None and state.score >= config.enough:
        state.done = True
        return
    if not ends and (config.patience is None or state.worse < config.patience):
        return
    if state.restart + 1 == config.restarts:
        state.done = True
        return
    state.restart, state.step, state.worse, state.gained = state.restart + 1, 0, 0, -1.0
    state.image, state.velocity = _begin(clean, config, state.restart), torch.zeros_like(clean)


def _save(folder: Path, state: _State, identity: Mapping[str, Any], objective: Objective) -> None:
    tensors = {name: getattr(state, name).contiguous() for name in _TENSORS}
    values = asdict(replace(state, **dict.fromkeys(_TENSORS)))
    kept = {"state": values, "identity": identity, "objective": objective.state()}
    write_bytes(folder / CHECKPOINT, save(tensors, {"attack": json.dumps(kept)}))


def _load(folder: Path | None, identity: Mapping[str, Any], objective: Objective) -> _State | None:
    path = None if folder is None else folder / CHECKPOINT
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            kept = json.loads(file.metadata()["attack"])
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
        checked(dict[str, dict[str, Any]], {name: kept[name] for name in ("state", "identity", "objective")})
        state = _State(**{**kept["state"], **tensors})
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); remove it to begin anew") from error
    if changed := differing(identity, kept["identity"]):
        raise ConfigError(
            f"{folder} holds an attack with another configuration ({', '.join(changed)}); "
            "give another output=DIR, or remove it to start over"
        )
    objective.restore(kept["objective"])
    return state
