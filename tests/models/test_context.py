"""The KV context by itself: what may be taken back, how rows leave, what a pass costs, and that shapes are checked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from jaxtyping import TypeCheckError

from helpers import cached_tiny_model, single
from safety_reminder.errors import ModelError
from safety_reminder.guard import Probe
from safety_reminder.models.context import Runner, final_hidden_states, prepare, rows_with_images
from safety_reminder.models.positions import next_positions
from safety_reminder.models.tiny import tiny_inputs, tiny_model

VECTORS = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def opened(model, lengths=(9,)):
    runner = Runner(model)
    context, logits = runner.prefill(*prepare(model, tiny_inputs(model, lengths)), roll_back=True)
    return runner, context, logits


@torch.no_grad()
def test_rows_that_leave_go_on_as_if_they_had_been_alone(model):
    runner, context, _ = opened(model, (9, 14, 5))
    chosen = context.select([2, 0])
    assert (chosen.rows, context.rows) == (2, 3)
    found = runner.append(chosen, torch.tensor([[17], [23]]), VECTORS)
    for place, (seed, length, token) in enumerate([(2, 5, 17), (0, 9, 23)]):
        alone = Runner(model)
        inputs = tiny_inputs(model, (length,), seed=seed)
        other, _ = alone.prefill(*prepare(model, inputs), roll_back=True)
        expected = alone.append(other, torch.tensor([[token]]), VECTORS)
        for name in ("first", "last", "hidden"):
            assert torch.allclose(getattr(found, name)[place], getattr(expected, name)[0], atol=1e-4)


@torch.no_grad()
def test_all_rows_are_the_context_itself():
    _, context, _ = opened(cached_tiny_model("llama"), (9, 14))
    assert context.select([0, 1]) is context


@torch.no_grad()
def test_only_a_window_that_slides_cannot_be_taken_back_beyond_the_last_crop():
    for family, beyond in (("llama", True), ("gemma3", False)):
        runner, context, _ = opened(cached_tiny_model(family))
        start = context.entries
        for token in range(5):
            runner.append(context, torch.tensor([[token + 3]]))
        assert context.reaches(start)
        context.crop(0)  # what a check that was passed does
        assert context.reaches(start) is beyond
        assert context.reaches(context.entries)


@torch.no_grad()
def test_logits_after_the_token_do_not_depend_on_what_follows_it(model):
    runner, context, _ = opened(model, (9, 14))
    tokens = torch.tensor([[17], [23]])
    fused = runner.append(context, tokens, VECTORS)
    context.crop(4)
    apart = runner.append(context, tokens)
    assert torch.allclose(fused.first, apart.last, atol=1e-4)
    assert apart.hidden is None
    reminded = runner.append(context, None, VECTORS)
    assert torch.allclose(fused.last, reminded.last, atol=1e-4)
    assert fused.hidden is not None
    assert reminded.hidden is not None
    assert torch.allclose(fused.hidden, reminded.hidden, atol=1e-4)


@torch.no_grad()
def test_final_hidden_states_are_what_the_model_calls_its_last(model):
    inputs = single(model)
    with final_hidden_states(model) as states:
        model(**inputs)
    expected = model(**inputs, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(states[0], expected)


def test_a_model_that_does_not_run_its_output_embedding_is_told():
    with (
        pytest.raises(ModelError, match="does not run its output embedding"),
        final_hidden_states(cached_tiny_model("llama")),
    ):
        pass


def test_a_pass_of_another_thread_is_not_taken_for_one_s_own():
    from concurrent.futures import ThreadPoolExecutor

    model = cached_tiny_model("llama")
    inputs = single(model)
    with final_hidden_states(model) as states:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: model(**inputs)).result()
        assert states == []
        model(**inputs)
    assert len(states) == 1


def test_shapes_in_signatures_are_checked_in_tests():
    with pytest.raises(TypeCheckError):
        next_positions(torch.zeros(2, 3, dtype=torch.long), 2)
    with pytest.raises(TypeCheckError):
        next_positions(torch.zeros(2, 1), 2)
    with pytest.raises(TypeCheckError):
        Probe(torch.zeros(4)).logit(torch.zeros(2, 4, dtype=torch.long))


@torch.no_grad()
def test_a_model_that_would_forget_its_cache_where_positions_are_scaled_is_stopped():
    """Phi-3 and Phi-4 read everything anew from a length on that their configuration names."""
    model = tiny_model("phi3")
    model.config.original_max_position_embeddings = 11
    runner, context, _ = opened(model)
    runner.append(context, torch.tensor([[17]]))
    with pytest.raises(ModelError, match="reads everything anew from 12 tokens on"):
        runner.append(
            context,
            torch.tensor(
                [
                    [23],
                ]
            ),
            VECTORS[:1],
        )


def test_the_rows_that_show_an_image_are_known(model, family):
    inputs = tiny_inputs(model, (9, 14))
    sees = getattr(model.config, "vision_config", None) is not None
    assert rows_with_images(model, inputs["input_ids"]) == [sees] * 2
    assert rows_with_images(model, torch.full((3, 4), 5)) == [False] * 3


def test_a_model_that_does_not_say_where_images_stand_has_no_threshold_for_them():
    model = SimpleNamespace(config=SimpleNamespace(vision_config=object()))
    with pytest.raises(ModelError, match="does not say which token stands for an image"):
        rows_with_images(model, torch.full((3, 4), 5))
