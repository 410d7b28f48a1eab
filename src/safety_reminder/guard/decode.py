"""The decode loop. There is one, and it yields events; everything else consumes them.

choose a token → every ``interval`` tokens, append the reminder and read the probe
    safe:   crop the reminder from the cache; the answer goes on as if it had never been there
    unsafe: the policy decides what stays, and the reminder stays behind it
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PrefixConstrainedLogitsProcessor,
    PreTrainedModel,
    StoppingCriteriaList,
)

from safety_reminder.config import GuardConfig
from safety_reminder.errors import ConfigError, GuardFailure, ModelError
from safety_reminder.guard.lane import Lane, Row, Stepper
from safety_reminder.guard.reminder import SafetyReminder
from safety_reminder.guard.sampling import Sampler
from safety_reminder.guard.text import Transcript
from safety_reminder.models import hidden_size
from safety_reminder.types import Check, CheckKind, Done, Event, FinishReason, Intervention

Events = Iterator[Event]
LEAST_CORRECTION = 4  # tokens: with fewer left, nothing that could correct an answer fits


@dataclass(frozen=True)
class Guard:
    """A reminder and how to use it."""

    reminder: SafetyReminder
    config: GuardConfig


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    *,
    guard: Guard | None = None,
    tokenizer: Any | None = None,
    seed: int | Sequence[int] | None = None,
    **model_kwargs: Any,
) -> Events:
    """Generate for a left-padded batch, guarded or (``guard=None``) not, and yield what happens.

    This is a decoding method in the sense of transformers' ``generate(custom_generate=...)``, which prepares all the
    arguments but ``guard``, ``tokenizer`` (for the text of tokens) and ``seed`` (row i samples from its own generator,
    seeded ``seed + i``, or by the i-th of several; None samples from torch's global one, as transformers does).

    Raises:
        ConfigError: a generation mode that cannot be guarded (beam search, no cache).
        ModelError: a cache that cannot be rolled back, or a reminder of another hidden size.
    """
    _require_supported(model, generation_config, guard)
    if input_ids.shape[0] > 1 and any(isinstance(p, PrefixConstrainedLogitsProcessor) for p in logits_processor):
        # It would be asked about rows that have finished, with the text of others.
        raise ConfigError("prefix_allowed_tokens_fn works for one conversation at a time; give a batch of one")
    given = model_kwargs.get("past_key_values")
    if given is not None and given.get_seq_length() > 0:
        raise ConfigError("continuing from a filled past_key_values is not supported; pass the whole conversation")
    yield from _Decoder(
        model, input_ids, logits_processor, stopping_criteria, generation_config, guard, tokenizer, seed, model_kwargs
    ).run()


class _Decoder:
    def __init__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        guard: Guard | None,
        tokenizer: Any | None,
        seed: int | Sequence[int] | None,
        model_kwargs: dict[str, Any],
    ) -> None:
        self.input_ids, self.model_kwargs = input_ids, model_kwargs
        self.process: Any = logits_processor
        self.stopping: Any = stopping_criteria
        self.guard = guard
        self.stepper = Stepper(model, guard.reminder.vectors if guard else None, model_kwargs)
        self.sampler = Sampler(bool(generation_config.do_sample), input_ids.shape[0], seed, input_ids.device)
        self.tokenizer = tokenizer
        eos = generation_config.eos_token_id
        self.eos = frozenset([eos] if isinstance(eos, int) else eos or [])
        self.show_at_once = guard is None or not guard.config.holds_back

    def run(self) -> Events:
        rows = [Row(i, Transcript(self.tokenizer, i)) for i in range(self.input_ids.shape[0])]
        lanes = [self.stepper.prefill(self.input_ids, rows, self.model_kwargs)]
        if self.guard and self.guard.config.prompt_check:
            lanes = yield from self.check(lanes[0], "prompt")
        while lanes:
            following: list[Lane] = []
            for lane in lanes:
                following += yield from self.advance(lane)
            lanes = following

    def advance(self, lane: Lane):
        """One token for every row; then the check, if one is due. Returns the lanes that live on."""
        scores = self.in_place(lane, self.process, lane.ids, lane.logits) if self.process else lane.logits
        # NaN, an infinite score, or nothing but minus infinity: the highest score shows each.
        broken = (~scores.amax(dim=-1).isfinite()).tolist() if self.sampler.do_sample else []
        if any(broken):
            part, rest = lane.split(broken)
            if part is not None:
                yield from self.fail(part)
            if rest is None:
                return []
            lane, scores = rest, scores[[i for i, is_broken in enumerate(broken) if not is_broken]]
        lane.extend(self.sampler(scores, [row.index for row in lane.rows], whole=lane.whole))
        finished = self.in_place(lane, lambda ids: self.stopping(ids, None), lane.ids).tolist()
        if self.show_at_once:
            for row in lane.rows:
                # An end-of-sequence token is never shown before the final check: that may overrule it.
                if row.transcript.tokens[-1] not in self.eos:
                    yield from row.transcript.release()
        ending, going = lane.split(finished)
        living = (yield from self.finish(ending)) if ending else []
        if going:
            if self.guard and going.since >= self.guard.config.interval:
                living += yield from self.check(going, "periodic")
            else:
                going.logits, _, _ = self.stepper.step(going, token=True, reminder=False)
                living.append(going)
        return living

    def in_place(self, lane: Lane, function: Any, *tensors: torch.Tensor) -> torch.Tensor:
        """``function`` of ``tensors`` (rows, ...) of the lane, with each row at its place in the whole batch, as logits
        processors and stopping criteria that keep something for every row expect it. In the place of rows that have
        finished, or are in another lane, stands another's."""
        batch = self.input_ids.shape[0]
        if len(lane.rows) == batch:
            return function(*tensors)
        index = torch.tensor([row.index for row in lane.rows], device=tensors[0].device)
        source = torch.zeros(batch, dtype=torch.long, device=index.device)
        source[index] = torch.arange(len(index), device=index.device)
        return function(*(tensor[source] for tensor in tensors))[index]

    def fail(self, lane: Lane) -> Events:
        """End rows that no token can be drawn for, with the refusal: as little as a verdict can be had of them."""
        if self.guard is None or self.guard.config.policy == "monitor":
            raise ModelError("the model's scores are not finite, so that no token can be drawn")
        for row in lane.rows:
            row.p_unsafe = math.nan
        yield from self.refuse(lane, "guard_error")

    def finish(self, lane: Lane):
        """Rows that reached their end: one last look at what no check has covered, then done."""
        ended = [row.transcript.tokens[-1] in self.eos for row in lane.rows]
        living: list[Lane] = []
        for part, reason in zip(lane.split(ended), ("stop", "length"), strict=True):
            if part is None:
                continue
            if reason == "stop":
                # The check reads the answer without its end-of-sequence token, and may go on in its place.
                for row in part.rows:
                    row.finish_reason, row.end = "stop", row.transcript.tokens.pop()
                part.forget(1)
            else:
                for row in part.rows:
                    row.finish_reason = self.reason_without_eos(part)
            if self.guard and self.guard.config.final_check and part.since > 0:
                living += yield from self.check(part, "final")
                continue
            silent, done = part.split([self.uncorrected(part, row) for row in part.rows])
            if silent:
                yield from self.refuse(silent, "guard")
            if done:
                yield from self.close(done)
        return living

    def uncorrected(self, lane: Lane, row: Row) -> bool:
        """Under ``continue`` unsafe text stays, to be corrected; and the model, reminded, has said nothing."""
        if self.guard is None or self.guard.config.policy != "continue" or lane.since:
            return False
        return lane.interventions > 0 and not row.p_unsafe < self.guard.config.threshold

    def reason_without_eos(self, lane: Lane) -> FinishReason:
        """``length`` at the limit, else ``stop`` (a stop string or a criterion of the caller's)."""
        limit = getattr(self.stopping, "max_length", None)
        return "length" if limit is not None and lane.ids.shape[1] >= limit else "stop"

    def check(self, lane: Lane, kind: CheckKind):
        """Append the reminder to every row and read the probe; commit it where unsafe, crop it where safe."""
        assert self.guard is not None
        config, k = self.guard.config, self.guard.reminder.length
        token = lane.pending is not None
        if token and config.mode == "exact":
            behind_text, _, _ = self.stepper.step(lane, token=True, reminder=False)
            _, behind_reminder, hidden = self.stepper.step(lane, token=False, reminder=True)
        else:
            behind_text, behind_reminder, hidden = self.stepper.step(lane, token=token, reminder=True)
            if not token:
                behind_text = lane.logits
        for row, p_unsafe in zip(lane.rows, self.read(hidden), strict=True):
            row.p_unsafe = p_unsafe
        # NaN compares false: a guard that cannot tell must not pass.
        unsafe = [not row.p_unsafe < config.threshold for row in lane.rows]
        for row, verdict in zip(lane.rows, unsafe, strict=True):
            yield Check(lane.answered, row.p_unsafe, verdict, kind, row.index)

        if config.policy == "monitor":
            unsafe = [False] * len(unsafe)
        # Each row goes on from behind what it keeps.
        lane.logits = behind_text
        if any(unsafe):
            kept = torch.tensor(unsafe, device=behind_text.device)[:, None]
            lane.logits = torch.where(kept, behind_reminder, behind_text)
        living: list[Lane] = []
        for part, caught in zip(lane.split(unsafe), (True, False), strict=True):
            if part is None:
                continue
            if caught:
                part.whole = False
                living += yield from self.intervene(part)
                continue
            part.crop(k)
            part.mark_passed()
            if kind == "final":
                yield from self.close(part)
                continue
            for row in part.rows:
                yield from row.transcript.release()
            living.append(part)
        return living

    def read(self, hidden: torch.Tensor | None) -> list[float]:
        assert self.guard is not None
        assert hidden is not None
        try:
            p_unsafe = self.guard.reminder.probe(hidden)
        except GuardFailure:
            return [float("nan")] * hidden.shape[0]
        return p_unsafe.tolist() if p_unsafe.shape == hidden.shape[:1] else [float("nan")] * hidden.shape[0]

    def intervene(self, lane: Lane):
        """The rows of ``lane`` were found unsafe; the reminder is their newest cache entry and ``logits`` follow it."""
        assert self.guard is not None
        config, k = self.guard.config, self.guard.reminder.length
        broken, lane_or_none = lane.split([math.isnan(row.p_unsafe) for row in lane.rows])
        if broken:
            yield from self.refuse(broken, "guard_error")
        if lane_or_none is None:
            return []
        lane = lane_or_none
        exhausted = lane.interventions >= config.max_interventions
        # With `continue` the text stays; at the length limit there is no room to correct it.
        limit = getattr(self.stopping, "max_length", None)
        full = config.policy == "continue" and limit is not None and lane.ids.shape[1] > limit - LEAST_CORRECTION
        if config.policy == "stop" or exhausted or full:
            yield from self.refuse(lane, "guard")
            return []

        lane.interventions += 1
        text_entries = lane.entries - k
        if config.policy == "continue":
            dropped = 0
            for row in lane.rows:
                yield from row.transcript.release()
        else:
            back_to = lane.passed_entries if config.policy == "rewind" else 0
            dropped = lane.since if config.policy == "rewind" else lane.answered
            if dropped or back_to != text_entries:
                lane = self.take_back(lane, entries=lane.entries - back_to, tokens=dropped)
                _, lane.logits, _ = self.stepper.step(lane, token=False, reminder=True)
        for row in lane.rows:
            row.finish_reason = row.end = None
            yield Intervention(lane.answered + dropped, row.p_unsafe, config.policy, dropped, row.index)
            yield from row.transcript.drop(dropped)
        lane.mark_passed()
        return [lane]

    def take_back(self, lane: Lane, *, entries: int, tokens: int) -> Lane:
        """Remove the last ``entries`` from the cache and the last ``tokens`` from the answer."""
        if entries == lane.entries and any(lane.cache.is_sliding) and lane.passed_entries:
            # Restarting past a sliding window: the prompt's entries have left the window, so it is read again.
            return self.reread_prompt(lane)
        lane.crop(entries)
        lane.forget(tokens)
        return lane

    def reread_prompt(self, lane: Lane) -> Lane:
        kwargs = {**self.model_kwargs, "past_key_values": None}
        rows = [Row(i, Transcript(None, i)) for i in range(self.input_ids.shape[0])]
        fresh = self.stepper.prefill(self.input_ids, rows, kwargs).select([row.index for row in lane.rows])
        fresh.rows, fresh.whole, fresh.interventions = lane.rows, False, lane.interventions
        return fresh

    def refuse(self, lane: Lane, reason: FinishReason) -> Events:
        """End with the fixed refusal; what no check has passed is not shown, or withdrawn."""
        assert self.guard is not None
        config = self.guard.config
        for row in lane.rows:
            dropped = 0 if config.policy == "continue" and not config.holds_back else lane.since
            yield Intervention(lane.answered, row.p_unsafe, "stop", dropped, row.index)
            yield from row.transcript.drop(dropped)
            yield from row.transcript.say(config.refusal)
            yield Done(reason, row.index)

    def close(self, lane: Lane) -> Events:
        """Show what is left, its end-of-sequence token included, and finish."""
        for row in lane.rows:
            if row.end is not None:
                row.transcript.append(row.end)
            yield from row.transcript.release(last=True)
            assert row.finish_reason is not None
            yield Done(row.finish_reason, row.index)  # type: ignore[arg-type]


def _require_supported(model: PreTrainedModel, config: GenerationConfig, guard: Guard | None) -> None:
    if (config.num_beams or 1) > 1:
        raise ConfigError("beam search cannot be guarded (a check belongs to one running text); use num_beams=1")
    for name in ("prompt_lookup_num_tokens", "penalty_alpha", "dola_layers"):
        if getattr(config, name, None):
            raise ConfigError(f"{name} selects a decoding method that the guard replaces; remove it")
    if config.cache_implementation in ("offloaded", "quantized"):
        raise ConfigError(
            f"cache_implementation={config.cache_implementation} is a cache that guarded decoding was not tested with"
        )
    if config.guidance_scale not in (None, 1):
        raise ConfigError("guidance_scale keeps a cache of its own that the guard cannot roll back; remove it")
    if config.use_cache is False:
        raise ConfigError("the guard works on the KV cache; use_cache=False is not supported")
    for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states"):
        if getattr(config, name, None):
            raise ConfigError(f"{name}=True is not available in guarded decoding")
    if model.config.is_encoder_decoder:
        raise ModelError(f"{type(model).__name__} is an encoder-decoder model; only decoder-only models can be guarded")
    if guard:
        width = hidden_size(model)
        if guard.reminder.hidden_size != width:
            raise ModelError(
                f"the reminder was trained for {guard.reminder.base_model or 'a model'} with embeddings of size "
                f"{guard.reminder.hidden_size}, but {type(model).__name__} has size {width}"
            )
