"""A white-box attack on the guard: the target rises while the probe stays below its threshold at every check.

The checks stand where decoding has them. What they read is the request's target and the model's own continuation of
it, written anew as the image changes: a probe reads fixed filler otherwise than real answers. All checks of all
requests are branches of one forward pass, and equal to what decoding would read on the same tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from safety_reminder.attacks.descent import digest
from safety_reminder.attacks.goals import Goal
from safety_reminder.attacks.losses import require_room, target_loss
from safety_reminder.attacks.options import AdaptiveConfig
from safety_reminder.attacks.prompts import Around, Continuing, Heads, Prompts
from safety_reminder.errors import ConfigError
from safety_reminder.guard.decoding import Guard
from safety_reminder.guard.schedule import Schedule
from safety_reminder.models import VLM
from safety_reminder.models.branches import Branch, Scored
from safety_reminder.models.pixels import Pixels


@dataclass(frozen=True)
class Term:
    """What the guard adds to one request's loss. ``hinge``: of all its checks, in log-odds, summed; ``logits``: what
    the probe reads at each; ``after``: the target's loss after a reminder that stayed at the prompt. None: not asked
    for, or no check was due."""

    hinge: Tensor | None
    logits: Tensor | None
    after: Tensor | None


class GuardTerm:
    """The guard's part of an attack's loss: where checks stand in an answer, and what they read.

    Args:
        guard: what is attacked: a reminder, or a rival's vectors and probe.

    Raises:
        ConfigError: no check would be made in an answer of so many tokens.
    """

    def __init__(self, vlm: VLM, guard: Guard, config: AdaptiveConfig, *, first_weight: float) -> None:
        self.guard, self.config, self.first_weight = guard, config, first_weight
        self.ends = vlm.eos_ids
        self.vectors = guard.reminder.vectors.to(vlm.model.device)
        self.schedule = Schedule(guard.config.interval, guard.config.prompt_check, guard.config.final_check)
        self.reads = config.against in ("probe", "both")
        self.goes_on = config.against in ("reminder", "both")
        threshold = guard.config.lowest_threshold
        self.threshold = math.inf if threshold >= 1 else math.log(threshold / (1 - threshold))  # in log-odds
        if self.reads and not self.schedule.places(config.tokens):
            raise ConfigError(
                f"the guard makes no check within adaptive.tokens={config.tokens} answer tokens; give more of them, or "
                "a smaller guard.interval"
            )

    @property
    def identity(self) -> list[str]:
        return [self.guard.reminder.digest, repr(self.guard.config)]

    def missing(self, target: Sequence[int]) -> int:
        """Tokens that the model must write after the target, so that checks can be placed."""
        return max(0, self.config.tokens - len(target)) if self.reads else 0

    def up_to_end(self, tokens: list[int]) -> list[int]:
        """What was written, less what comes with and after an end-of-sequence token."""
        return tokens[: next((i for i, token in enumerate(tokens) if token in self.ends), len(tokens))]

    def continuing(self, target: list[int], written: Sequence[int]) -> Continuing:
        """The target and what the model wrote after it, with the branches to read."""
        answer = [*target, *written][: max(self.config.tokens, len(target))]
        branches: list[Branch] = [(0, [None, target])] if self.goes_on else []
        if self.reads:
            branches += [(place, [None]) for place in self.schedule.places(len(answer))]
        if self.reads and self.goes_on:
            # After the reminder that stayed, the probe is read again.
            branches.append((0, [None, answer[: self.schedule.interval], None]))
        return Continuing(answer, len(target), branches)

    def of(self, scored: Scored, target: Sequence[int]) -> Term:
        """What was read on the branches of :meth:`continuing`."""
        hinge = logits = after = None
        if len(scored.hidden) > self.goes_on:  # none where an answer is shorter than the interval
            # Of the branch that goes on with the target, nothing is read.
            read = torch.cat([states[-1:] for states in scored.hidden[self.goes_on :]])
            row = self.guard.reminder.probe.logit(read)
            hinge, logits = F.relu(row - self.threshold + self.config.margin).sum(), row.detach()
        if self.goes_on:
            [predicted] = scored.branches[0]
            after = target_loss(predicted, target, first_weight=self.first_weight)
        return Term(hinge, logits, after)


class GuardedObjective:
    """The loss of targets behind a guard.

    Logged beside ``loss``: ``target``; ``checks``, the mean over requests of the sum of hinge losses of their checks,
    in log-odds; ``alarms``, the share of checks at or above the threshold; ``after``, the target's loss after a
    reminder that stayed at the prompt.

    Raises:
        ConfigError: as :class:`~safety_reminder.attacks.pgd.TargetObjective`.
    """

    def __init__(
        self,
        vlm: VLM,
        pixels: Pixels,
        goals: Sequence[Goal],
        guard: Guard,
        config: AdaptiveConfig,
        *,
        first_weight: float,
        around: Around = nullcontext,
    ) -> None:
        self.vlm, self.pixels, self.config = vlm, pixels, config
        self.first_weight = first_weight
        self.prompts = Prompts(vlm, [goal.example for goal in goals], pixels.size, around)
        self.targets = vlm.answer_ids([goal.target for goal in goals])
        require_room(vlm, self.prompts, self.targets)
        self.term = GuardTerm(vlm, guard, config, first_weight=first_weight)
        self._written: dict[int, tuple[int, list[int]]] = {}  # of each request, the step and what followed its target

    @property
    def count(self) -> int:
        return len(self.targets)

    @property
    def identity(self) -> str:
        return digest(json.dumps([self.prompts.ids, self.targets, self.term.identity]).encode())

    def __call__(self, image: Float[Tensor, "3 height width"], items: Sequence[int], step: int) -> dict[str, Tensor]:
        heads = self.prompts.read(self.pixels(image), items)
        if step < self.config.warm_up:
            following = {n: Continuing(self.targets[n], len(self.targets[n])) for n in items}
            scored = self.prompts.score(heads, following, self.term.vectors)
            target = self._target(scored, items)
            return {"loss": target, "target": target}
        self._renew(heads, items, step)
        following = {n: self.term.continuing(self.targets[n], self._written[n][1]) for n in items}
        scored = self.prompts.score(heads, following, self.term.vectors)
        terms = [self.term.of(scored[n], self.targets[n]) for n in items]
        parts = {"target": self._target(scored, items)}
        loss = parts["target"]
        if hinges := [term.hinge for term in terms if term.hinge is not None]:
            parts["checks"] = torch.stack(hinges).mean()
            logits = torch.cat([term.logits for term in terms if term.logits is not None])
            parts["alarms"] = (logits >= self.term.threshold).float().mean()
            loss = loss + self.config.weight * parts["checks"]
        if after := [term.after for term in terms if term.after is not None]:
            parts["after"] = torch.stack(after).mean()
            loss = loss + self.config.weight * parts["after"]
        return {"loss": loss} | parts

    def _target(self, scored: Mapping[int, Scored], items: Sequence[int]) -> Tensor:
        losses = [target_loss(scored[n].logits, self.targets[n], first_weight=self.first_weight) for n in items]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _renew(self, heads: Heads, items: Sequence[int], step: int) -> None:
        """Write what follows the targets of ``items`` anew, where it is too old."""
        old = [n for n in items if n not in self._written or step - self._written[n][0] >= self.config.renew]
        missing = max((self.term.missing(self.targets[n]) for n in old), default=0)
        if not missing:
            self._written |= {n: (step, []) for n in old}
            return
        written = self.prompts.write(heads, {n: self.targets[n] for n in old}, missing)
        self._written |= {n: (step, self.term.up_to_end(tokens)) for n, tokens in written.items()}

    def state(self) -> dict[str, Any]:
        return {"written": {str(n): list(value) for n, value in self._written.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._written = {int(n): (step, tokens) for n, (step, tokens) in state["written"].items()}


def guard_of(guard: Guard | None, config: AdaptiveConfig) -> Guard:
    """Raises: ConfigError: there is nothing to attack adaptively."""
    if guard is None:
        raise ConfigError(f"adaptive.against={config.against} needs a guard; give reminder=NAME")
    return guard
