"""What follows an unsafe verdict: one row a policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from safety_reminder.config.guard import Policy


@dataclass(frozen=True)
class Rule:
    """What one policy does.

    Args:
        acts: False: verdicts are reported, and nothing follows them.
        drops: what leaves the context before the reminder is left in: nothing; what was written since the last check
            that was passed or acted on; or the whole answer, with earlier reminders.
        ends: the answer ends with the fixed refusal, and no reminder is left in.
    """

    acts: bool = True
    drops: Literal["nothing", "unchecked", "answer"] = "unchecked"
    ends: bool = False

    @property
    def corrects(self) -> bool:
        """Unsafe text stays where it is, to be corrected by what comes after it."""
        return self.acts and self.drops == "nothing"


POLICIES: dict[Policy, Rule] = {
    "continue": Rule(drops="nothing"),  # the paper
    "rewind": Rule(),
    "restart": Rule(drops="answer"),
    "stop": Rule(ends=True),
    "monitor": Rule(acts=False, drops="nothing"),
}


def is_unsafe(p_unsafe: float, threshold: float) -> bool:
    """The verdict. NaN compares false: a guard that cannot tell must not pass."""
    return not p_unsafe < threshold
