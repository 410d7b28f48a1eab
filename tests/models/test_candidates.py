"""Candidates scored with everything reused are those of plain passes over whole sequences."""

from __future__ import annotations

import itertools

import pytest
import torch

from helpers import cached_tiny_model, single
from safety_reminder.attacks.search import sequence_loss
from safety_reminder.models.candidates import (
    OVERHEAD,
    Filter,
    Slot,
    embedding_table,
    first_entries,
    passes,
    token_losses,
)
from safety_reminder.models.scoring import score
from safety_reminder.models.tiny import tiny_model

LENGTH, AFTER = 6, 3
TARGET = [14, 77, 30, 52, 9]
NO_VECTORS = torch.zeros(0, 32)


def prompt(model, length: int = 24):
    """An image early on, then text whose last entries are the slot and what follows it."""
    return single(model, length)


def slot_of(model, *, batch: int = 4) -> Slot:
    inputs = prompt(model)
    start = inputs["input_ids"].shape[1] - AFTER - LENGTH
    return Slot(model, inputs, start, LENGTH, TARGET, batch=batch)


def with_ids(slot: Slot, inputs, ids):
    ids = torch.as_tensor(ids)
    changed = inputs["input_ids"].clone()
    changed[0, slot.start : slot.start + LENGTH] = ids
    return {**inputs, "input_ids": changed}


def plain(model, slot: Slot, ids) -> torch.Tensor:
    """Losses of the target's tokens by one pass over the whole conversation."""
    with torch.no_grad():
        [read] = score(model, with_ids(slot, prompt(model), ids), [[TARGET]], NO_VECTORS)
    return token_losses(read.logits[0][None], TARGET)


def some_candidates(base: list[int], count: int = 11) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    rows = torch.tensor(base).repeat(count, 1)
    for row in rows[1:]:  # the first one is the base itself
        row[torch.randint(LENGTH, (1,), generator=generator)] = torch.randint(3, 110, (1,), generator=generator)
    rows[-1] = torch.randint(3, 110, (LENGTH,), generator=generator)
    return rows


BASE = [40, 41, 42, 43, 44, 45]


@pytest.mark.parametrize("first_token", [0.0, 0.7])
def test_losses_are_those_of_plain_passes(model, first_token):
    slot = slot_of(model)
    combine = lambda each: sequence_loss(each, first_token=first_token)  # noqa: E731
    loss, _, base = slot.gradient(BASE, combine)
    assert loss == pytest.approx(combine(plain(model, slot, BASE)).item(), abs=2e-4)
    rows = some_candidates(BASE)
    expected = torch.cat([combine(plain(model, slot, row)) for row in rows])
    assert expected.std() > 0.01
    torch.testing.assert_close(slot.losses(rows, base, combine), expected, atol=2e-4, rtol=0)


def test_a_candidate_is_scored_alike_from_any_base(model):
    slot, other = slot_of(model), [50, 51, 42, 43, 60, 45]
    rows = some_candidates(BASE)
    losses = [slot.losses(rows, slot.gradient(ids, sequence_loss)[2], sequence_loss) for ids in (BASE, other)]
    torch.testing.assert_close(*losses, atol=2e-4, rtol=0)


def test_a_truncated_target_leaves_out_candidates_and_changes_no_other(model):
    slot = slot_of(model, batch=8)
    _, _, base = slot.gradient(BASE, sequence_loss)
    rows = some_candidates(BASE, 8)
    whole = slot.losses(rows, base, sequence_loss)
    chosen = slot.losses(rows, base, sequence_loss, Filter(2, 0.5))
    kept = chosen.isfinite()
    torch.testing.assert_close(chosen[kept], whole[kept], atol=2e-4, rtol=0)
    early = torch.cat([sequence_loss(plain(model, slot, row)[:, :2]) for row in rows])
    assert set(kept.nonzero()[:, 0].tolist()) == set(early.argsort()[:4].tolist())


