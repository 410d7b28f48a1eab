"""Text as a reader takes it: without markup, invisible characters and odd spellings of apostrophes and spaces.

What rules look for is then written in one way only. Every character of the plain text knows its place in the original.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_APOSTROPHES = "’‘‛ʼʻʹʽˈ′‵´＇ꞌ՚"
_QUOTES = "“”„‟«»″＂"
_LINES = "\u0085\u2028\u2029\v\f"
_SAME = dict.fromkeys(_APOSTROPHES, "'") | dict.fromkeys(_QUOTES, '"') | dict.fromkeys(_LINES, "\n")
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180e\u3164\uffa0")  # beside those that Unicode calls formats
_ODD = re.compile(r"[^\x00-\x7f]|[\v\f]")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,8});")
_BREAKING = re.compile(r"(?i)</?(?:br|p|div|li|[ou]l|h[1-6]|tr|table|blockquote)\b[^<>]*>")
_MARKUP = re.compile(
    r"(?m)</?[a-zA-Z][^<>\n]{0,200}>|^[ \t]*(?:>[ \t]?)+|^ {0,3}#{1,6}[ \t]+|(?P<bullet>^[ \t]*[*+•][ \t]+)"
    r"|\[(?=[^\[\]\n]{0,200}\]\([^()\s]*\))|(?<=[^\s\[])\]\([^()\s]*\)"
    r"|\\(?=[^\w\s])|\*+|~~[^~\n]{1,200}~~|(?<![a-zA-Z])`+|`+(?!(?:t|m|s|d|re|ve|ll)\b)|(?<![^\W_])_+|_+(?![^\W_])"
)
_WRAPPED = re.compile(r"(?<=[a-zA-Z,'])[ \t]*\r?\n[ \t]*(?=[a-z])")
_BREAKS = re.compile(r"\r\n?")
_SPACES = re.compile(r"[ \t]{2,}|\t| +(?=\n)")
_NOT = "ca|wo|do|does|did|is|are|was|were|should|must|would|could|have|has|had"
# What typists leave out of contractions, and what tokenisers put into them.
_CONTRACTIONS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(rf"\b({_NOT})(?!n't\b) ?n ?'{{0,2}} ?t\b"), lambda m: f"{m[1]}n't"),
    (re.compile(r"\b(i|we|you|they|he|she|it|that) '(m|re|ve|ll|d|s)\b"), lambda m: f"{m[1]}'{m[2]}"),
    (re.compile(r"\b(i)(m|ve)\b"), lambda m: f"{m[1]}'{m[2]}"),
    (re.compile(r"\bgonna\b"), lambda m: "going to"),
    (re.compile(r"(?<=\bi) ain't\b"), lambda m: "'m not"),
    (re.compile(r" (?=[,.;:!?])"), lambda m: ""),
)


@dataclass(frozen=True)
class PlainText:
    """``text``, and for each of its characters and for its end, where that stood in the original."""

    text: str
    places: Sequence[int]

    def sub(self, pattern: re.Pattern[str], instead: Callable[[re.Match[str]], str]) -> PlainText:
        """With what ``pattern`` finds replaced. A replacement stands where what it replaces began."""
        pieces, places, at = [], [], 0
        for match in pattern.finditer(self.text):
            new = instead(match)
            pieces += [self.text[at : match.start()], new]
            places += [*self.places[at : match.start()], *[self.places[match.start()]] * len(new)]
            at = match.end()
        if not at:
            return self
        return PlainText("".join([*pieces, self.text[at:]]), [*places, *self.places[at:]])


def plain_text(text: str) -> PlainText:
    """``text`` in lower case, less what only its looks depend on.

    As :func:`unmarked`; besides, a line that was only wrapped goes on, and contractions get the apostrophes that they
    lack (``cant``, ``ca n't``). What stands for a letter by its shape alone, as in ``h3lp``, is left.
    """
    plain = unmarked(text).sub(_WRAPPED, lambda match: " ")
    plain = PlainText(plain.text.lower(), plain.places)
    for pattern, instead in _CONTRACTIONS:
        plain = plain.sub(pattern, instead)
    return plain


def unmarked(text: str) -> PlainText:
    """``text`` without tags, Markdown and invisible characters, HTML entities read.

    Apostrophes become ``'``, quotation marks ``"``, letters of other widths and styles plain ones, every space one
    space, and every line break ``\\n``.
    """
    plain = PlainText(text, range(len(text) + 1))
    if "&" in text:
        plain = plain.sub(_ENTITY, lambda match: html.unescape(match[0]))
    plain = plain.sub(_ODD, lambda match: _character(match[0]))
    if "<" in plain.text:
        plain = plain.sub(_BREAKING, lambda match: "\n")
    plain = plain.sub(_MARKUP, lambda match: "- " if match["bullet"] else "")
    plain = plain.sub(_BREAKS, lambda match: "\n").sub(_SPACES, _space)
    return PlainText(plain.text.replace("`", "'"), plain.places)


def _space(match: re.Match[str]) -> str:
    return "" if match.end() < len(match.string) and match.string[match.end()] == "\n" else " "


def _character(c: str) -> str:
    """One character as it is usually written."""
    if (same := _SAME.get(c)) is not None:
        return same
    category = unicodedata.category(c)
    if category == "Cf" or c in _INVISIBLE or "\ufe00" <= c <= "\ufe0f":
        return ""
    if category == "Zs":
        return " "
    folded = unicodedata.normalize("NFKC", c)
    if len(folded) > 1 and not folded.isalpha():
        folded = c
    return "".join(letter if len(letter.lower()) == 1 else letter.lower()[0] for letter in folded)
