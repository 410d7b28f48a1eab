"""The pure steps of a search over tokens."""

from __future__ import annotations

import math

import pytest
import torch

from safety_reminder.attacks.search import (
    Buffer,
    allowed_tokens,
    draw_swaps,
    merged_swaps,
    rank_agreement,
    sequence_loss,
    top_swaps,
)
from safety_reminder.models.tiny import byte_tokenizer


def test_sequence_loss_is_the_mean_and_the_first_tokens_share():
    each = torch.tensor([[3.0, 1.0, 2.0], [0.0, 6.0, 0.0]])
    assert sequence_loss(each).tolist() == [2.0, 2.0]
    assert sequence_loss(each, first_token=0.5).tolist() == [3.5, 2.0]


def test_mellowmax_lies_between_mean_and_maximum():
    each = torch.tensor([[3.0, 1.0, 2.0]])
    expected = math.log(sum(math.exp(2.0 * x) for x in (3.0, 1.0, 2.0)) / 3) / 2.0
    assert sequence_loss(each, mellowmax=2.0).item() == pytest.approx(expected, abs=1e-6)
    assert sequence_loss(each, mellowmax=1e-3).item() == pytest.approx(2.0, abs=1e-2)
    assert sequence_loss(each, mellowmax=200.0).item() == pytest.approx(3.0, abs=1e-2)


def test_allowed_tokens_are_printable_and_not_special():
    tokenizer = byte_tokenizer(["<s>", "<image>"], "")
    allowed = allowed_tokens(tokenizer, banned=["q"])
    assert len(allowed) == len(tokenizer)

    def texts(mask: torch.Tensor) -> set[str]:
        return set(tokenizer.batch_decode([[i] for i in mask.nonzero()[:, 0].tolist()]))

    assert texts(allowed) == {chr(code) for code in range(32, 127)} - {"q"}
    # A byte that is no character by itself cannot be written down.
    more = texts(allowed_tokens(tokenizer, non_ascii=True))
    assert "\n" in more
    assert "\ufffd" not in more


def test_top_swaps_are_the_steepest_that_are_allowed():
    gradient = torch.tensor([[5.0, -3.0, -2.0, -9.0, -1.0], [-4.0, 0.0, -1.0, -9.0, 2.0]])
    allowed = torch.tensor([True, True, True, False, True])
    assert top_swaps(gradient, [1, 4], allowed, 2).tolist() == [[2, 4], [0, 2]]


@pytest.mark.parametrize("replaced", [1, 3])
def test_drawn_candidates_change_so_many_positions_to_tokens_on_offer(replaced):
    ids, swaps = [0, 0, 0, 0], torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]])
    drawn = draw_swaps(ids, swaps, 200, replaced, torch.Generator().manual_seed(0))
    assert drawn.shape == (200, 4)
    assert ((drawn != 0).sum(1) == replaced).all()
    for at in range(4):
        assert set(drawn[:, at].tolist()) == {0, *swaps[at].tolist()}


def test_merging_takes_the_best_swaps_at_positions_of_their_own():
    ids = [0, 0, 0, 0]
    rows = torch.tensor([[1, 0, 0, 0], [2, 0, 0, 0], [0, 3, 0, 0], [0, 0, 4, 0], [0, 0, 0, 5]])
    losses = torch.tensor([0.1, 0.2, 0.3, 0.4, math.inf])
    assert merged_swaps(ids, rows, losses, 4) == [[1, 3, 0, 0], [1, 3, 4, 0]]
    assert merged_swaps(ids, rows, losses, 2) == [[1, 3, 0, 0]]


def test_rank_agreement():
    a = torch.tensor([0.1, 5.0, 2.0, 3.0])
    assert rank_agreement(a, a.exp()) == pytest.approx(1.0)
    assert rank_agreement(a, -a) == pytest.approx(-1.0)
    assert rank_agreement(a[:1], a[:1]) == 0.0


def test_a_buffer_keeps_the_best_and_goes_on_from_what_was_tried_least():
    buffer = Buffer(2)
    for loss, ids in ((3.0, [3]), (1.0, [1]), (2.0, [2]), (1.0, [1]), (9.0, [9])):
        buffer.add(loss, ids)
    assert [entry.ids for entry in buffer.entries] == [[1], [2]]
    assert [buffer.pick().ids for _ in range(3)] == [[1], [2], [1]]
    buffer.add(0.5, [0])
    assert buffer.pick().ids == [0]


def test_without_a_buffer_the_newest_counts_even_if_it_is_worse():
    buffer = Buffer(0)
    buffer.add(1.0, [1])
    buffer.add(2.0, [2])
    assert buffer.pick().ids == [2]