def test_the_gradient_is_that_of_finite_differences(model):
    slot = slot_of(model)
    _, gradient, _ = slot.gradient(BASE, sequence_loss)
    table, inputs = embedding_table(model).float(), with_ids(slot, prompt(model), BASE)
    generator = torch.Generator().manual_seed(1)

    def loss(at: int, moved: torch.Tensor) -> float:
        embedded = (table[BASE[at]] + moved)[None]
        with torch.no_grad():
            [read] = score(model, inputs, [[TARGET]], NO_VECTORS, embeddings={slot.start + at: embedded})
        return sequence_loss(token_losses(read.logits[0][None], TARGET)).item()

    step = 3e-3
    for at in (0, 3, LENGTH - 1):
        direction = table[int(torch.randint(3, 110, (1,), generator=generator))]  # one more of this token
        expected = (loss(at, step * direction) - loss(at, -step * direction)) / (2 * step)
        assert float(gradient[at] @ direction) == pytest.approx(expected, abs=0.02 * float(gradient.norm()) + 1e-3)


def test_the_batch_changes_nothing_but_memory(monkeypatch):
    model = cached_tiny_model("llama")
    rows = some_candidates(BASE)
    slot = slot_of(model, batch=1)
    _, _, base = slot.gradient(BASE, sequence_loss)
    alone = slot.losses(rows, base, sequence_loss)
    wide = slot_of(model, batch=8)
    plain_pass = Slot._pass

    def short_of_memory(self, candidates, *rest):
        if len(candidates) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return plain_pass(self, candidates, *rest)

    monkeypatch.setattr(Slot, "_pass", short_of_memory)
    torch.testing.assert_close(wide.losses(rows, base, sequence_loss), alone, atol=2e-4, rtol=0)
    assert wide.batch == 2


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    slot = slot_of(cached_tiny_model("llama"))
    _, _, base = slot.gradient(BASE, sequence_loss)

    def fail(self, *rest):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Slot, "_pass", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        slot.losses(some_candidates(BASE), base, sequence_loss)


def test_a_pass_begins_at_the_first_change_among_its_candidates(monkeypatch):
    model = tiny_model("llama")
    monkeypatch.setitem(OVERHEAD, "cpu", 2.0)
    slot = slot_of(model, batch=2)
    _, _, base = slot.gradient(BASE, sequence_loss)
    rows = torch.tensor(BASE).repeat(4, 1)
    rows[0, 1], rows[1, 5], rows[2, 0], rows[3, 4] = 60, 61, 62, 63
    run, widths = Slot._continue, []

    def spy(self, cache, position, embeds, scored):
        widths.append(embeds.shape[1] - len(self.following))
        return run(self, cache, position, embeds, scored)

    monkeypatch.setattr(Slot, "_continue", spy)
    slot.losses(rows, base, sequence_loss)
    assert widths == [2, 6]  # those that changed token 4 or 5 of 6, then those that changed 0 or 1


@pytest.mark.parametrize("overhead", [0.0, 3.0, 20.0, 1e6])
def test_passes_cost_least(overhead):
    widths, batch = [4, 4, 5, 9, 9, 12, 20], 4

    def cost(rows):
        ends = list(itertools.accumulate(rows))
        return sum(overhead + n * widths[end - 1] for n, end in zip(rows, ends, strict=True))

    every = [c for k in range(1, 8) for c in itertools.product(range(1, batch + 1), repeat=k) if sum(c) == len(widths)]
    rows = passes(widths, batch, overhead)
    assert sum(rows) == len(widths)
    assert max(rows) <= batch
    assert cost(rows) == min(map(cost, every))


def test_first_entries_are_read_as_if_nothing_had_followed(model):
    slot = slot_of(model)
    _, _, base = slot.gradient(BASE, sequence_loss)
    assert base.shared.length == slot.start + LENGTH
    assert torch.equal(base.shared.position, slot.before.position + LENGTH)
    assert first_entries(base.shared, slot.start).length == slot.before.length
