"""What an attack is after: a request, and the beginning of the answer that it should get."""

from __future__ import annotations

from dataclasses import dataclass

from safety_reminder.types import Example


@dataclass(frozen=True, slots=True)
class Goal:
    """``target``: the text that the model should begin its answer to ``example`` with."""

    example: Example
    target: str
