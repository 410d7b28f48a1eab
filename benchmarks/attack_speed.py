"""What a step of an image attack costs: header and image run once for all requests, beside a plain batch.

    python benchmarks/attack_speed.py    # pocket, batches of 4 and 8

A step is forward and backward to the image. ``plain``: every row with an image of its own, left padded, in one pass
without a cache. Both give the same gradient, which is checked.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

import torch
from common import figure, finish, paired, parser, ratio

from safety_reminder.attacks.goals import Goal
from safety_reminder.attacks.losses import target_loss
from safety_reminder.attacks.pgd import TargetObjective, clean_image
from safety_reminder.attacks.prompts import no_vectors
from safety_reminder.attacks.targets import ORDINARY, echo
from safety_reminder.models import load_vlm
from safety_reminder.models.pixels import Pixels, replaced, to_pil
from safety_reminder.models.scoring import frozen, score
from safety_reminder.types import Example

BATCHES = (4, 8)
SAME = 1e-3  # of the largest entry: float32, summed in another order


def plain_gradient(objective: TargetObjective, inputs: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """As a script would compute it that knows of no shared beginning."""
    image = image.clone().requires_grad_()
    values = replaced(inputs, objective.pixels(image), objective.count)
    scripts = [[target] for target in objective.targets]
    scored = score(objective.vlm.model, values, scripts, no_vectors(objective.vlm))
    losses = [target_loss(s.logits[0], objective.targets[n], first_weight=1.0) for n, s in enumerate(scored)]
    return torch.autograd.grad(torch.stack(losses).mean(), [image])[0]


def shared_gradient(objective: TargetObjective, image: torch.Tensor) -> torch.Tensor:
    image = image.clone().requires_grad_()
    loss = objective(image, range(objective.count), 0)["loss"]
    return torch.autograd.grad(loss, [image])[0]


def measure(vlm, runs: int, batches, figures: dict, name: str) -> None:
    pixels = Pixels(vlm)
    image = clean_image("noise", pixels)
    for batch in batches:
        examples = [Example(id=str(n), prompt=ORDINARY[n % len(ORDINARY)]) for n in range(batch)]
        goals = [Goal(e, echo(e.prompt, ":\n\n1. First, gather everything that is needed for it.")) for e in examples]
        objective = TargetObjective(vlm, pixels, goals, 1.0)
        picture = to_pil(image)
        inputs = vlm.encode([replace(example, image=picture).messages() for example in examples])
        mine, theirs = shared_gradient(objective, image), plain_gradient(objective, inputs, image)
        difference = float((mine - theirs).abs().max() / theirs.abs().max())
        if difference > SAME:
            raise SystemExit(f"the gradients differ by {difference:.2g} of the largest")
        figures[f"{name}: batch {batch}: largest difference of gradients"] = figure(difference, [difference])
        seconds = paired(
            {
                "plain": lambda o=objective, i=inputs: plain_gradient(o, i, image),
                "shared": lambda o=objective: shared_gradient(o, image),
            },
            runs,
        )
        figures[f"{name}: batch {batch}: plain / shared"] = ratio(seconds, "plain", "shared")
        figures[f"{name}: batch {batch}: seconds a step"] = figure(
            statistics.median(seconds["shared"]), seconds["shared"]
        )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=5)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    figures: dict = {}
    vlm = load_vlm("pocket", device=arguments.device)
    with frozen(vlm.model):  # as an attack runs it
        measure(vlm, arguments.runs, BATCHES, figures, "pocket")
    finish(figures, arguments)


if __name__ == "__main__":
    main()
