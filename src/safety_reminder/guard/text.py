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

    def release(self, *, upto: int | None = None, last: bool = False) -> Iterator[Token]:
        """Show the tokens not yet shown, or the first ``upto`` of all, up to the last whole character. ``last``:
        nothing follows, so that half a character is shown as it is.
        """
        halves = 0  # tokens of a character that is not yet whole
        for end in range(self.shown + 1, (len(self.tokens) if upto is None else upto) + 1):
            text = self._text(end, flush=last and end == len(self.tokens))
            if text is None:
                halves += 1
                continue
            for piece in [""] * halves + [text]:
                index = self.shown
                self.pieces.append(piece)
                yield Token(self.tokens[index], piece, index, self.row)
            halves = 0

    def drop(self, count: int) -> Iterator[Retraction]:
        """Forget the last ``count`` tokens, withdrawing those of them that were shown."""
        del self.tokens[len(self.tokens) - count :]
        left = min(self.shown, len(self.tokens))
        if left == self.shown:
            return
        # Of a character whose last token goes, the first ones are withdrawn too, and told anew with what follows.
        while self.tokenizer is not None and left and not self.pieces[left - 1]:
            left -= 1
        withdrawn = self.pieces[left:]
        del self.pieces[left:]
        self._from, self._done = max(0, left - 6), left
        yield Retraction(len(withdrawn), "".join(withdrawn), self.row)

    def say(self, text: str) -> Iterator[Token]:
        """Show ``text``, which did not come from the model, after what was shown."""
        if any(self.pieces):
            text = "\n\n" + text
        if self.tokenizer is None:
            return
        for token in self.tokenizer.encode(text, add_special_tokens=False):
            self.tokens.append(token)
        yield from self.release(last=True)

    def _text(self, end: int, *, flush: bool) -> str | None:
        """What the tokens up to ``end`` add to what is out; None if they end within a character."""
        if self.tokenizer is None:
            return ""
        before = self._decode(self._from, self._done)
        now = self._decode(self._from, end)
        if now.endswith(_INCOMPLETE) and not flush:
            return None
        self._from, self._done = self._done, end
        return now[len(before) :]

    def _decode(self, start: int, end: int) -> str:
        assert self.tokenizer is not None
        return self.tokenizer.decode(
            self.tokens[start:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
