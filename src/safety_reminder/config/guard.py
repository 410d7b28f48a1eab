"""How the guard behaves at run time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from safety_reminder.errors import ConfigError, unknown_name
from safety_reminder.outside import require_writable

Policy = Literal["continue", "rewind", "restart", "stop", "monitor"]
MOST_INTERVAL = 4096  # a pack that checks less often than that guards hardly anything
OTHER_THRESHOLDS = ("prompt_threshold", "image_threshold")
DEFAULT_REFUSAL = "I'm sorry, but I can't help with that."


@dataclass(frozen=True)
class GuardConfig:
    """When to check, what counts as unsafe, and what then happens.

    Of the policies, ``continue`` (the paper) lets the text stay, and the reminder follows it. ``rewind``: tokens since
    the last passed check are dropped, and those that are still held back; then the reminder. ``restart``: the answer
    begins again after the reminder. ``stop``: a fixed refusal ends the answer. ``monitor``: verdicts are reported and
    nothing is done, not even where the guard fails: the answer is the unguarded one.

    ``mode``: ``fused`` appends the reminder in the same forward pass as the newest token; ``exact`` gives it a pass of
    its own, so that an answer in which no check fires has bit-identical logits to an unguarded one.
    """

    interval: Annotated[int, "answer tokens between two checks"] = 16
    threshold: Annotated[float, "a check is unsafe at p_unsafe >= threshold, in (0, 1]"] = 0.5
    prompt_threshold: Annotated[float | None, "of the check before the first token; null: as the others"] = None
    image_threshold: Annotated[float | None, "in conversations with an image; null: threshold"] = None
    policy: Annotated[Policy, "what follows an unsafe verdict: continue, rewind, restart, stop or monitor"] = "rewind"
    mode: Annotated[Literal["fused", "exact"], "fused, or exact: the reminder in a forward pass of its own"] = "fused"
    prompt_check: Annotated[bool, "check once before the first token"] = False
    final_check: Annotated[bool, "check once more at the end, so that no tail goes unchecked"] = True
    max_interventions: Annotated[int, "after so many, the next unsafe verdict ends the answer with the refusal"] = 3
    hold_back: Annotated[
        bool | None, "show tokens only after the check that covers them; null: unless policy is continue or monitor"
    ] = None
    hold_back_checks: Annotated[
        int | None, "held back, tokens are shown after so many passed checks that cover them, or the last; null: 1"
    ] = None
    refusal: Annotated[str, "the fixed refusal"] = DEFAULT_REFUSAL

    def __post_init__(self) -> None:
        _require_whole({name: getattr(self, name) for name in ("interval", "max_interventions", "hold_back_checks")})
        if self.interval < 1:
            raise ConfigError(f"guard.interval must be at least 1 token, got {self.interval}")
        if self.hold_back_checks is not None and self.hold_back_checks < 1:
            raise ConfigError(f"guard.hold_back_checks must be at least 1, got {self.hold_back_checks}")
        if self.max_interventions < 0:
            raise ConfigError(f"guard.max_interventions must not be negative, got {self.max_interventions}")
        _require_thresholds({name: getattr(self, name) for name in ("threshold", *OTHER_THRESHOLDS)})
        if self.policy not in get_args(Policy):
            raise ConfigError(unknown_name("guard.policy", str(self.policy), get_args(Policy)))
        if self.mode not in ("fused", "exact"):
            raise ConfigError(unknown_name("guard.mode", str(self.mode), ("fused", "exact")))
        for name in ("prompt_check", "final_check"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"guard.{name} must be true or false, got {getattr(self, name)!r}")
        if not isinstance(self.refusal, str) or not self.refusal.strip():
            raise ConfigError(f"guard.refusal must be a text, got {self.refusal!r}")
        require_writable(self.refusal, "guard.refusal", ConfigError)
        if self.hold_back is not None and not isinstance(self.hold_back, bool):
            raise ConfigError(f"guard.hold_back must be true, false or null, got {self.hold_back!r}")

    @property
    def holds_back(self) -> bool:
        return self.policy not in ("continue", "monitor") if self.hold_back is None else self.hold_back

    def limit(self, kind: str, *, image: bool) -> float:
        """The threshold of a check of this kind (``prompt``, ``periodic`` or ``final``), in a conversation with or
        without an image. ``prompt_threshold`` comes before ``image_threshold``."""
        if kind == "prompt" and self.prompt_threshold is not None:
            return self.prompt_threshold
        if image and self.image_threshold is not None:
            return self.image_threshold
        return self.threshold

    @property
    def lowest_threshold(self) -> float:
        """Of all that a check may be held to."""
        others = (getattr(self, name) for name in OTHER_THRESHOLDS)
        return min([self.threshold, *(value for value in others if value is not None)])

    def replace(self, **changes: Any) -> GuardConfig:
        """A copy with ``changes``; unknown names are an error. A new ``threshold`` is that of every check, unless
        others are given beside it."""
        known = {f.name for f in dataclasses.fields(self)}
        for name in changes:
            if name not in known:
                raise ConfigError(unknown_name("guard option", name, known))
        if "threshold" in changes:
            changes = dict.fromkeys(OTHER_THRESHOLDS) | changes
        return dataclasses.replace(self, **changes)


def _require_whole(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if value is None and name == "hold_back_checks":
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"guard.{name} must be a whole number, got {value!r}")


def _require_thresholds(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if value is None and name in OTHER_THRESHOLDS:
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
            raise ConfigError(f"guard.{name} must lie in (0, 1], got {value!r}")
