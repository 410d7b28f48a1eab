"""Text piece by piece: joined, the pieces are what the tokenizer makes of all the tokens at once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints import tiny_vlm
from safety_reminder.guard.text import Transcript
from safety_reminder.types import Retraction, Token

# One to four bytes a character, each byte a token; special tokens; and a byte that is no character at all.
SAMPLE = "a é日😀"


def token_ids() -> list[int]:
    tokenizer = tiny_vlm().tokenizer
    stray = tokenizer.convert_tokens_to_ids("ĩ")  # the byte 0x89 in the byte-level alphabet
    return [*tokenizer.encode(SAMPLE, add_special_tokens=False), stray, 0, 1]


def whole(transcript: Transcript) -> str:
    assert transcript.tokenizer is not None
    return transcript.tokenizer.decode(transcript.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class Screen:
    """What a reader has before them."""

    def __init__(self) -> None:
        self.tokens: list[Token] = []

    def show(self, events) -> None:
        for event in events:
            if isinstance(event, Retraction):
                gone = self.tokens[-event.count :]
                assert event.text == "".join(token.text for token in gone)
                del self.tokens[-event.count :]
            else:
                assert event.index == len(self.tokens)
                self.tokens.append(event)

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


steps = st.lists(
    st.one_of(
        st.integers(0, len(SAMPLE.encode()) + 2).map(lambda i: ("append", i)),
        st.just(("release", 0)),
        st.integers(0, 6).map(lambda i: ("drop", i)),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(steps=steps)
def test_whatever_is_appended_shown_and_withdrawn_the_pieces_join_to_the_whole(steps):
    transcript, screen, ids = Transcript(tiny_vlm().tokenizer, 0), Screen(), token_ids()
    for step, number in steps:
        if step == "append":
            transcript.append(ids[number])
        elif step == "release":
            screen.show(transcript.release())
        else:
            screen.show(transcript.drop(min(number, len(transcript.tokens))))
        assert whole(transcript).startswith(screen.text)
    screen.show(transcript.release(last=True))
    assert screen.text == whole(transcript)
    assert [token.token_id for token in screen.tokens] == transcript.tokens


def test_half_a_character_is_never_shown_before_the_end():
    transcript, screen = Transcript(tiny_vlm().tokenizer, 0), Screen()
    for token in tiny_vlm().tokenizer.encode("é日😀", add_special_tokens=False):
        transcript.append(token)
        screen.show(transcript.release())
        assert "\ufffd" not in screen.text
    assert screen.text == "é日😀"


def test_what_is_said_comes_after_a_blank_line_unless_nothing_was_shown():
    for before, expected in (("", "No."), ("a", "a\n\nNo.")):
        transcript, screen = Transcript(tiny_vlm().tokenizer, 0), Screen()
        for token in tiny_vlm().tokenizer.encode(before, add_special_tokens=False):
            transcript.append(token)
        screen.show(transcript.release())
        screen.show(transcript.say("No."))
        assert screen.text == expected


def test_without_a_tokenizer_tokens_are_shown_without_text():
    transcript, screen = Transcript(None, 0), Screen()
    for token in (5, 6, 7):
        transcript.append(token)
    screen.show(transcript.release())
    screen.show(transcript.drop(1))
    assert ([t.token_id for t in screen.tokens], screen.text) == ([5, 6], "")
