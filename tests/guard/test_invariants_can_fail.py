"""Each invariant notices when what it guards is broken on purpose."""

from __future__ import annotations

import pytest
import torch

from guard import test_invariants as invariants
from helpers import cached_tiny_model
from safety_reminder.guard.answer import Answer
from safety_reminder.guard.decoding import _Decoder
from safety_reminder.guard.sampling import Sampler
from safety_reminder.models import context as context_module
from safety_reminder.models import prefix as prefix_module
from safety_reminder.models.context import Context, Runner
from safety_reminder.types import Check


def must_fail(test, *arguments) -> None:
    with pytest.raises(AssertionError):
        test(*arguments)


def test_a_skipped_crop_is_noticed(monkeypatch):
    monkeypatch.setattr(Context, "crop", lambda self, count: None)
    model = cached_tiny_model("llama")
    must_fail(invariants.test_a_guard_that_never_fires_leaves_greedy_answers_as_they_are, model, "exact")
    must_fail(invariants.test_in_exact_mode_the_logits_of_an_untriggered_answer_are_bit_identical, model)
    must_fail(invariants.test_after_roll_back_the_cache_is_one_that_never_saw_the_reminder, model)
    must_fail(invariants.test_a_check_on_the_cache_equals_one_computed_from_scratch, model, "fused")


def test_a_crop_that_forgets_the_positions_is_noticed(monkeypatch):
    crop = Context.crop

    def forgetful(self, count):
        position = self.position
        crop(self, count)
        self.position = position

    monkeypatch.setattr(Context, "crop", forgetful)
    model = cached_tiny_model("qwen2_vl")
    must_fail(invariants.test_a_guard_that_never_fires_leaves_greedy_answers_as_they_are, model, "exact")
    must_fail(invariants.test_after_roll_back_the_cache_is_one_that_never_saw_the_reminder, model)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_a_wrong_mrope_offset_is_noticed(monkeypatch, family):
    def plain_counting(last, count):
        # As if images did not compress positions: every axis continues from the first, the text's.
        return last[:1].expand_as(last) + torch.arange(1, count + 1)

    monkeypatch.setattr(context_module, "next_positions", plain_counting)
    model = cached_tiny_model(family)
    must_fail(invariants.test_positions_of_the_reminder_and_of_what_follows_are_the_model_s_own, model)
    must_fail(invariants.test_a_check_on_the_cache_equals_one_computed_from_scratch, model, "exact")


@pytest.mark.parametrize("family", ["llama", "llava", "gemma3"])
def test_attended_padding_is_noticed(monkeypatch, family):
    append = Runner.append

    def careless(self, context, *what):
        if context.mask is not None:
            context.mask = torch.ones_like(context.mask)
        return append(self, context, *what)

    monkeypatch.setattr(Runner, "append", careless)
    model = cached_tiny_model(family)
    must_fail(invariants.test_a_batch_gives_every_row_what_it_gets_alone, model, "continue")


def test_checked_finished_rows_are_noticed(monkeypatch):
    close = Answer._close

    def zombie(self):
        return [*close(self), Check(self.written, 0.0, False, "periodic", self.row)]

    monkeypatch.setattr(Answer, "_close", zombie)
    must_fail(invariants.test_rows_that_have_finished_are_not_checked_again, cached_tiny_model("llama"))


def test_a_reminder_in_the_wrong_place_is_noticed(monkeypatch):
    monkeypatch.setattr(context_module, "next_positions", lambda last, count: last + torch.arange(2, count + 2))
    model = cached_tiny_model("llava")
    must_fail(invariants.test_a_check_on_the_cache_equals_one_computed_from_scratch, model, "exact")
    must_fail(invariants.test_training_reads_the_reminder_exactly_where_decoding_does, model)


def test_a_reminder_in_the_wrong_place_of_training_alone_is_noticed(monkeypatch):
    monkeypatch.setattr(prefix_module, "next_positions", lambda last, count: last + torch.arange(2, count + 2))
    model = cached_tiny_model("llava")
    must_fail(invariants.test_training_reads_the_reminder_exactly_where_decoding_does, model)
    must_fail(invariants.test_a_script_over_a_prefix_and_over_the_whole_sequence_is_the_same, model)


def test_a_rewind_that_keeps_the_rejected_text_is_noticed(monkeypatch):
    def keep(self, lane):
        lane.follow_answers()

    monkeypatch.setattr(_Decoder, "rewind", keep)
    model = cached_tiny_model("llama")
    must_fail(
        invariants.test_after_an_intervention_the_model_goes_on_as_from_the_same_text_with_the_reminder_in_it,
        model,
        "rewind",
    )


def test_random_numbers_that_depend_on_batch_mates_are_noticed(monkeypatch):
    call = Sampler.__call__
    monkeypatch.setattr(Sampler, "__call__", lambda self, scores, rows, *, whole: call(self, scores, rows, whole=False))
    model = cached_tiny_model("llama")
    must_fail(invariants.test_a_guard_that_never_fires_leaves_sampled_answers_as_they_are, model)


def test_the_invariants_hold_when_nothing_is_broken():
    model = cached_tiny_model("llama")
    invariants.test_a_guard_that_never_fires_leaves_sampled_answers_as_they_are(model)
    invariants.test_a_batch_gives_every_row_what_it_gets_alone(model, "continue")
