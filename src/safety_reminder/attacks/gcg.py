"""GCG: a suffix after the request that makes the model begin its answer with a target text (arXiv:2307.15043)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from safety_reminder.attacks.base import Arena, Outcome, require_rows, write_losses
from safety_reminder.attacks.gcg_files import Files, State, identity, write_suffixes
from safety_reminder.attacks.gcg_options import GCGConfig, GCGResult, Step
from safety_reminder.attacks.goals import Goal
from safety_reminder.attacks.options import AdaptiveConfig
from safety_reminder.attacks.parties import Party, Read, Readers, require_one_tokenizer
from safety_reminder.attacks.search import (
    Buffer,
    Entry,
    allowed_tokens,
    draw_swaps,
    merged_swaps,
    rank_agreement,
    sequence_loss,
    top_swaps,
)
from safety_reminder.attacks.splits import Splits
from safety_reminder.attacks.suffix import with_suffix
from safety_reminder.attacks.targets import make_goals, require_own_targets
from safety_reminder.errors import ConfigError
from safety_reminder.guard.decoding import Guard
from safety_reminder.models import VLM, write_greedily
from safety_reminder.models.candidates import Filter
from safety_reminder.models.messages import load_image
from safety_reminder.types import Example

Judge = Callable[[Example, str], bool]
Answer = Callable[[Example], str]
DRAWS = 16  # rounds of drawing, after which a step takes as many candidates as have survived


def begins_with_target(goal: Goal, answer: str) -> bool:
    """The default judge of success."""
    return answer.strip().startswith(goal.target.strip())


def gcg(
    vlm: VLM,
    goals: Sequence[Goal],
    config: GCGConfig,
    *,
    folder: Path | None = None,
    judge: Judge | None = None,
    guard: Guard | None = None,
    answer: Answer | None = None,
    others: Sequence[VLM] = (),
    draft: VLM | None = None,
    progress: Callable[[Step], None] | None = None,
) -> GCGResult:
    """Search one suffix for all goals.

    Torch's global random state is left alone; on a CPU, a run that was killed and goes on ends bit for bit like one
    that was not.

    Args:
        folder: gets ``losses.csv``, ``adv_suffix.csv`` and a checkpoint, from which a run of the same configuration
            goes on. None: nothing is written.
        judge: whether an answer to an example is a success; by default, whether it begins with the target.
        guard: what is attacked with the model, if ``config.adaptive`` says so.
        answer: how an example with its suffix is answered, to be judged; by default greedily, without a guard, by every
            model.
        others: further models with the same tokenizer; losses are summed over all.
        draft: a smaller model with the same tokenizer that says which candidates are worth scoring
            (arXiv:2403.01251).

    Raises:
        ConfigError: no goals, an empty target, a suffix that the tokenizer does not keep, more tokens than the model
            reads or knows, a checkpoint of another configuration, or a guard, which is of one model, and others.
        ModelError: a tokenizer or model that this search cannot work with.
    """
    if not goals:
        raise ConfigError("GCG needs at least one goal")
    if config.adaptive.knows_guard and others:
        raise ConfigError("a guard is of one model: attack it without others")
    require_one_tokenizer([vlm, *others, *([draft] if draft is not None else [])])
    search = Search([vlm, *others], draft, goals, config, judge, guard, answer)
    files = None if folder is None else Files(folder, identity(search.readers, search.draft, config))
    state = search.begin() if files is None or not files.resumable else files.load(search.begin())
    search.run(state, files, progress)
    return search.result(state, files)


class Search:
    """A search for one suffix. What changes is in a :class:`State`."""

    def __init__(
        self,
        vlms: Sequence[VLM],
        draft: VLM | None,
        goals: Sequence[Goal],
        config: GCGConfig,
        judge: Judge | None,
        guard: Guard | None = None,
        answer: Answer | None = None,
    ) -> None:
        self.vlms, self.goals, self.config, self.judge, self.answer = vlms, goals, config, judge, answer
        self.batch = config.batch or (16 if vlms[0].model.device.type == "cpu" else config.width)
        self.readers = Readers(
            [Party(v, goal, config, self.batch, guard) for goal in goals for v in vlms], len(vlms), self.combine
        )
        self.draft = None
        if draft is not None:
            plain = config.with_changes(adaptive=AdaptiveConfig())
            self.draft = Readers([Party(draft, goal, plain, self.batch) for goal in goals], 1, self.combine)
        tokenizer = vlms[0].tokenizer
        self.allowed = allowed_tokens(tokenizer, non_ascii=config.allow_non_ascii, banned=config.banned)
        self.filter = Filter(config.filter_tokens, config.filter_keep) if config.filter_tokens else None
        if config.top_k >= int(self.allowed.sum()):
            raise ConfigError(
                f"attack.top_k must be below the {int(self.allowed.sum())} tokens that a suffix may hold, "
                f"got {config.top_k}"
            )

    def combine(self, each: torch.Tensor) -> torch.Tensor:
        return sequence_loss(each, first_token=self.config.first_token, mellowmax=self.config.mellowmax)

    def begin(self) -> State:
        generator = torch.Generator().manual_seed(self.config.seed)
        active = 1 if self.config.progressive and self.config.check_every else len(self.goals)
        ids = list(self.readers.parties[0].first_ids)
        return State(generator, Buffer(self.config.buffer), Entry(float("inf"), ids), active)

    def run(self, state: State, files: Files | None, progress: Callable[[Step], None] | None) -> None:
        began = time.perf_counter() - state.seconds
        while state.step < self.config.steps and not state.done:
            loss = self.step(state)
            state.step += 1
            state.seconds = time.perf_counter() - began
            row = Step(state.step, loss, state.best.loss, state.seconds, state.candidates, state.active)
            state.rows.append(row)
            if self.config.check_every and state.step % self.config.check_every == 0:
                self._check(state)
            last = state.done or state.step == self.config.steps
            if files is not None and (last or state.step % self.config.save_every == 0):
                files.save(state)
            if progress is not None:
                progress(row)

    def step(self, state: State) -> float:
        """One gradient, its candidates, and what becomes of them. Returns the best candidate's loss."""
        if not state.buffer.entries:
            first = self.readers.gradients(state.best.ids, state.active)
            state.buffer.add(first.loss, state.best.ids)
            state.best = Entry(first.loss, list(state.best.ids))
        parent = state.buffer.pick()
        if parent.ids != state.parent:
            state.parent, state.tried = list(parent.ids), set()
        read = self.readers.gradients(parent.ids, state.active)
        if self.config.adaptive.knows_guard:
            # Its answer was written anew, and so is what its candidates are compared with.
            parent.loss = state.best.loss = read.loss
        swaps = top_swaps(read.gradient, parent.ids, self.allowed, self.config.top_k)
        candidates = self.recalled(state, parent.ids)
        candidates += self.draw(state, parent.ids, swaps, self.config.width - len(candidates))
        if not candidates:
            return parent.loss  # all swaps were tried; another entry of the buffer, or nothing, is left
        rows = torch.tensor(candidates)
        losses = self.score(state, rows, read)
        state.remember(parent, rows, losses)
        if self.config.merge > 1:
            merged = merged_swaps(parent.ids, rows, losses, self.config.merge)
            merged = self.readers.surviving(merged)
            if merged:
                rows = torch.cat([rows, torch.tensor(merged)])
                state.candidates += len(merged)
                losses = torch.cat([losses, self.readers.losses(rows[-len(merged) :], read)])
        for number in losses.argsort(stable=True)[: max(1, self.config.buffer)].tolist():
            state.take(float(losses[number]), rows[number].tolist(), self.readers.sent)
        return float(losses.min())

    def recalled(self, state: State, ids: Sequence[int]) -> list[list[int]]:
        """``ids`` with one of the swaps each that lowered the loss before, the best first."""
        rows = [[*ids[:at], token, *ids[at + 1 :]] for (at, token) in state.promising if ids[at] != token]
        new = [row for row in rows if tuple(row) not in state.tried]
        found = self.readers.surviving(new[: min(self.config.recall, self.config.width - 1)])
        state.tried.update(map(tuple, found))
        return found

    def draw(self, state: State, ids: Sequence[int], swaps: torch.Tensor, wanted: int) -> list[list[int]]:
        """New candidates that survive tokenisation, as many as are wanted."""
        config = self.config
        replaced = config.swaps
        if config.swaps_until:
            left = max(0.0, 1 - state.step / config.swaps_until)
            replaced = 1 + round((config.swaps - 1) * left)
        found: list[list[int]] = []
        for _ in range(DRAWS):
            drawn = draw_swaps(ids, swaps, config.width, min(replaced, len(ids)), state.generator)
            new = [row for row in map(tuple, drawn.tolist()) if row not in state.tried]
            new = list(dict.fromkeys(new))
            survived = self.readers.surviving([list(row) for row in new])[: wanted - len(found)]
            found += survived
            if len(found) >= wanted:
                state.tried.update(map(tuple, survived))
                break
            state.tried.update(new)
        return found

    def score(self, state: State, rows: torch.Tensor, read: Read) -> torch.Tensor:
        """Losses of candidates; infinite where the draft model, or the beginning of the target, left them out."""
        if self.draft is None or len(rows) < 2:
            state.candidates += len(rows)
            return self.readers.losses(rows, read, self.filter)
        config, parent = self.config, state.parent
        of_draft = self.draft.losses(rows, self.draft.gradients(parent, state.active))
        both = torch.randperm(len(rows), generator=state.generator)[: max(2, round(config.probe_share * len(rows)))]
        losses = torch.full((len(rows),), torch.inf)
        losses[both] = self.readers.losses(rows[both], read)
        # The less the two models agree, the more the draft's favourites must be looked at.
        doubt = (1 - rank_agreement(of_draft[both], losses[both])) / 2
        most = max(1, round(doubt * len(rows) / config.probe_divisor))
        passed = [n for n in of_draft.argsort(stable=True).tolist()[:most] if losses[n].isinf()]
        state.candidates += len(both) + len(passed)
        if passed:
            losses[passed] = self.readers.losses(rows[passed], read)
        return losses

    def _check(self, state: State) -> None:
        """Let the models answer; when all succeed, the next goal joins, or the search is over."""
        state.succeeded = all(self.succeeds(goal, state.best.ids) for goal in self.goals[: state.active])
        if not state.succeeded:
            return
        if state.active == len(self.goals):
            state.done = True
            return
        if state.step == self.config.steps:
            return  # nothing would be searched for one more goal
        state.active += 1
        # Losses are of more goals now: nothing that was found before can be compared.
        ids, state.best, state.parent = state.best.ids, Entry(float("inf"), state.best.ids), []
        state.buffer, state.promising = Buffer(self.config.buffer), {}
        state.best.ids = list(ids)
        state.succeeded = False

    def succeeds(self, goal: Goal, ids: Sequence[int]) -> bool:
        """Whether every model's greedy answer to ``goal`` with this suffix is a success."""
        judge = self.judge or (lambda _, answer: begins_with_target(goal, answer))
        parties = [party for party in self.readers.parties if party.goal is goal]
        if self.answer is not None:
            [suffix] = parties[0].place.texts([ids])
            return judge(goal.example, self.answer(with_suffix(goal.example, suffix)))
        for party in parties:
            vlm, inputs = party.vlm, party.place.sent(ids)
            if inputs is None:
                return False
            written, _ = write_greedily(
                vlm.model, vlm.tokenizer, inputs, max_new_tokens=max(self.config.answer_tokens, len(party.target))
            )
            answer = vlm.tokenizer.decode(written[0], skip_special_tokens=True)
            if not judge(goal.example, answer):
                return False
        return True

    def result(self, state: State, files: Files | None) -> GCGResult:
        ids = state.best.ids
        rescored = [party.rescored(ids) for party in self.readers.parties]
        added = [party.added(ids) for party in self.readers.parties]
        per_goal = [self.combine(each[None])[0].item() + more for each, more in zip(rescored, added, strict=True)]
        result = GCGResult(
            suffix=self.readers.parties[0].place.texts([ids])[0],
            suffix_ids=tuple(ids),
            loss=sum(per_goal) / len(per_goal),
            search_loss=state.best.loss,
            mean_losses=tuple(each.mean().item() for each in rescored),
            steps=tuple(state.rows),
            candidates=state.candidates,
            seconds=state.seconds,
            succeeded=state.succeeded if self.config.check_every else None,
        )
        if files is not None:
            write_suffixes(files.folder, ((goal, result.suffix) for goal in self.goals), self.config.separator)
        return result


