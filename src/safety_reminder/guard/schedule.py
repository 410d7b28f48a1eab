"""When the probe is read. Decoding and training both ask here, so that they cannot drift apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A check after every ``interval`` tokens, before the first one (``prompt``), and at the end (``final``)."""

    interval: int
    prompt: bool = False
    final: bool = True

    def periodic(self, since: int) -> bool:
        """Whether a check is due, ``since`` tokens after the last one that was passed or acted on."""
        return since >= self.interval

    def at_end(self, since: int) -> bool:
        """Whether an answer that ends, ``since`` tokens after the last check, is checked once more."""
        return self.final and since > 0

    def places(self, length: int) -> list[int]:
        """After how many tokens an uninterrupted answer is checked: ``length`` tokens, then the one that ends it. With
        ``final``, an answer that is cut off at ``length`` is checked at the same places."""
        places = [0] if self.prompt else []
        passed = 0
        for written in range(1, length + 1):
            if self.periodic(written - passed):
                places.append(written)
                passed = written
        if self.at_end(length - passed):
            places.append(length)
        return places


def checkable(answer_ids: Sequence[int], eos_ids: Collection[int]) -> list[int]:
    """The answer tokens that the last check reads: all of them, less a trailing run of end-of-sequence tokens."""
    end = len(answer_ids)
    while end and answer_ids[end - 1] in eos_ids:
        end -= 1
    return list(answer_ids[:end])
