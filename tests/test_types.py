"""An example's conversation."""

from __future__ import annotations

from safety_reminder.types import Example

TURNS = (("user", "Hello."), ("assistant", "Good day."))


def text(words: str) -> dict:
    return {"type": "text", "text": words}


IMAGE = {"type": "image", "image": "red.png"}


def test_a_plain_example_is_one_user_message():
    assert Example("a", "Why?").messages() == [{"role": "user", "content": [text("Why?")]}]
    assert Example("a", "Why?", "red.png").messages() == [{"role": "user", "content": [IMAGE, text("Why?")]}]


def test_system_prompt_turns_request_and_prefill_come_in_order():
    example = Example("a", "Why?", system="Be brief.", turns=TURNS, prefill="Because")
    assert example.messages() == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [text("Hello.")]},
        {"role": "assistant", "content": [text("Good day.")]},
        {"role": "user", "content": [text("Why?")]},
        {"role": "assistant", "content": "Because"},
    ]


def test_the_image_belongs_to_the_first_user_message():
    contents = [m["content"] for m in Example("a", "Why?", "red.png", turns=TURNS).messages()]
    assert contents == [[IMAGE, text("Hello.")], [text("Good day.")], [text("Why?")]]
    after_a_greeting = Example("a", "Why?", "red.png", turns=TURNS[1:]).messages()
    assert [m["content"] for m in after_a_greeting] == [[text("Good day.")], [IMAGE, text("Why?")]]
