"""In the style of Any-Depth Alignment (Zhang et al., arXiv:2510.18081): the assistant's header is put after the partial
answer, and a linear probe reads the hidden state at its last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from safety_reminder.config.guard import Policy
from safety_reminder.guard import GuardedVLM, load_reminder
from safety_reminder.types import Request, Response


class HeaderProbe:
    """A guard whose vectors are the header's embeddings: only the probe and its threshold are trained.

    Args:
        probe: a pack that ``safety-reminder probe reminder=header`` wrote; ``pocket-header`` ships.
        policy: ``stop`` ends with a fixed refusal, as the paper's probe does; ``rewind`` and ``continue`` leave the
            header in, as its rethinking does.

    The checks come every ``interval`` tokens of the pack, over the same cache and with the same hold-back as the
    reminder's, where the paper streams; and the probe is fitted to image, prompt and partial answer.
    """

    name = "header_probe"
    monitors = True
    needs_reminder = False

    def __init__(self, guarded: GuardedVLM, probe: str = "pocket-header", policy: Policy = "stop") -> None:
        pack = load_reminder(probe)
        self.digest = pack.digest
        self._guarded = GuardedVLM(guarded.vlm, pack, check_base=guarded.check_base, policy=policy)

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        return self._guarded.respond([replace(request, guard=True) for request in requests])
