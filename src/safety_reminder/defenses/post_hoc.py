"""A judge after the fact, as operators run Llama Guard (Inan et al., arXiv:2312.06674): the whole answer is read, and
withheld if it is unsafe. An answer whose verdict cannot be read is withheld too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from safety_reminder.config.guard import DEFAULT_REFUSAL
from safety_reminder.defenses.base import first_image, last_request
from safety_reminder.guard import GuardedVLM
from safety_reminder.models import Messages
from safety_reminder.types import Response

# Of each request (text, image or None, answer), whether the answer is unsafe; None where the judge could not tell.
Verdicts = Callable[[Sequence[tuple[str, Any, str]]], Sequence[bool | None]]


class PostHoc:
    """Nothing is shown before the judge has read the whole answer; an answer that is unsafe, or on which no verdict
    could be read, is replaced by a fixed refusal.

    Args:
        judge: gives the verdicts. On the command line and under Inspect, ``judge=NAME`` and ``judge_options``.
    """

    name = "post_hoc"
    monitors = False

    def __init__(self, guarded: GuardedVLM, judge: Verdicts, refusal: str = DEFAULT_REFUSAL) -> None:
        self._guarded, self._judge, self._refusal = guarded, judge, refusal

    def generate_batch(self, batch: Sequence[Messages], **options: Any) -> list[Response]:
        began = time.perf_counter()
        responses = self._guarded.generate_batch(batch, guard=False, **options)
        asked = [
            (last_request(messages), first_image(messages), response.text)
            for messages, response in zip(batch, responses, strict=True)
        ]
        verdicts = self._judge(asked)
        seconds = time.perf_counter() - began
        return [
            replace(response, seconds=seconds) if unsafe is False else self._withheld(response, seconds)
            for response, unsafe in zip(responses, verdicts, strict=True)
        ]

    def _withheld(self, response: Response, seconds: float) -> Response:
        """The tokens stay as what was spent; the user saw the refusal."""
        return replace(response, text=self._refusal, seen_text=self._refusal, finish_reason="guard", seconds=seconds)
