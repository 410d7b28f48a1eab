"""In the style of Any-Depth Alignment (Zhang et al., arXiv:2510.18081): the assistant's header is put after the partial
answer, and a linear probe reads the hidden state at its last token.
"""

from __future__ import annotations

from safety_reminder.config.guard import Policy
from safety_reminder.defenses.base import Guarding
from safety_reminder.guard import GuardedVLM, load_reminder


class HeaderProbe(Guarding):
    """A guard whose vectors are the header's embeddings: only the probe and its threshold are trained.

    Args:
        probe: a pack that ``safety-reminder probe reminder=header`` wrote; ``pocket-header`` ships.
        policy: ``stop`` ends with a fixed refusal, as the paper's probe does; ``rewind`` and ``continue`` leave the
            header in, as its rethinking does.

    The checks come every ``interval`` tokens of the pack and over the same cache, and tokens are held back for as many
    of them as it says (``training.hold_back_checks`` of ``probe``; in ``pocket-header`` as in pocket's reminder), where
    the paper streams; and the probe is fitted to image, prompt and partial answer.
    """

    name = "header_probe"
    needs_reminder = False

    def __init__(self, guarded: GuardedVLM, probe: str = "pocket-header", policy: Policy = "stop") -> None:
        pack = load_reminder(probe)
        self.digest = pack.digest
        super().__init__(GuardedVLM(guarded.vlm, pack, check_base=guarded.check_base, policy=policy))
