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
