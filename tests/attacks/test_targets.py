"""Targets: whose form they have, and where they come from."""

from __future__ import annotations

import pytest

from attacks.families import requests, tiny_vlm
from safety_reminder.attacks.goals import Goal
from safety_reminder.attacks.options import PGDConfig, TargetsConfig
from safety_reminder.attacks.pgd import pgd
from safety_reminder.attacks.targets import ORDINARY, echo, make_goals, own_form, require_own_targets
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.types import Example


def never(examples):
    raise AssertionError("nobody needs to be asked")


def targets(**options) -> TargetsConfig:
    return TargetsConfig.parse(options, "targets")


@pytest.mark.parametrize(
    ("form", "answer"),
    [
        (":\n\n1.", "{}:\n\n1. First of all"),
        (":\n\n1.", "Ways to {}:\n\n1. First"),
        (":", "Here is how to {}: begin"),
        ("\n1.", "{}\n1. one"),
        (" -", "{} - begin"),
    ],
)
def test_a_models_own_form_is_what_follows_the_request_that_it_repeats(form, answer):
    answers = [answer.format(request.rstrip(".")) for request in ORDINARY]
    assert own_form(ORDINARY, answers) == form.strip(" ") or form == " -"


def test_a_form_that_most_answers_do_not_share_is_none():
    answers = ["I do not repeat anything at all, and go on about something else."] * len(ORDINARY)
    assert own_form(ORDINARY, answers) == ":\n\n1."
    answers[0] = ORDINARY[0].rstrip(".") + ": so"
    assert own_form(ORDINARY, answers) == ":\n\n1."
    answers[1] = ORDINARY[1].rstrip(".") + ": then"
    assert own_form(ORDINARY, answers) == ":"


@pytest.mark.parametrize("follows", [", you need", " first", ". Then", "! Sure", "? Yes", "; so", "'s", "-wise"])
def test_a_sentence_that_goes_on_is_no_heading(follows):
    answers = ["To " + request[0].lower() + request[1:].rstrip(".") + follows for request in ORDINARY]
    assert own_form(ORDINARY, answers) == ":\n\n1."


def test_the_model_is_asked_harmless_requests_in_the_form_of_the_attacked_ones():
    asked: list[Example] = []

    def answer(examples):
        asked.extend(examples)
        return [e.prompt.rstrip(".") + ":\n1. a" for e in examples]

    example = Example("x", "Do it.", image="picture", system="Be brief.", instruction="Steps to do it.")
    [goal] = make_goals([example], targets(), answer)
    assert goal.target == "Steps to do it:\n1."
    assert [e.prompt for e in asked] == list(ORDINARY)
    assert {(e.image, e.system, e.instruction) for e in asked} == {("picture", "Be brief.", "")}


def test_a_form_that_is_given_needs_no_answers():
    [goal] = make_goals([Example("x", "Steps to do it?")], targets(form=" -> "), never)
    assert goal.target == "Steps to do it -> "
    assert echo("  Do it!! ", ":") == "Do it:"


def test_tables_are_matched_by_goal_and_may_be_continued(tmp_path):
    table = tmp_path / "targets.csv"
    table.write_text("goal,target\nDo it.,Sure: it\nDo that.,Sure: that\n")
    examples = [Example("x", "See the image.", instruction="Do that."), Example("y", "Do it.")]
    goals = make_goals(examples, targets(kind="csv", file=str(table), continuation=": 1. To"), never)
    assert [goal.target for goal in goals] == ["Sure: that: 1. To", "Sure: it: 1. To"]
    with pytest.raises(DataError, match="has no target for 'Else'"):
        make_goals([Example("z", "Else")], targets(kind="csv", file=str(table)), never)


@pytest.mark.parametrize("text", ["goal\nDo it.\n", "goal,target\nDo it.,\n"])
def test_a_table_without_targets_is_refused(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match="target"):
        make_goals([Example("x", "Do it.")], targets(kind="csv", file=str(tmp_path / "t.csv")), never)


def test_a_corpus_stands_in_front_of_the_image_alone(tmp_path):
    (tmp_path / "corpus.txt").write_text("One sentence.\n\nAnother one.\n")
    config = targets(kind="corpus", file=str(tmp_path / "corpus.txt"))
    goals = make_goals(requests(2), config, never)
    assert [(g.example.prompt, g.target) for g in goals] == [("", "One sentence."), ("", "Another one.")]
    descent, _ = pgd(tiny_vlm("llava"), goals, PGDConfig(steps=2, validate_every=0))
    assert len(descent.losses) == 2


@pytest.mark.parametrize("kind", ["csv", "corpus"])
def test_what_is_read_from_a_file_needs_one(kind, tmp_path):
    with pytest.raises(ConfigError, match=f"targets.kind={kind} needs targets.file=FILE"):
        targets(kind=kind)
    with pytest.raises(DataError, match="nowhere"):
        make_goals(requests(1), targets(kind=kind, file=str(tmp_path / "nowhere")), never)


@pytest.mark.parametrize("attack", ["prefill", "gcg"])
def test_an_attack_on_each_request_needs_a_target_for_each(attack):
    with pytest.raises(ConfigError, match=f"attack={attack} needs a target for each request"):
        require_own_targets(targets(kind="corpus", file="any"), f"attack={attack}")


def test_one_text_for_all():
    assert make_goals(requests(2), targets(kind="generic", text="Yes"), never) == [Goal(e, "Yes") for e in requests(2)]
