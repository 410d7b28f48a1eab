"""What a row has said, how much of it was shown, and the text of each token as it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from safety_reminder.types import Retraction, Token

_INCOMPLETE = "\ufffd"  # what a tokenizer prints for the first bytes of a character that goes on


class Transcript:
    """The answer tokens of one row. The first ``shown`` of them have been released as :class:`Token` events."""

    def __init__(self, tokenizer: Any | None, row: int) -> None:
        self.tokenizer = tokenizer
        self.row = row
        self.tokens: list[int] = []
        self.pieces: list[str] = []
        self._from = 0  # decoding starts at this token, to see how the next one joins on
        self._done = 0  # tokens whose text is out

    @property
    def shown(self) -> int:
        return len(self.pieces)

    def append(self, token: int) -> None:
        self.tokens.append(token)

    def release(self, *, last: bool = False) -> Iterator[Token]:
        """Show every token not yet shown. ``last``: nothing follows, so half a character is shown as it is."""
        while self.shown < len(self.tokens):
            index = self.shown
            text = self._text(index + 1, flush=last and index + 1 == len(self.tokens))
            self.pieces.append(text)
            yield Token(self.tokens[index], text, index, self.row)

    def drop(self, count: int) -> Iterator[Retraction]:
        """Forget the last ``count`` tokens, withdrawing those of them that were shown."""
        left = len(self.tokens) - count
        withdrawn = self.pieces[left:]
        del self.tokens[left:], self.pieces[left:]
        if withdrawn:
            self._from, self._done = max(0, left - 6), left
            yield Retraction(len(withdrawn), "".join(withdrawn), self.row)

    def say(self, text: str) -> Iterator[Token]:
        """Show ``text``, which did not come from the model, behind what was shown."""
        if any(self.pieces):
            text = "\n\n" + text
        if self.tokenizer is None:
            return
        for token in self.tokenizer.encode(text, add_special_tokens=False):
            self.tokens.append(token)
        yield from self.release(last=True)

    def _text(self, end: int, *, flush: bool) -> str:
        if self.tokenizer is None:
            return ""
        before = self._decode(self._from, self._done)
        now = self._decode(self._from, end)
        if now.endswith(_INCOMPLETE) and not flush:
            return ""
        self._from, self._done = self._done, end
        return now[len(before) :]

    def _decode(self, start: int, end: int) -> str:
        return self.tokenizer.decode(
            self.tokens[start:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
