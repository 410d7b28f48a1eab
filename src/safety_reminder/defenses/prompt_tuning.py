"""Prompt tuning (Lester et al., EMNLP 2021, arXiv:2104.08691) for safety: the reminder always in front of the answer.

What the Safety Reminder's paper compares its checks with: the same vectors, but behind every prompt, whatever is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from safety_reminder.config import GuardConfig
from safety_reminder.errors import ConfigError
from safety_reminder.guard import GuardedVLM, Probe
from safety_reminder.models import Messages
from safety_reminder.types import Response

_NEVER = 2**31  # tokens


class PromptTuning:
    """The vectors of a reminder stand between prompt and answer. Its probe is not used.

    The vectors may have been trained for any cut of an answer, as those of a reminder are; a fair rival trains its own
    with ``training.empty_prob=1``.
    """

    name = "prompt_tuning"
    monitors = False

    def __init__(self, guarded: GuardedVLM) -> None:
        if guarded.reminder is None:
            raise ConfigError("defense=prompt_tuning needs a reminder; give reminder=NAME or a folder")
        # The prompt check always fires (a probe of zeros says 0.5), so that the vectors stay; no other check follows.
        reminder = replace(guarded.reminder, probe=Probe(torch.zeros(guarded.reminder.hidden_size)))
        config = GuardConfig(
            threshold=0.5,
            policy="continue",
            prompt_check=True,
            final_check=False,
            interval=_NEVER,
            max_interventions=1,
            hold_back=False,
        )
        self._guarded = GuardedVLM(guarded.vlm, reminder, config, check_base=False)

    def generate_batch(self, batch: Sequence[Messages], **options: Any) -> list[Response]:
        responses = self._guarded.generate_batch(batch, guard=True, **options)
        # That the vectors are there is no alarm.
        return [replace(r, checks=(), interventions=(), leaked_tokens=0, tail_start=0) for r in responses]
