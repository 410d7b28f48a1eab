"""Vectors in the place of a prompt's embeddings: where they go, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch

from checkpoints import tiny_vlm
from helpers import single
from safety_reminder.errors import ModelError
from safety_reminder.models import embedding_weight, token_vectors
from safety_reminder.models.scoring import prompt_hidden
from safety_reminder.models.soft_prompt import replaced_embeddings


def embedded(ids):
    return tiny_vlm().model.get_input_embeddings()(torch.tensor(ids))


def test_the_first_occurrence_in_each_row_is_replaced_and_nothing_else():
    ids = [[9, 5, 6, 7, 5, 6], [5, 6, 9, 9, 9, 9]]
    vectors = torch.randn(2, 32)
    expected = embedded(ids).clone()
    expected[0, 1:3] = vectors
    expected[1, 0:2] = vectors
    with replaced_embeddings(tiny_vlm().model, [5, 6], vectors):
        assert torch.equal(embedded(ids), expected)


def test_only_what_is_embedded_first_is_changed_and_nothing_afterwards():
    ids, weight = [[5, 6, 9]], embedding_weight(tiny_vlm().model).clone()
    plain = embedded(ids)
    with replaced_embeddings(tiny_vlm().model, [5, 6], torch.ones(2, 32)):
        assert not torch.equal(embedded(ids), plain)
        assert torch.equal(embedded(ids), plain)
    assert torch.equal(embedded(ids), plain)
    assert torch.equal(embedding_weight(tiny_vlm().model), weight)


def test_the_gradient_reaches_the_vectors():
    vectors = torch.zeros(2, 32, requires_grad=True)
    with replaced_embeddings(tiny_vlm().model, [5, 6], vectors):
        # Not backward(): the model is shared, and its embeddings would keep a gradient.
        [gradient] = torch.autograd.grad(embedded([[5, 6, 9], [9, 5, 6]]).sum(), vectors)
    assert torch.equal(gradient, torch.full((2, 32), 2.0))


@pytest.mark.parametrize("ids", [[[5, 6, 9], [5, 9, 6]], [[5]]])
def test_a_row_without_the_text_is_an_error(ids):
    with pytest.raises(ModelError, match="prompt"), replaced_embeddings(tiny_vlm().model, [5, 6], torch.ones(2, 32)):
        embedded(ids)


def test_a_prompt_that_was_never_embedded_is_an_error():
    with pytest.raises(ModelError, match="did not embed"):  # noqa: SIM117
        with replaced_embeddings(tiny_vlm().model, [5, 6], torch.ones(2, 32)):
            pass


def test_an_error_inside_is_not_hidden_and_leaves_no_hook():
    with pytest.raises(ValueError, match="mine"), replaced_embeddings(tiny_vlm().model, [5, 6], torch.ones(2, 32)):
        raise ValueError("mine")
    assert not tiny_vlm().model.get_input_embeddings()._forward_hooks


def test_in_every_family_a_text_s_own_embeddings_change_nothing_and_others_do(model):
    inputs = single(model)
    ids = inputs["input_ids"][0, 1:3]
    own = token_vectors(model, ids.tolist())
    plain = prompt_hidden(model, inputs)
    with replaced_embeddings(model, ids.tolist(), own):
        assert torch.equal(prompt_hidden(model, inputs), plain)
    with replaced_embeddings(model, ids.tolist(), own.flip(0) + 1.0):
        assert not torch.allclose(prompt_hidden(model, inputs), plain)
