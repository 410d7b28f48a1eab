"""Prompt tuning (Lester et al., EMNLP 2021, arXiv:2104.08691) for safety: the reminder always in front of the answer.

The Safety Reminder's paper compares its checks with this: the same vectors, but after every prompt, whatever it asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from safety_reminder.config import GuardConfig
from safety_reminder.defenses.base import NEVER
from safety_reminder.guard import GuardedVLM, Probe
from safety_reminder.types import Request, Response


class PromptTuning:
    """The vectors of a reminder stand between prompt and answer. Its probe is not used.

    The vectors may have been trained for any cut of an answer, as those of a reminder are; a fair rival trains its own
    with ``training.empty_prob=1``.
    """

    name = "prompt_tuning"
    monitors = False
    needs_reminder = True
    digest = None

    def __init__(self, guarded: GuardedVLM) -> None:
        assert guarded.reminder is not None
        # The prompt check always fires (a probe of zeros says 0.5), so that the vectors stay; no other check follows.
        reminder = replace(guarded.reminder, probe=Probe(torch.zeros(guarded.reminder.hidden_size)))
        config = GuardConfig(
            threshold=0.5,
            policy="continue",
            prompt_check=True,
            final_check=False,
            interval=NEVER,
            max_interventions=1,
            hold_back=False,
        )
        self._guarded = GuardedVLM(guarded.vlm, reminder, config, check_base=False)

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        responses = self._guarded.respond([replace(request, guard=True) for request in requests])
        # The presence of the vectors is not an alarm.
        return [replace(r, checks=(), interventions=(), leaked_tokens=0, tail_start=0) for r in responses]
