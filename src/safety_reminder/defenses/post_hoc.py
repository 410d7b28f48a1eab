"""A judge after the fact, as operators run Llama Guard (Inan et al., arXiv:2312.06674): the whole answer is read, and
withheld if it is unsafe. An answer whose verdict cannot be read is withheld too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from safety_reminder.config.guard import DEFAULT_REFUSAL
from safety_reminder.defenses.base import Helpers, Verdicts, unguarded
from safety_reminder.errors import ConfigError
from safety_reminder.guard import GuardedVLM
from safety_reminder.models.editing import begun_answer, first_image, last_request
from safety_reminder.types import Request, Response


class PostHoc:
    """Nothing is shown before the judge has read the whole answer; an answer that is unsafe, or on which no verdict
    could be read, is replaced by a fixed refusal.

    Args:
        judge: gives the verdicts.
    """

    name = "post_hoc"
    monitors = False
    needs_reminder = False
    digest = None

    def __init__(self, guarded: GuardedVLM, judge: Verdicts, refusal: str = DEFAULT_REFUSAL) -> None:
        self._guarded, self._judge, self._refusal = guarded, judge, refusal

    @classmethod
    def from_options(
        cls,
        guarded: GuardedVLM,
        helpers: Helpers | None = None,
        *,
        judge: str | Verdicts,
        judge_options: Mapping[str, Any] | None = None,
        refusal: str = DEFAULT_REFUSAL,
    ) -> PostHoc:
        """``judge``: by name, with ``judge_options``; or a function."""
        if not isinstance(judge, str):
            return cls(guarded, judge, refusal)
        if helpers is None:
            raise ConfigError(f"no judges can be had by name here; give defense=post_hoc the verdicts of {judge!r}")
        return cls(guarded, helpers.verdicts(judge, judge_options or {}), refusal)

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        began = time.perf_counter()
        responses = self._guarded.respond([unguarded(request) for request in requests])
        exchanges = [
            (last_request(request.messages), first_image(request.messages), _whole(request, response))
            for request, response in zip(requests, responses, strict=True)
        ]
        verdicts = self._judge(exchanges)
        seconds = time.perf_counter() - began
        return [
            replace(response, seconds=seconds) if unsafe is False else self._withheld(response, seconds)
            for response, unsafe in zip(responses, verdicts, strict=True)
        ]

    def _withheld(self, response: Response, seconds: float) -> Response:
        """The tokens stay, since they were spent; the user saw the refusal."""
        return replace(response, text=self._refusal, seen_text=self._refusal, finish_reason="guard", seconds=seconds)


def _whole(request: Request, response: Response) -> str:
    """The answer, with what was begun for the model."""
    return begun_answer(request.messages) + response.text
