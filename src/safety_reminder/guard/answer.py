"""One answer as a state machine: tokens, ends and ``p_unsafe`` go in, events and what to do next come out.

It touches no model, no tensor and no cache, so that any engine can drive it: the decode loop over a live KV cache, or
one that only knows token ids and sends requests. An engine does what :attr:`Answer.todo` says, and tells the answer
what came of it::

    answer = Answer(config, eos={2}, max_tokens=64, tokenizer=tokenizer)
    while not isinstance(answer.todo, Finished):
        match answer.todo:
            case Read():
                events = answer.verdict(probe(prompt + answer.context + [REMINDER]))
            case _:  # make what the model has read equal to prompt + answer.context
                events = answer.token(next_token(prompt + answer.context))
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from safety_reminder.config.guard import GuardConfig
from safety_reminder.errors import GuardFailure, ModelError
from safety_reminder.guard.policy import POLICIES, Rule, is_unsafe
from safety_reminder.guard.schedule import Schedule
from safety_reminder.guard.text import Transcript
from safety_reminder.types import Check, CheckKind, Done, Event, FinishReason, Intervention

LEAST_CORRECTION = 4  # tokens: with fewer left, nothing that could correct an answer fits
REMINDER = None  # in a context, where an unsafe verdict left the reminder; all else there are token ids


@dataclass(frozen=True)
class Feed:
    """Let the model read the newest token, if there is one, and choose the next."""


@dataclass(frozen=True)
class Read:
    """Append the reminder to the context and read the probe at its end."""

    kind: CheckKind


@dataclass(frozen=True)
class Drop:
    """The check was passed: take the reminder out again, as if it had never been there, and choose the next token."""


@dataclass(frozen=True)
class Keep:
    """Leave the reminder where it is, and choose the next token from what comes after it."""


@dataclass(frozen=True)
class Rewind:
    """Cut the context back to its first ``length`` items, append the reminder, and choose the next token."""

    length: int


@dataclass(frozen=True)
class Finished:
    """There is nothing more to do."""


Action = Feed | Read | Drop | Keep | Rewind | Finished


class Answer:
    """One answer that is being written.

    Args:
        guard: None: it is written unguarded.
        eos: token ids that end an answer.
        max_tokens: the engine ends the answer at this length.
        tokenizer: gives tokens their text and the refusal its tokens; without one there is no text and no refusal.
        row: which row of a batch it is, for its events.
        image: the conversation has an image, for thresholds that depend on it.

    Attributes:
        todo: what the engine must do next.
        context: what the model must have read after the prompt: token ids, and :data:`REMINDER` where one was left in.
    """

    def __init__(
        self,
        guard: GuardConfig | None,
        *,
        eos: Collection[int] = (),
        max_tokens: int | None = None,
        tokenizer: Any | None = None,
        row: int = 0,
        image: bool = False,
    ) -> None:
        self.guard, self.eos, self.max_tokens, self.row = guard, frozenset(eos), max_tokens, row
        self.image = image
        self.context: list[int | None] = []
        self.p_unsafe = 0.0  # of the last check
        self._unsafe = False  # its verdict
        self._transcript = Transcript(tokenizer, row)
        self._rule = Rule() if guard is None else POLICIES[guard.policy]
        self._schedule = None
        if guard is not None:
            self._schedule = Schedule(guard.interval, guard.prompt_check, guard.final_check)
        self._shows_at_once = guard is None or not guard.holds_back
        self._interventions = 0
        self._checked = 0  # tokens covered by the last check that was passed or acted on
        self._waits = (guard.hold_back_checks or 1) if guard is not None and guard.holds_back else 1
        self._passed: list[tuple[int, int]] = []  # at each check that was passed: tokens, and items of the context
        self._kept, self._kept_context = 0, 0  # the same at the last one that enough others followed
        self._end: int | None = None  # the end-of-sequence token that waits for the last check
        self._reason: FinishReason | None = None
        self.todo: Action = Read("prompt") if self._schedule and self._schedule.prompt else Feed()

    @property
    def written(self) -> int:
        """Tokens of the answer as it stands, without one that ends it and waits for the last check."""
        return len(self._transcript.tokens)

    @property
    def since(self) -> int:
        """Tokens since the last check that was passed or acted on."""
        return self.written - self._checked

    @property
    def seen(self) -> int:
        """Tokens that the user sees."""
        return self._transcript.shown

    def token(self, token: int, finish: FinishReason | None = None) -> list[Event]:
        """The model chose ``token``; with ``finish``, the answer ends here, unless the last check says otherwise.

        Raises:
            ModelError: the engine was to do something else.
        """
        if isinstance(self.todo, Read | Finished):
            raise ModelError(f"an engine gave a token where the answer waits for {self.todo}")
        self._transcript.append(token)
        self.context.append(token)
        events: list[Event] = []
        # An end-of-sequence token is never shown before the last check: that may overrule it.
        if self._shows_at_once and token not in self.eos:
            events += self._transcript.release()
        if finish is not None:
            return events + self._ending(token, finish)
        due = self._schedule is not None and self._schedule.periodic(self.since)
        self.todo = Read("periodic") if due else Feed()
        return events

    def verdict(self, p_unsafe: float) -> list[Event]:
        """The probe read ``p_unsafe`` (NaN: it could not tell).

        Raises:
            ModelError: the engine was to do something else.
        """
        if not isinstance(self.todo, Read) or self.guard is None:
            raise ModelError(f"an engine read the probe where the answer waits for {self.todo}")
        kind, self.p_unsafe = self.todo.kind, p_unsafe
        unsafe = self._unsafe = is_unsafe(p_unsafe, self.guard.limit(kind, image=self.image))
        events: list[Event] = [Check(self.written, p_unsafe, unsafe, kind, self.row)]
        if unsafe and self._rule.acts:
            return events + self._intervene(self.guard)
        self._pass()
        if kind == "final":
            return events + self._close()
        self.todo = Drop()
        return [*events, *self._transcript.release(upto=None if self._shows_at_once else self._kept)]

    def no_scores(self) -> list[Event]:
        """No token can be chosen, since the model's scores are not finite. It could not give a verdict either.

        Raises:
            ModelError: nothing guards the answer, so that nothing can be said in its place.
        """
        if self.guard is None or not self._rule.acts:
            raise ModelError("the model's scores are not finite, so that no token can be drawn")
        self.p_unsafe = math.nan
        return self._refuse(self.guard, "guard_error")

    def _ending(self, token: int, finish: FinishReason) -> list[Event]:
        self._reason = finish
        if token in self.eos:
            # The check reads the answer without it, and may go on in its place.
            self._reason, self._end = "stop", token
            self._transcript.tokens.pop()
            self.context.pop()
        if self._schedule is not None and self._schedule.at_end(self.since):
            self.todo = Read("final")
            return []
        if self.guard is not None and self._uncorrected():
            return self._refuse(self.guard, "guard")
        return self._close()

    def _uncorrected(self) -> bool:
        """Unsafe text stayed, to be corrected; and the model, reminded, has said nothing."""
        if not self._rule.corrects or self.since:
            return False
        return self._interventions > 0 and self._unsafe

    def _intervene(self, guard: GuardConfig) -> list[Event]:
        if math.isnan(self.p_unsafe):
            return self._refuse(guard, "guard_error")
        if self._rule.ends or self._interventions >= guard.max_interventions or self._no_room():
            return self._refuse(guard, "guard")
        self._interventions += 1
        before = self.written
        length = {"nothing": len(self.context), "unchecked": self._kept_context, "answer": 0}[self._rule.drops]
        dropped = sum(item is not REMINDER for item in self.context[length:])
        self.todo = Keep() if length == len(self.context) else Rewind(length)
        self.context[length:] = [REMINDER]
        self._reason = self._end = None
        events: list[Event] = []
        if self._rule.corrects:
            events += self._transcript.release()
        events.append(Intervention(before, self.p_unsafe, guard.policy, dropped, self.row))
        events += self._transcript.drop(dropped)
        self._settle()
        return events

    def _no_room(self) -> bool:
        """At the length limit there is no room to correct what stays."""
        if self.max_tokens is None or not self._rule.corrects:
            return False
        return self.written > self.max_tokens - LEAST_CORRECTION

    def _refuse(self, guard: GuardConfig, reason: FinishReason) -> list[Event]:
        """End with the fixed refusal; what no check has passed is not shown, or withdrawn."""
        dropped = 0 if self._rule.corrects and not guard.holds_back else self.written - self._kept
        events: list[Event] = [Intervention(self.written, self.p_unsafe, "stop", dropped, self.row)]
        events += self._transcript.drop(dropped)
        events += self._transcript.say(guard.refusal)
        self.todo = Finished()
        return [*events, Done(reason, self.row)]

    def _close(self) -> list[Event]:
        """Show what is left, its end-of-sequence token included, and finish."""
        if self._reason is None:
            raise GuardFailure("an answer was closed that has no reason to end")
        if self._end is not None:
            self._transcript.append(self._end)
        self.todo = Finished()
        return [*self._transcript.release(last=True), Done(self._reason, self.row)]

    def _pass(self) -> None:
        self._checked = self.written
        self._passed.append((self.written, len(self.context)))
        if len(self._passed) >= self._waits:
            self._kept, self._kept_context = self._passed.pop(0)

    def _settle(self) -> None:
        """What stands after an intervention stays."""
        self._passed.clear()
        self._checked = self._kept = self.written
        self._kept_context = len(self.context)