def run(arena: Arena, config: GCGConfig) -> Outcome:
    """``attack=gcg``: one suffix that is learned on the training requests, or one for each test request."""
    require_rows(arena, "test", *(["train"] if config.universal else []))
    splits = arena.splits
    if config.image is not None:
        picture = Path(config.image).expanduser()
        load_image(picture)  # is it one?
        splits = splits.each(lambda e: replace(e, image=picture))
    if config.universal:
        goals = make_goals([*splits.train, *splits.test], config.targets, arena.answers)
        learned, goals = goals[: len(splits.train)], goals[len(splits.train) :]
        if config.targets.kind == "corpus":
            learned, goals = [*learned, *goals], []
        found = [_searched(arena, learned, config, arena.folder)]
        # The table is a data set: what it is measured on, not what it was learned on.
        write_suffixes(arena.folder, ((goal, found[0].suffix) for goal in goals), config.separator)
        attacked = splits.each(lambda e: with_suffix(e, found[0].suffix))
    else:
        require_own_targets(config.targets, "attack=gcg attack.universal=false")
        goals = make_goals(splits.test, config.targets, arena.answers)
        places = [arena.folder / f"{number:03d}" for number in range(len(goals))]
        found = [_searched(arena, [goal], config, place) for goal, place in zip(goals, places, strict=True)]
        write_suffixes(arena.folder, zip(goals, (r.suffix for r in found), strict=True), config.separator)
        attacked = Splits([], [], [with_suffix(e, r.suffix) for e, r in zip(splits.test, found, strict=True)])
    write_losses(arena.folder, [{"search": n, **asdict(step)} for n, r in enumerate(found) for step in r.steps])
    return Outcome(
        attacked,
        splits.test,
        {
            "seconds": sum(result.seconds for result in found),
            "steps": sum(len(result.steps) for result in found),
            "candidates": sum(result.candidates for result in found),
            "loss": sum(result.search_loss for result in found) / len(found),
            "loss_rescored": sum(result.loss for result in found) / len(found),
        },
    )


def _searched(arena: Arena, goals: Sequence[Goal], config: GCGConfig, folder: Path) -> GCGResult:
    with tqdm(total=config.steps, desc="GCG", unit="step") as progress:

        def show(step: Step) -> None:
            progress.set_postfix(loss=f"{step.best:.3f}", goals=step.goals, refresh=False)
            progress.update(step.step - progress.n)

        guard, answer = None, None
        if config.adaptive.knows_guard:
            guard, answer = arena.guarded.guard, partial(_guarded_answer, arena, config.answer_tokens)
        return gcg(
            arena.vlm, goals, config, folder=folder, judge=arena.judge, guard=guard, answer=answer, progress=show
        )


def _guarded_answer(arena: Arena, tokens: int, example: Example) -> str:
    return arena.answers([example], guard=True, tokens=tokens)[0]
