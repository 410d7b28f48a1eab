"""Defences on their seam: what they send to the model, and that they leave everything else alone."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from PIL import Image

from checkpoints import tiny_guarded, tiny_vlm
from safety_reminder.defenses import DEFENSES, load_defense
from safety_reminder.defenses.self_reminder import AFTER, BEFORE
from safety_reminder.errors import ConfigError
from safety_reminder.guard import GuardedVLM

OPTIONS = {"max_new_tokens": 9, "do_sample": False}
IMAGE = Image.new("RGB", (28, 28), "red")
BATCH = [
    [{"role": "user", "content": "Name a river."}],
    [{"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": "What is this?"}]}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": "Name a lake."},
    ],
]


class Recorder(GuardedVLM):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(tiny_vlm())
        self.asked: list = []

    def generate_batch(self, batch, **options):
        self.asked += [copy.deepcopy(list(messages)) for messages in batch]
        assert options.pop("guard") is False
        return super().generate_batch(batch, guard=False, **options)


def timeless(responses):
    return [replace(response, seconds=0.0) for response in responses]


@pytest.mark.parametrize("name", DEFENSES)
def test_a_row_of_a_batch_is_answered_as_alone_and_messages_stay_as_they_are(name):
    defense = load_defense(name, tiny_guarded())
    before = copy.deepcopy(BATCH[:1] + BATCH[2:])
    batch = BATCH[:1] + BATCH[2:]
    together = defense.generate_batch(batch, **OPTIONS)
    alone = [defense.generate_batch([messages], **OPTIONS)[0] for messages in batch]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert batch == before
    assert defense.name == name


@pytest.mark.parametrize(("name", "guard"), [("none", False), ("reminder", True)])
def test_the_ends_of_every_comparison_are_the_guarded_model_s_own_answers(name, guard):
    found = load_defense(name, tiny_guarded()).generate_batch(BATCH[:1], **OPTIONS)
    assert timeless(found) == timeless(tiny_guarded().generate_batch(BATCH[:1], guard=guard, **OPTIONS))


def test_the_system_prompt_comes_first_and_keeps_one_that_is_there():
    model = Recorder()
    load_defense("system_prompt", model, text="Be good.").generate_batch([BATCH[0]], **OPTIONS)
    load_defense("system_prompt", model, text="Be good.").generate_batch([BATCH[2]], **OPTIONS)
    assert model.asked[0] == [{"role": "system", "content": "Be good."}, *BATCH[0]]
    assert model.asked[1] == [{"role": "system", "content": "Be good.\n\nBe brief."}, *BATCH[2][1:]]


def test_self_reminder_stands_around_the_last_request_and_leaves_images_in_place():
    model = Recorder()
    load_defense("self_reminder", model).generate_batch([BATCH[1]], **OPTIONS)
    load_defense("self_reminder", model).generate_batch([BATCH[2]], **OPTIONS)
    system, user = model.asked[0]
    assert system == {"role": "system", "content": BEFORE}
    assert [part["type"] for part in user["content"]] == ["image", "text"]
    assert user["content"][1]["text"] == "What is this?" + AFTER
    assert [m["content"] for m in model.asked[1]] == [
        BEFORE + "\n\nBe brief.",
        "Hello.",
        "Good day.",
        "Name a lake." + AFTER,
    ]


def test_a_request_that_is_only_an_image_gets_its_text_behind_it():
    model = Recorder()
    only = [{"role": "user", "content": [{"type": "image", "image": IMAGE}]}]
    load_defense("self_reminder", model).generate_batch([only], **OPTIONS)
    assert model.asked[0][1]["content"][1] == {"type": "text", "text": AFTER}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("self_remindr", {}, "did you mean 'self_reminder'"),
        ("system_prompt", {"txt": "x"}, "unknown option of defense=system_prompt 'txt'; did you mean 'text'"),
        ("system_prompt", {"text": " "}, "needs a text"),
        ("reminder", {}, "needs a reminder"),
    ],
)
def test_what_cannot_be_loaded_says_why(name, options, message):
    with pytest.raises(ConfigError, match=message):
        load_defense(name, GuardedVLM(tiny_vlm()), **options)
