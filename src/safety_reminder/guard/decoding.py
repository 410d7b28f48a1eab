"""The decode loop. There is one, and it yields events; everything else consumes them.

choose a token → every ``interval`` tokens, append the reminder and read the probe
    safe:   crop the reminder from the cache; the answer goes on as if it had never been there
    unsafe: the policy decides what stays, and the reminder stays after it

What to do next is decided by each row's :class:`~safety_reminder.guard.answer.Answer`, without tensors. This module
does it, for the rows of a batch together, over a live KV cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PrefixConstrainedLogitsProcessor,
    PreTrainedModel,
    StoppingCriteriaList,
)

from safety_reminder.config import GuardConfig
from safety_reminder.errors import ConfigError, GuardFailure, MessageError, ModelError
from safety_reminder.guard.answer import REMINDER, Action, Answer, Drop, Feed, Keep, Read
from safety_reminder.guard.lane import Lane
from safety_reminder.guard.reminder import SafetyReminder
from safety_reminder.guard.sampling import Sampler
from safety_reminder.guard.supported import require_supported
from safety_reminder.models import hidden_size
from safety_reminder.models.context import Runner, rows_with_images
from safety_reminder.models.embedding import embedding_weight
from safety_reminder.models.limits import most_positions
from safety_reminder.types import Event, FinishReason

Events = Iterator[Event]
Kept = tuple[int, ...] | Tensor  # token ids, or vectors (n, hidden_size)


@dataclass(frozen=True)
class Guard:
    """A reminder and how to use it.

    ``kept``: what an unsafe verdict leaves in the context. None, as the method has it: the reminder. Controls leave
    something else there, token ids or vectors (n, hidden_size); the probe is read after the reminder all the same, so
    that up to the first intervention verdicts are the same.

    Raises:
        ConfigError: ``kept`` is empty or not finite, or of another shape than the reminder's.
    """

    reminder: SafetyReminder
    config: GuardConfig
    kept: Kept | None = None

    def __post_init__(self) -> None:
        if self.kept is None:
            return
        if isinstance(self.kept, Tensor):
            shape = tuple(self.kept.shape)
            if len(shape) != 2 or 0 in shape or shape[1] != self.reminder.hidden_size:
                raise ConfigError(f"what is kept has shape (n, {self.reminder.hidden_size}), got {shape}")
            if not torch.isfinite(self.kept).all():
                raise ConfigError("what is kept holds values that are not finite")
        elif not self.kept:
            raise ConfigError("what is kept must be at least one token")


def decode(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "rows prompt"],
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
        MessageError: a prompt longer than the model reads.
    """
    require_supported(model, generation_config)
    if guard is not None:
        _require_same_size(model, guard.reminder)
    if input_ids.shape[0] > 1 and any(isinstance(p, PrefixConstrainedLogitsProcessor) for p in logits_processor):
        # It would be asked about rows that have finished, with the text of others.
        raise ConfigError("prefix_allowed_tokens_fn works for one conversation at a time; give a batch of one")
    cache = model_kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise ConfigError("continuing from a filled past_key_values is not supported; pass the whole conversation")
    yield from _Decoder(
        model, input_ids, logits_processor, stopping_criteria, generation_config, guard, tokenizer, seed, model_kwargs
    ).run()


