"""A white-box attack on the guard: the target rises while the probe stays below its threshold at every check.

The checks stand where decoding has them. What they read is the request's target and the model's own continuation of
it, written anew as the image changes: a probe reads fixed filler otherwise than real answers. All checks of all
requests are branches of one forward pass, and equal to what decoding would read on the same tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from safety_reminder.attacks.descent import digest
from safety_reminder.attacks.goals import Goal
from safety_reminder.attacks.losses import require_room, target_loss
from safety_reminder.attacks.options import AdaptiveConfig
from safety_reminder.attacks.prompts import Continuing, Heads, Prompts
from safety_reminder.errors import ConfigError
from safety_reminder.guard.decoding import Guard
from safety_reminder.guard.schedule import Schedule
from safety_reminder.models import VLM
from safety_reminder.models.branches import Branch
from safety_reminder.models.pixels import Pixels


class GuardedObjective:
    """The loss of targets behind a guard.

    Logged beside ``loss``: ``target``; ``checks``, the mean over requests of the sum of hinge losses of their checks,
    in log-odds; ``alarms``, the share of checks at or above the threshold; ``after``, the target's loss after a
    reminder that stayed at the prompt.

    Args:
        guard: what is attacked: a reminder, or a rival's vectors and probe.
        around: is open while what prompts share is run; for a defence that changes what is embedded there.

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
        around: type[AbstractContextManager[Any]] | Any = nullcontext,
    ) -> None:
        self.vlm, self.pixels, self.guard, self.config = vlm, pixels, guard, config
        self.first_weight, self.around = first_weight, around
        self.prompts = Prompts(vlm, [goal.example for goal in goals], pixels.size)
        self.targets = vlm.answer_ids([goal.target for goal in goals])
        require_room(vlm, self.prompts, self.targets)
        self.vectors = guard.reminder.vectors.to(vlm.model.device)
        self.schedule = Schedule(guard.config.interval, guard.config.prompt_check, guard.config.final_check)
        if self._reads and not self.schedule.places(config.tokens):
            raise ConfigError(
                f"the guard makes no check within adaptive.tokens={config.tokens} answer tokens; give more of them, or "
                "a smaller guard.interval"
            )
        self._written: dict[int, tuple[int, list[int]]] = {}  # of each request, the step and what followed its target

    @property
    def count(self) -> int:
        return len(self.targets)

    @property
    def identity(self) -> str:
        guard = [self.guard.reminder.digest, repr(self.guard.config)]
        return digest(json.dumps([self.prompts.ids, self.targets, guard]).encode())

    def __call__(self, image: Float[Tensor, "3 height width"], items: Sequence[int], step: int) -> dict[str, Tensor]:
        with self.around():
            heads = self.prompts.read(self.pixels(image), items)
        self._renew(heads, items, step)
        following = {number: self._following(number) for number in items}
        scored = self.prompts.score(heads, following, self.vectors)
        targets, hinges, logits, after = [], [], [], []
        for number in items:
            targets.append(target_loss(scored[number].logits, self.targets[number], first_weight=self.first_weight))
            if len(scored[number].hidden) > self._goes_on:  # none where an answer is shorter than the interval
                # Of the branch that goes on with the target, nothing is read.
                hidden = scored[number].hidden[self._goes_on :]
                row = self.guard.reminder.probe.logit(torch.cat([states[-1:] for states in hidden]))
                logits.append(row.detach())
                hinges.append(F.relu(row - self._safe).sum())
            if self._goes_on:
                [predicted] = scored[number].branches[0]
                after.append(target_loss(predicted, self.targets[number], first_weight=self.first_weight))
        return self._parts(torch.stack(targets).mean(), hinges, logits, after)

    def _parts(
        self, target: Tensor, hinges: list[Tensor], logits: list[Tensor], after: list[Tensor]
    ) -> dict[str, Tensor]:
        parts, loss = {"target": target}, target
        if hinges:
            parts["checks"] = torch.stack(hinges).mean()
            parts["alarms"] = (torch.cat(logits) >= self._threshold).float().mean()
            loss = loss + self.config.weight * parts["checks"]
        if after:
            parts["after"] = torch.stack(after).mean()
            loss = loss + self.config.weight * parts["after"]
        return {"loss": loss} | parts

    @property
    def _reads(self) -> bool:
        return self.config.against in ("probe", "both")

    @property
    def _goes_on(self) -> bool:
        return self.config.against in ("reminder", "both")

    @property
    def _threshold(self) -> float:
        """In log-odds."""
        threshold = self.guard.config.threshold
        return math.inf if threshold >= 1 else math.log(threshold / (1 - threshold))

    @property
    def _safe(self) -> float:
        return self._threshold - self.config.margin

    def _answer(self, number: int) -> list[int]:
        """The target and its continuation, as long as checks are placed in."""
        target = self.targets[number]
        return [*target, *self._written[number][1]][: max(self.config.tokens, len(target))]

    def _following(self, number: int) -> Continuing:
        answer = self._answer(number)
        branches: list[Branch] = [(0, [None, self.targets[number]])] if self._goes_on else []
        if self._reads:
            branches += [(place, [None]) for place in self.schedule.places(len(answer))]
        if self._reads and self._goes_on:
            # After the reminder that stayed, the probe is read again.
            branches.append((0, [None, answer[: self.schedule.interval], None]))
        return Continuing(answer, len(self.targets[number]), branches)

    @torch.no_grad()
    def _renew(self, heads: Heads, items: Sequence[int], step: int) -> None:
        """Write what follows the targets of ``items`` anew, where it is too old."""
        old = [n for n in items if n not in self._written or step - self._written[n][0] >= self.config.renew]
        missing = {n: self.config.tokens - len(self.targets[n]) for n in old}
        if not self._reads or max(missing.values(), default=0) <= 0:
            self._written |= {n: (step, []) for n in old}
            return
        written = self.prompts.write(heads, {n: self.targets[n] for n in old}, max(missing.values()))
        ends = self.vlm.eos_ids
        for n, tokens in written.items():
            end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
            self._written[n] = (step, tokens[:end])

    def state(self) -> dict[str, Any]:
        return {"written": {str(n): list(value) for n, value in self._written.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._written = {int(n): (step, tokens) for n, (step, tokens) in state["written"].items()}


def guard_of(guard: Guard | None, config: AdaptiveConfig) -> Guard:
    """Raises: ConfigError: there is nothing to attack adaptively."""
    if guard is None:
        raise ConfigError(f"adaptive.against={config.against} needs a guard; give reminder=NAME")
    return guard
