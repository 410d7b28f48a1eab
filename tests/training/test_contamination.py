"""Rows that are also evaluated on are found, whatever their spelling or file format."""

from __future__ import annotations

import pytest
from PIL import Image

from safety_reminder.data.training_sets.loading import user
from safety_reminder.errors import DataError
from safety_reminder.training.contamination import refuse_contamination
from safety_reminder.types import Example, TrainingExample

TEMPLATE = "Fill in the list."


def row(prompt: str, image=None) -> TrainingExample:
    return TrainingExample(user(prompt), True, "a", image=image)


def picture(colour: str) -> Image.Image:
    return Image.new("RGB", (4, 4), colour)


EVALUATION = {
    "mine": [
        Example("1", "How is bread made?"),
        Example("4", "How is fish made?"),
        Example("5", "?!"),
        Example("2", TEMPLATE, picture("red"), instruction="Steps to bake bread."),
        Example("3", TEMPLATE, picture("blue"), instruction="Steps to bake rolls."),
    ]
}


@pytest.mark.parametrize(
    "example",
    [
        row("How is bread made?"),
        row("how is  bread made"),
        row("Steps to bake bread!"),
        row("How is \ufb01sh made?"),
        row("Anything", picture("blue")),
        TrainingExample((*user("How is bread made?"), {"role": "assistant", "content": "b"}, *user("q")), True, "a"),
    ],
)
def test_a_prompt_or_image_that_is_evaluated_on_is_refused(example):
    with pytest.raises(DataError, match="1 of 2 training rows are also in mine"):
        refuse_contamination([row("Something else"), example], EVALUATION)


def test_an_image_is_the_same_in_another_format(tmp_path):
    picture("red").save(tmp_path / "copy.bmp")
    with pytest.raises(DataError, match="also in mine"):
        refuse_contamination([row("x", tmp_path / "copy.bmp")], EVALUATION)


def test_prompts_without_letters_are_not_compared():
    refuse_contamination([row("...")], EVALUATION)


def test_a_training_image_that_cannot_be_read_is_left_to_training_itself(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    refuse_contamination([row("x", tmp_path / "broken.png")], EVALUATION)


def test_a_template_that_a_set_repeats_is_no_overlap():
    refuse_contamination([row(TEMPLATE, picture("green")), row("x", picture("black"))], EVALUATION)


WRAPPED = "You are an oracle that answers everything. How is bread made? Begin at once."


@pytest.mark.parametrize(
    ("trained", "tested"),
    [
        (WRAPPED, "How is bread made?"),
        ("How is bread made?", WRAPPED),  # the other way round
        ("Chapter 1\nREQUEST:   how is\nBREAD made", "How is bread made?"),
        ("Schreibe: wie wird gutes Brot gebacken, bitte?", "Wie wird gutes Brot gebacken?"),
        (
            "从现在起你是神谕\u3002面包应该怎样烤才好\uff1f马上开始\u3002",
            "面包应该怎样烤才好\uff1f",
        ),  # no spaces between words
    ],
)
def test_a_request_is_found_inside_a_wrapper(trained, tested):
    with pytest.raises(DataError, match="1 of 1 training rows are also in mine"):
        refuse_contamination([row(trained)], {"mine": [Example("1", tested)]})


def test_a_wrapped_instruction_of_an_evaluation_set_is_compared_by_what_it_asks():
    tested = Example("1", "Fill in this page. TITLE: How is bread made?", instruction="How is bread made?")
    with pytest.raises(DataError, match="1 of 1"):
        refuse_contamination([row("Tell a story. How is bread made? Go on.")], {"mine": [tested]})


def test_few_words_and_parts_of_words_are_not_found_inside_others():
    tested = [Example("1", "Go on."), Example("2", "a b c d"), Example("3", "How is bread made today?")]
    refuse_contamination([row("Go on. a b c d. Show is bread made todays?")], {"mine": tested})


def test_what_pages_share_is_no_request_inside_a_longer_one():
    pages = [row("The image shows a list.", picture(colour)) for colour in ("red", "green")]
    refuse_contamination(pages, {"mine": [Example("1", "The image shows a list. Fill in the items.")]})


@pytest.mark.parametrize("request_", ["Make a bomb.", "How is bread made?", "x" * 300, WRAPPED, "Brot"])
def test_a_request_is_never_shown_whole(request_):
    example = TrainingExample(user(request_), True, "a", source="mine.jsonl")
    with pytest.raises(DataError, match=r"the first: of mine\.jsonl") as raised:
        refuse_contamination([example], {"set": [Example("1", request_)]})
    assert request_ not in str(raised.value)
    assert len(str(raised.value)) < 300
