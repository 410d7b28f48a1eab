"""What is measured along an answer is what plain forward passes over everything give."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from checkpoints import tiny_vlm
from helpers import REMINDER_IDS, extended, random_probe, recomputed_hidden, reminder_of_tokens, single
from safety_reminder.analysis.awareness import OPENERS, measure, read_after, refusal_openers, self_correction
from safety_reminder.analysis.curves import Outcome
from safety_reminder.errors import GuardFailure, ModelError
from safety_reminder.guard import Probe
from safety_reminder.models.prefix import Prefix
from safety_reminder.types import Example, Record

EXAMPLE = Example("a", "Filler?", image=Image.new("RGB", (8, 8), (90, 20, 0)))
TEXT = "One step. I'm sorry, but I can't help with that."


@pytest.fixture(scope="module")
def vlm():
    return tiny_vlm()


@pytest.fixture(scope="module")
def reminder(vlm):
    return reminder_of_tokens(vlm.model, random_probe(vlm.model))


def ids(vlm, text: str) -> list[int]:
    return vlm.tokenizer(text, add_special_tokens=False)["input_ids"]


def record(vlm, text: str, *, end: bool = False, **changes) -> Record:
    tokens = (*ids(vlm, text), *((1,) if end else ()))
    empty = {"checks": (), "interventions": (), "leaked_tokens": 0, "tail_start": 0, "seconds": 0.0, "batch": ("a",)}
    fields = {
        "id": "a", "prompt": "Filler?", "harmful": True, "category": "", "image_sha256": None, "prompt_tokens": 1,
        "text": text, "seen_text": text, "token_ids": tokens, "finish_reason": "stop", "guard": False, **empty,
    }  # fmt: skip
    return Record(**(fields | changes))


@torch.no_grad()
def log_p(model, inputs, before: list[int], run) -> float:
    """log p(run | prompt, before), token by token, each from a pass of its own without a cache."""
    total = 0.0
    for i, token in enumerate(run):
        logits = model(**extended(inputs, [*before, *run[:i]]), use_cache=False).logits[0, -1]
        total += float(logits.float().log_softmax(-1)[token])
    return total


@pytest.fixture(scope="module")
def plain_log_p(vlm):
    """The same for the example, each once however often it is asked for."""
    inputs, known = vlm.encode([EXAMPLE.messages()]), {}

    def look_up(before: list[int], run: list[int]) -> float:
        key = (*before, None, *run)
        if key not in known:
            known[key] = log_p(vlm.model, inputs, before, run)
        return known[key]

    return look_up


def log_sum(values) -> float:
    return math.log(sum(math.exp(value) for value in values))


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_the_measures_are_those_of_plain_forward_passes(vlm, reminder, plain_log_p, rows):
    answer = [*ids(vlm, TEXT), 1]
    points = measure(vlm, reminder, EXAMPLE, answer, step=20, rows=rows)
    assert [point.depth for point in points] == [0, 20, 40]
    inputs = vlm.encode([EXAMPLE.messages()])
    for point in points:
        d = point.depth
        hidden = recomputed_hidden(vlm.model, inputs, answer[:d] + REMINDER_IDS)
        assert point.p_unsafe == pytest.approx(float(reminder.probe(hidden)), abs=1e-4)
        openers = [ids(vlm, (" " if d else "") + opener) for opener in OPENERS]
        for before, log_p_refusal, log_odds in (
            (answer[:d], point.log_p_refusal, point.refusal_log_odds),
            (answer[:d] + REMINDER_IDS, point.log_p_refusal_reminded, point.refusal_log_odds_reminded),
        ):
            of_openers = [plain_log_p(before, opener) for opener in openers]
            of_answer = [plain_log_p(before, answer[d : d + len(opener)]) for opener in openers]
            ratios = [o - a for o, a in zip(of_openers, of_answer, strict=True)]
            assert log_p_refusal == pytest.approx(log_sum(of_openers), abs=1e-4)
            assert log_odds == pytest.approx(log_sum(ratios), abs=1e-4)


def test_the_reminder_makes_a_difference(vlm, reminder):
    points = measure(vlm, reminder, EXAMPLE, [*ids(vlm, TEXT), 1], step=20)
    assert all(abs(point.log_p_refusal - point.log_p_refusal_reminded) > 0.01 for point in points)


def test_an_answer_that_refuses_itself_has_log_odds_above_zero(vlm, reminder):
    answer = [*ids(vlm, TEXT), 1]
    point = measure(vlm, reminder, EXAMPLE, answer, step=len("One step."))[1]
    assert point.refusal_log_odds is not None
    assert point.refusal_log_odds > 0


def test_every_family_reads_after_an_answer_what_it_computes_from_scratch(model):
    inputs = single(model)
    answer = [40, 41, 42, 43, 44]
    runs = {(7,), (5, 6, 7), (5, 6, 8), (9, 6, 7)}
    reminder = reminder_of_tokens(model)
    prefix = Prefix.read(model, inputs, answer)
    for vectors, between in ((None, []), (reminder.vectors, REMINDER_IDS)):
        found = read_after(model, prefix, dict.fromkeys((0, 3, 5), runs), vectors, rows=4)
        for depth, after in found.items():
            assert set(after.log_p) == runs
            for run, value in after.log_p.items():
                assert value == pytest.approx(log_p(model, inputs, answer[:depth] + between, run), abs=1e-4)
            assert (after.hidden is None) == (vectors is None)


def test_log_odds_are_missing_where_the_answer_was_cut_off_and_there_where_it_ended(vlm, reminder):
    answer = ids(vlm, "k" * 40)
    cut = measure(vlm, reminder, EXAMPLE, answer, step=10)
    ended = measure(vlm, reminder, EXAMPLE, [*answer, 1], step=10)
    longest = max(map(len, OPENERS)) + 1  # a byte is a token here, and a space comes before
    assert [point.depth for point in cut] == [point.depth for point in ended] == [0, 10, 20, 30, 40]
    assert [point.refusal_log_odds is None for point in cut] == [40 - d < longest for d in (0, 10, 20, 30, 40)]
    assert all(point.refusal_log_odds is not None for point in ended)
    assert [point.p_unsafe for point in cut] == pytest.approx([point.p_unsafe for point in ended])
    # At the end, a refusal stands against ending there.
    inputs = vlm.encode([EXAMPLE.messages()])
    end = log_p(vlm.model, inputs, answer, [1])
    assert ended[-1].refusal_log_odds == pytest.approx(ended[-1].log_p_refusal - end, abs=1e-4)


def test_an_empty_answer_is_measured_at_its_beginning(vlm, reminder):
    points = measure(vlm, reminder, EXAMPLE, [1], step=8)
    assert [point.depth for point in points] == [0]
    assert points[0].refusal_log_odds is not None


def test_a_probe_that_gives_no_number_is_an_error(vlm, reminder):
    broken = replace(reminder, probe=Probe(torch.full((32,), 3e38), 0.0))
    with pytest.raises(GuardFailure, match="example 'a': the probe gives no number after 0 tokens"):
        measure(vlm, broken, EXAMPLE, ids(vlm, "kk"), step=8)


def test_openers_join_on_to_the_text_before_them(vlm):
    said = lambda text: [vlm.tokenizer.decode(list(o)) for o in refusal_openers(vlm, ids(vlm, text))]  # noqa: E731
    assert said("") == said("One.\n") == list(OPENERS)
    assert said("One") == [" " + opener for opener in OPENERS]


def test_an_opener_that_begins_with_another_is_counted_once(vlm, monkeypatch):
    monkeypatch.setattr("safety_reminder.analysis.awareness.OPENERS", ("I can", "I can't", "Sorry"))
    assert refusal_openers(vlm, []) == [tuple(ids(vlm, "I can")), tuple(ids(vlm, "Sorry"))]


def test_a_tokenizer_that_merges_openers_with_what_comes_before_is_refused(vlm, monkeypatch):
    class Merging:
        def __call__(self, text, **options):
            return {"input_ids": [0] if text.startswith(".") else [ord(c) for c in text]}

        def decode(self, tokens, **options):
            return "".join(map(chr, tokens))

    monkeypatch.setattr(vlm, "tokenizer", Merging())
    with pytest.raises(ModelError, match='does not keep "I\'m sorry" apart from the text before it'):
        refusal_openers(vlm, [65])


def test_a_self_correction_is_found_in_tokens(vlm):
    text = "1. Mix it.\n2. Café. I'm sorry, but I can't help with that."
    found = self_correction(vlm, record(vlm, text, end=True))
    # A byte is a token here, and é has two.
    assert found == Outcome("a", True, len(text) + 2, True, text.index("I'm") + 1)
    tokens = record(vlm, text).token_ids
    assert vlm.tokenizer.decode(tokens[found.correction :]) == "I'm sorry, but I can't help with that."


def test_a_self_correction_may_break_off_a_sentence(vlm):
    text = "Here are steps:\n1. Gather the things that I'm sorry, but I can't help with that."
    assert self_correction(vlm, record(vlm, text)).correction == text.index("I'm")


@pytest.mark.parametrize(
    ("text", "engaged"),
    [("I'm sorry, but I can't help with that.", False), ("Here is one. And two.", True), ("", False)],
)
def test_other_answers_have_no_self_correction(vlm, text, engaged):
    found = self_correction(vlm, record(vlm, text))
    assert (found.engaged, found.correction) == (engaged, None)
