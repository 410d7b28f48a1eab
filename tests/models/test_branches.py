"""Rows that share their beginning, and branch: what one pass gives is what each sequence gives by itself."""

from __future__ import annotations

import pytest
import torch

from helpers import cached_tiny_model
from safety_reminder.models.branches import Row, Shared, score_rows, write_rows
from safety_reminder.models.scoring import score
from safety_reminder.models.tiny import tiny_inputs

K = 3


@pytest.fixture
def vectors() -> torch.Tensor:
    return torch.randn(K, 32, generator=torch.Generator().manual_seed(5))


def one_row(model) -> dict[str, torch.Tensor]:
    return tiny_inputs(model, (14,), seed=3)


def rows_of(branches: bool) -> list[Row]:
    first = ((2, [None]), (4, [None, [33, 34]]), (5, [[40], None, [41, 42], None])) if branches else ()
    second = ((1, [None]), (9, [None])) if branches else ()
    return [
        Row([11, 12, 13, 14, 15], (1, 4), first),
        Row([11, 17, 18, 19, 20, 21, 22, 23, 24], (2, 9), second),
        Row([9, 8], (1, 2)),
    ]


def by_itself(model, inputs, tokens, vectors):
    """One sequence's logits over all of ``tokens`` (runs, and None for reminders), and its reminders' hidden states."""
    [whole] = score(model, inputs, [tokens], vectors)
    return whole


@pytest.mark.parametrize("branches", [False, True])
def test_rows_and_branches_are_what_each_sequence_gives_by_itself(model, vectors, branches):
    inputs = one_row(model)
    rows = rows_of(branches)
    with torch.no_grad():
        scored = score_rows(model, Shared.read(model, inputs), rows, vectors)
        for row, got in zip(rows, scored, strict=True):
            whole = by_itself(model, inputs, [list(row.tokens)], vectors).logits[0]
            torch.testing.assert_close(got.logits, whole[slice(*row.scored)], atol=3e-4, rtol=1e-4)
            for (after, script), logits, hidden in zip(row.branches, got.branches, got.hidden, strict=True):
                alone = by_itself(model, inputs, [list(row.tokens[:after]), *script], vectors)
                torch.testing.assert_close(hidden, alone.hidden, atol=3e-4, rtol=1e-4)
                for mine, theirs in zip(logits, alone.logits[1:], strict=True):
                    torch.testing.assert_close(mine, theirs, atol=3e-4, rtol=1e-4)


def test_the_gradient_reaches_pixels_and_vectors_as_through_whole_sequences(model, vectors):
    inputs = one_row(model)
    if "pixel_values" not in inputs:
        pytest.skip("reads text only")
    rows = rows_of(True)

    def total(scored_logits, hidden):
        return sum(logits.log_softmax(-1)[:, 7].sum() for logits in scored_logits) + sum(h.sin().sum() for h in hidden)

    def gradients(run):
        pixels = inputs["pixel_values"].clone().requires_grad_()
        learned = vectors.clone().requires_grad_()
        return torch.autograd.grad(run({**inputs, "pixel_values": pixels}, learned), [pixels, learned])

    def shared(these, learned):
        scored = score_rows(model, Shared.read(model, these), rows, learned)
        logits = [s.logits for s in scored] + [run for s in scored for runs in s.branches for run in runs]
        return total(logits, [hidden for s in scored for hidden in s.hidden])

    def whole(these, learned):
        logits, hidden = [], []
        for row in rows:
            logits.append(by_itself(model, these, [list(row.tokens)], learned).logits[0][slice(*row.scored)])
            for after, script in row.branches:
                alone = by_itself(model, these, [list(row.tokens[:after]), *script], learned)
                logits += alone.logits[1:]
                hidden.append(alone.hidden)
        return total(logits, hidden)

    for mine, theirs in zip(gradients(shared), gradients(whole), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-3, rtol=2e-3)
        assert theirs.abs().max() > 1e-4, "nothing to compare"


def test_under_no_grad_nothing_is_kept_and_detached_is_the_same(vectors):
    model = cached_tiny_model("llava")
    inputs = one_row(model)
    with torch.no_grad():
        assert not Shared.read(model, inputs).keys[0].requires_grad
    shared = Shared.read(model, {**inputs, "pixel_values": inputs["pixel_values"].clone().requires_grad_()})
    assert shared.keys[-1].requires_grad
    assert not shared.detach().keys[-1].requires_grad
    assert shared.length == inputs["input_ids"].shape[1]


@pytest.mark.parametrize(
    "row",
    [Row([1, 2], (0, 1)), Row([1, 2], (1, 3)), Row([1], (1, 1), ((0, [None]),)), Row([1, 2], (1, 2), ((3, [None]),))],
)
def test_a_row_that_cannot_be_scored_is_refused(row, vectors):
    model = cached_tiny_model("llama")
    with pytest.raises(ValueError, match=r"must follow a token|has predictions"), torch.no_grad():
        score_rows(model, Shared.read(model, one_row(model)), [row], vectors)


def test_rows_of_several_lengths_are_written_on_as_the_model_generates_each(model):
    inputs = one_row(model)
    rows = [[11, 12, 13], [40], [41, 42, 43, 44, 45, 46, 47]]
    shared = Shared.read(model, inputs).detach()
    count = 20  # beyond a sliding window
    for row, written in zip(rows, write_rows(model, shared, rows, count), strict=True):
        begun = {}
        for name, value in inputs.items():
            if name == "input_ids":
                begun[name] = torch.cat([value, torch.tensor([row])], dim=1)
            elif value.shape == inputs["input_ids"].shape:
                begun[name] = torch.cat([value, value.new_full((1, len(row)), int(name == "attention_mask"))], dim=1)
            else:
                begun[name] = value
        expected = model.generate(**begun, max_new_tokens=count, do_sample=False)[0, begun["input_ids"].shape[1] :]
        assert written[: len(expected)] == expected.tolist()