class _Decoder:
    """The rows of a batch, driven through the model as their answers ask.

    Whatever runs the model is a method without ``yield``, under ``no_grad``: a generator that is left unfinished would
    switch gradients back on when it is thrown away, at a time that nobody chose.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
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
        self.guard, self.tokenizer = guard, tokenizer
        self.runner = Runner(model)
        self.vectors: Tensor | None = None
        self.kept: Tensor | None = None  # vectors or token ids
        if guard is not None:
            weight = embedding_weight(model)
            self.vectors = guard.reminder.vectors.to(weight.device, weight.dtype)
            self.kept = self.vectors if guard.kept is None else _kept(guard.kept, weight)
        self.sampler = Sampler(bool(generation_config.do_sample), input_ids.shape[0], seed, input_ids.device)
        eos = generation_config.eos_token_id
        self.eos = frozenset([eos] if isinstance(eos, int) else eos or [])

    def run(self) -> Events:
        lane = self.open()
        lanes = yield from self.obey(lane)
        while lanes:
            following: list[Lane] = []
            for lane in lanes:
                following += yield from self.advance(lane)
            lanes = following

    @torch.no_grad()
    def open(self) -> Lane:
        """Read the prompts; all rows in one lane."""
        prompt = self.input_ids.shape[1]
        limit = getattr(self.stopping, "max_length", None)
        asked = math.inf if limit is None else limit - prompt
        images = [False] * self.input_ids.shape[0]
        if self.guard is not None and self.guard.config.image_threshold is not None:
            images = rows_with_images(self.runner.model, self.input_ids)
        rows = [
            Answer(
                self.guard.config if self.guard else None,
                eos=self.eos,
                max_tokens=None if (most := min(asked, room)) == math.inf else int(most),
                tokenizer=self.tokenizer,
                row=row,
                image=images[row],
            )
            for row, room in enumerate(self.rooms())
        ]
        context, logits = self.runner.prefill(self.input_ids, self.model_kwargs, roll_back=self.guard is not None)
        return Lane(rows, context, self.input_ids, logits, prompt)

    def rooms(self) -> list[float]:
        """How many tokens each row's answer may have before the positions run out that the model knows. The reminder
        needs some of them, at its checks and where it stays.

        Raises:
            MessageError: a prompt leaves none.
        """
        positions = most_positions(self.runner.model)
        rows, width = self.input_ids.shape
        if positions is None:
            return [math.inf] * rows
        mask = self.model_kwargs.get("attention_mask")
        prompts = [width] * rows
        if isinstance(mask, Tensor) and mask.shape == self.input_ids.shape:
            prompts = mask.sum(dim=1).tolist()
        reserved = 0
        if self.guard is not None and self.vectors is not None and self.kept is not None:
            reserved = len(self.vectors) + len(self.kept) * self.guard.config.max_interventions
        for row, prompt in enumerate(prompts):
            if prompt + reserved >= positions:
                which = f"the prompt of conversation {row}" if rows > 1 else "the prompt"
                aside = f", {reserved} of them for the reminder" if reserved else ""
                raise MessageError(
                    f"{which} has {prompt} tokens, but the model knows {positions} positions "
                    f"(max_position_embeddings){aside}; shorten it"
                )
        return [positions - reserved - prompt for prompt in prompts]

    def advance(self, lane: Lane):
        """One token for every row, and what follows from it. Returns the lanes that live on."""
        scores, broken = self.scores(lane)
        if any(broken):
            for row, is_broken in zip(lane.rows, broken, strict=True):
                if is_broken:
                    yield from row.no_scores()
            left = [i for i, is_broken in enumerate(broken) if not is_broken]
            if not left:
                return []
            lane, scores = lane.select(left), scores[left]
        tokens, finished = self.choose(lane, scores)
        for row, token, reason in zip(lane.rows, tokens, finished, strict=True):
            yield from row.token(token, reason)
        return (yield from self.obey(lane))

    @torch.no_grad()
    def scores(self, lane: Lane) -> tuple[Float[Tensor, "rows vocabulary"], list[bool]]:
        """Processed logits of every row, and which rows have broken ones, so that no token can be chosen."""
        scores = self.in_place(lane, self.process, lane.ids, lane.logits) if self.process else lane.logits
        return scores, self.sampler.broken(scores).tolist()

    @torch.no_grad()
    def choose(self, lane: Lane, scores: Tensor) -> tuple[list[int], list[FinishReason | None]]:
        """Each row's next token, and why its answer ends with it."""
        lane.extend(self.sampler(scores, [row.row for row in lane.rows], whole=lane.whole))
        assert lane.pending is not None
        finished = self.in_place(lane, lambda ids: self.stopping(ids, None), lane.ids).tolist()
        # Without an end-of-sequence token, "length" at the limit, else a stop string or a criterion of the caller's.
        full = [row.max_tokens is not None and row.written + 1 >= row.max_tokens for row in lane.rows]
        reasons: list[FinishReason | None] = [
            "length" if is_full else "stop" if done else None for is_full, done in zip(full, finished, strict=True)
        ]
        return lane.pending.tolist(), reasons

    def in_place(self, lane: Lane, function: Any, *tensors: Tensor) -> Tensor:
        """``function`` of ``tensors`` (rows, ...) of the lane, with each row at its place in the whole batch, as logits
        processors and stopping criteria that keep something for every row expect it. The places of rows that have
        finished, or are in another lane, hold another row's values."""
        batch = self.input_ids.shape[0]
        if len(lane.rows) == batch:
            return function(*tensors)
        index = torch.tensor([row.row for row in lane.rows], device=tensors[0].device)
        source = torch.zeros(batch, dtype=torch.long, device=index.device)
        source[index] = torch.arange(len(index), device=index.device)
        return function(*(tensor[source] for tensor in tensors))[index]

    def obey(self, lane: Lane):
        """Do what the rows ask for until each waits for its next token. Returns the lanes that do."""
        living: list[Lane] = []
        # Rows that are ending come first, those that have just taken back an end-of-sequence token before the others.
        order = lambda part: (not _is_read(part, "final"), part.rows[0].written)  # noqa: E731
        for part in sorted(lane.split(lambda row: (row.todo, row.written)), key=order):
            match part.rows[0].todo:
                case Read():
                    part.follow_answers()
                    living += yield from self.check(part)
                case Feed():
                    self.feed(part)
                    living.append(part)
        return living

    @torch.no_grad()
    def feed(self, lane: Lane) -> None:
        """Let the model read the newest token; at the beginning there is none."""
        if lane.pending is not None:
            lane.logits = self.runner.append(lane.context, lane.pending[:, None]).last
            lane.pending = None

    def check(self, lane: Lane):
        """Append the reminder to every row and read the probe; commit it where unsafe, crop it where safe."""
        for row, p_unsafe in zip(lane.rows, self.read(lane), strict=True):
            yield from row.verdict(p_unsafe)
        return self.settle(lane)

    @torch.no_grad()
    def read(self, lane: Lane) -> list[float]:
        """``p_unsafe`` of every row, NaN where the probe could not tell. The reminder is left in the cache; ``logits``
        are those after the text, and ``reminded`` those after the reminder."""
        assert self.guard is not None
        pending, lane.pending = lane.pending, None
        if pending is not None and self.guard.config.mode == "exact":
            lane.logits = self.runner.append(lane.context, pending[:, None]).last
            pending = None
        appended = self.runner.append(lane.context, None if pending is None else pending[:, None], self.vectors)
        if pending is not None:
            lane.logits = appended.first
        lane.reminded = appended.last
        hidden = appended.hidden
        assert hidden is not None
        try:
            p_unsafe = self.guard.reminder.probe(hidden)
        except GuardFailure:
            return [float("nan")] * hidden.shape[0]
        return p_unsafe.tolist() if p_unsafe.shape == hidden.shape[:1] else [float("nan")] * hidden.shape[0]

    @torch.no_grad()
    def settle(self, lane: Lane) -> list[Lane]:
        """After a check: every row's context becomes what its answer says. Returns the lanes that live on, those that
        were caught first."""
        assert self.vectors is not None
        living = sorted(lane.split(lambda row: row.todo), key=lambda part: isinstance(part.rows[0].todo, Drop))
        for part in living:
            todo = part.rows[0].todo
            if isinstance(todo, Drop):
                part.context.crop(len(self.vectors))
                continue
            part.whole = False
            if isinstance(todo, Keep) and self.kept is self.vectors:
                assert part.reminded is not None
                part.logits = part.reminded
            else:
                self.rewind(part)
        return living

    def rewind(self, lane: Lane) -> None:
        """Cut the cache back to before what was left in last, and let that follow."""
        assert self.kept is not None
        before = lane.rows[0].context[:-1]
        entries = lane.prompt_length + sum(len(self.kept) if item is REMINDER else 1 for item in before)
        if lane.context.reaches(entries):
            lane.context.crop(lane.context.entries - entries)
        else:
            # Entries have left the sliding window, so all is read again: a restart goes so far back, and a rewind where
            # tokens waited for more than one check.
            kwargs = {**self.model_kwargs, "past_key_values": None}
            prompts, _ = self.runner.prefill(self.input_ids, kwargs, roll_back=True)
            lane.context = prompts.select([row.row for row in lane.rows])
            self._read_again(lane, len(before))
        lane.follow_answers()
        lane.logits = self._append_kept(lane)

    def _read_again(self, lane: Lane, count: int) -> None:
        """The first ``count`` items of the rows' contexts, which are reminders in the same places, after the prompt."""
        columns = zip(*(row.context[:count] for row in lane.rows), strict=True)
        for reminded, run in groupby(columns, lambda column: column[0] is REMINDER):
            if reminded:
                for _ in run:
                    self._append_kept(lane)
            else:
                tokens = torch.tensor(list(run), device=lane.ids.device).T
                self.runner.append(lane.context, tokens)

    def _append_kept(self, lane: Lane) -> Tensor:
        """Let what an intervention leaves in follow; the logits after it."""
        assert self.kept is not None
        if self.kept.is_floating_point():
            return self.runner.append(lane.context, None, self.kept).last
        # As tokens: some families look up more than the embedding of one.
        return self.runner.append(lane.context, self.kept.expand(len(lane.rows), -1)).last


def _kept(kept: Kept, weight: Tensor) -> Tensor:
    """Vectors in the model's dtype, or token ids, on its device.

    Raises:
        ModelError: an id that the model does not have.
    """
    if isinstance(kept, Tensor):
        return kept.to(weight.device, weight.dtype)
    if not all(0 <= token < weight.shape[0] for token in kept):
        raise ModelError(f"what is kept has token ids that the model, which has {weight.shape[0]}, does not know")
    return torch.tensor(kept, device=weight.device)


def _is_read(action: Action, kind: str) -> bool:
    return isinstance(action, Read) and action.kind == kind


def _require_same_size(model: PreTrainedModel, reminder: SafetyReminder) -> None:
    width = hidden_size(model)
    if reminder.hidden_size != width:
        raise ModelError(
            f"the reminder was trained for {reminder.base_model or 'a model'} with embeddings of size "
            f"{reminder.hidden_size}, but {type(model).__name__} has size {width}"
        )
