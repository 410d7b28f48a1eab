"""Controls: each differs from the reminder in one thing."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch

from asked import BATCH, DETECTOR_ROWS, OPTIONS, Recorder, asking
from checkpoints import random_reminder, tiny_guarded, tiny_vlm
from safety_reminder.data import BENIGN_TWINS, DETECTOR_REQUESTS, load_detector_rows
from safety_reminder.defenses import hidden_detect, load_defense
from safety_reminder.defenses.hidden_detect import HiddenDetect
from safety_reminder.defenses.random_vectors import at_random
from safety_reminder.errors import ConfigError
from safety_reminder.guard import GuardedVLM

LOUD = {"threshold": 1e-9, "prompt_check": True, "interval": 4}


def guarded(**options) -> GuardedVLM:
    return GuardedVLM(tiny_vlm(), random_reminder(), **options)


def timeless(responses):
    return [replace(response, seconds=0.0) for response in responses]


def test_a_text_is_what_the_model_goes_on_from_and_the_user_never_sees_it():
    loud = guarded(**LOUD, max_interventions=1, policy="continue")
    [found] = load_defense("text_reminder", loud, text="Wait. Is it safe?").respond(asking(BATCH[0]))
    assert [check.kind for check in found.checks][:2] == ["prompt", "periodic"]
    begun = [*BATCH[0], {"role": "assistant", "content": "Wait. Is it safe?"}]
    expected = tiny_guarded().generate(begun, guard=False, **OPTIONS)
    assert found.token_ids[:4] == expected.token_ids[:4]  # the second alarm, after 4 tokens, ends it
    assert "Is it safe" not in found.seen_text
    assert found.checks[0] == load_defense("reminder", loud).respond(asking(BATCH[0]))[0].checks[0]


def test_random_vectors_are_as_long_as_the_learned_ones_and_drawn_from_their_seed():
    learned = random_reminder().vectors
    drawn = at_random(learned, 3)
    assert torch.allclose(drawn.norm(dim=1), learned.norm(dim=1))
    assert torch.equal(drawn, at_random(learned, 3))
    assert not torch.allclose(drawn, at_random(learned, 4))
    loud = guarded(**LOUD, policy="continue")
    found = [load_defense("random_vectors", loud, seed=seed).respond(asking(BATCH[0]))[0] for seed in (3, 4)]
    assert found[0].checks[0] == found[1].checks[0]
    assert found[0].checks[1:] != found[1].checks[1:]


def test_the_probe_alone_says_the_fixed_refusal():
    [found] = load_defense("probe_only", guarded(**LOUD)).respond(asking(BATCH[0]))
    assert (found.finish_reason, found.text) == ("guard", "I'm sorry, but I can't help with that.")
    assert [i.policy for i in found.interventions] == ["stop"]


@pytest.mark.parametrize(
    ("when", "kinds"),
    [("prompt", {"prompt"}), ("periodic", {"periodic", "final"}), ("both", {"prompt", "periodic", "final"})],
)
def test_checks_are_made_where_they_are_asked_for(when, kinds):
    silent = GuardedVLM(tiny_vlm(), random_reminder(), threshold=1.0, interval=4)
    [found] = load_defense("checks_at", silent, when=when).respond(asking(BATCH[0]))
    assert {check.kind for check in found.checks} == kinds
    assert found.token_ids == tiny_guarded().generate(BATCH[0], guard=False, **OPTIONS).token_ids


@pytest.mark.parametrize(
    ("name", "guard", "options", "message"),
    [
        ("text_reminder", {"policy": "stop"}, {}, "under policy=stop nothing does"),
        ("random_vectors", {"policy": "monitor"}, {}, "under policy=monitor nothing does"),
        ("text_reminder", {}, {"text": " \n"}, "needs a text"),
        ("text_reminder", {}, {"text": f"Wait.{tiny_vlm().tokenizer.eos_token}"}, "spells special tokens"),
        ("random_vectors", {}, {"seed": -1}, "seed must be a whole number"),
        ("checks_at", {}, {"when": "promt"}, "did you mean 'prompt'"),
        ("checks_at", {"final_check": False}, {"when": "periodic"}, "leave final_check=False out"),
        ("probe_only", {"policy": "continue"}, {}, "leave policy='continue' out"),
        ("hidden_detect", {}, {"rows": DETECTOR_ROWS[:1]}, "got 1 harmful and 0 . 0 harmless"),
        ("hidden_detect", {}, {"rows": DETECTOR_ROWS}, "19 that calibrate .* got 2 harmful and 5 . 5 harmless"),
        ("hidden_detect", {}, {"rows": "mine.csv"}, "no rows can be had by name"),
    ],
)
def test_what_would_be_another_guard_than_was_asked_for_is_refused(name, guard, options, message):
    with pytest.raises(ConfigError, match=message):
        load_defense(name, guarded(**guard), **options)


@pytest.fixture(scope="module")
def detector() -> HiddenDetect:
    return HiddenDetect(GuardedVLM(tiny_vlm()), DETECTOR_ROWS, 0.3)


def test_the_refusal_words_are_compared_with_what_each_layer_would_say(detector):
    vlm = tiny_vlm()
    inputs = vlm.encode(BATCH[:1])
    with torch.no_grad():
        outputs = vlm.model(**inputs, output_hidden_states=True)
        heard = [vlm.model.get_decoder().norm(state) for state in outputs.hidden_states[1:-1]]
        logits = [vlm.model.get_output_embeddings()(state)[0, -1] for state in heard] + [outputs.logits[0, -1]]
    refusal = torch.zeros(len(logits[0]))
    words = [vlm.tokenizer(w, add_special_tokens=False)["input_ids"] for w in ("Sorry", " sorry", "Cannot")]
    refusal[[ids[0] for ids in words if len(ids) == 1]] = 1
    assert set(refusal.nonzero()) <= set(detector._refusal_vector.nonzero())
    cosines = torch.stack([torch.cosine_similarity(x, detector._refusal_vector, dim=0) for x in logits])
    first, last = detector.layers
    expected = cosines[first] if first == last else torch.trapezoid(cosines[first : last + 1])
    assert detector.scores(inputs).item() == pytest.approx(expected.item(), abs=1e-5)


def test_layers_that_differ_more_than_the_last_are_taken_with_all_between_them():
    safe = torch.zeros(2, 5)
    assert hidden_detect._aware(torch.tensor([[0.0, 0.3, 0.1, 0.4, 0.2]]), safe) == (1, 3)
    assert hidden_detect._aware(torch.tensor([[0.0, 0.1, 0.1, 0.1, 0.2]]), safe) == (4, 4)


def test_a_score_above_those_of_harmless_rows_is_refused_before_anything_is_written(detector, monkeypatch):
    rows = asking(*BATCH)
    highest = detector._harmless.max()
    scores = torch.tensor([highest + 1, detector._harmless.min() - 1, torch.nan])
    monkeypatch.setattr(HiddenDetect, "scores", lambda self, inputs: scores)
    model = detector._guarded = Recorder()
    high, low, broken = detector.respond(rows)
    assert model.asked == [BATCH[1]]
    assert (high.text, high.finish_reason) == ("I'm sorry, but I can't help with that.", "guard")
    assert high.checks[0].p_unsafe == pytest.approx(1 - 1 / 6)
    assert (low.checks[0].p_unsafe, low.checks[0].unsafe) == (0.0, False)
    assert broken.finish_reason == "guard_error"


def test_nothing_is_evaluated_on_the_requests_that_detectors_learn_from():
    def asked(path):
        rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        return {(row.get("instruction") or row.get("prompt") or "").strip(" .?").lower() for row in rows}

    shipped = asked(DETECTOR_REQUESTS)
    assert len(shipped) == 56
    for path in BENIGN_TWINS.parent.glob("*.csv"):
        if path != DETECTOR_REQUESTS:
            assert not shipped & asked(path), path
    rows = load_detector_rows("shipped")
    parts = hidden_detect._parts(rows)
    assert [len(part) for part in parts] == [16, 20, 20]
    for part in parts:  # pages and text in each, and requests near harm among the harmless ones
        assert 0.3 < sum(row.image is not None for row in part) / len(part) < 0.7
        assert len({row.category for row in part}) >= 2
