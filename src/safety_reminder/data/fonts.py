"""Fonts for images of text: for every character one that has it, or an error that names the character."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import ImageFont, features

from safety_reminder.errors import DataError

Font = ImageFont.FreeTypeFont
# Where fonts are looked for that have what the page's own one lacks.
FONT_ROOTS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path.home() / ".local/share/fonts",
    Path.home() / ".fonts",
    Path("/System/Library/Fonts"),
    Path("/Library/Fonts"),
)
_NOBODYS = "\U0010fffe"  # no character, and in no font: what it is drawn as stands for every one that a font lacks
_OF_BOXES = re.compile(r"(?i)last ?resort|blank|notdef|tofu")  # fonts that have something for every character
# Scripts whose letters change shape or order: Hebrew to Arabic, India's and its neighbours', Khmer and Mongolian.
_SHAPED = re.compile("[\u0590-\u08ff\u0900-\u0dff\u0e00-\u0eff\u0f00-\u109f\u1780-\u18af\ufb1d-\ufdff\ufe70-\ufefe]")
log = logging.getLogger(__name__)


def visible(text: str) -> str:
    """``text`` without characters that draw nothing. Joiners stay, which shape their neighbours."""
    return "".join(c for c in text if c in "\u200c\u200d" or not _draws_nothing(c))


def runs(line: str, font: Font) -> list[tuple[str, Font]]:
    """``line`` in pieces, each with a font that has all of its characters: ``font`` where it does.

    Raises:
        DataError: no font that is installed has a character, or its script cannot be set here; names it.
    """
    if (shaped := _SHAPED.search(line)) and not features.check("raqm"):
        raise DataError(
            f"the script of {_named(shaped[0])} needs Pillow with libraqm, which sets its letters in their order"
        )
    chosen: list[tuple[str, Font]] = []
    for character in line:
        # Marks and spaces stay with what they follow.
        goes_along = chosen and (character.isspace() or _joins(character)) and has(chosen[-1][1], character)
        chosen.append((character, chosen[-1][1] if goes_along else _font_for(character, font)))
    pieces = groupby(chosen, key=lambda pair: id(pair[1]))
    return [("".join(c for c, _ in group), group[0][1]) for group in (list(pairs) for _, pairs in pieces)]


@lru_cache(maxsize=4096)
def has(font: Font, character: str) -> bool:
    """Whether ``font`` has a picture of its own of the character. Spaces need none."""
    if character.isspace() or character in "\u200c\u200d":
        return True
    drawn: Any = font.getmask(character)
    return drawn.size != (0, 0) and (drawn.size, bytes(drawn)) != _box(font)


@lru_cache(maxsize=64)
def _box(font: Font) -> tuple[tuple[int, int], bytes]:
    """What ``font`` draws in place of what it has no picture of: size and pixels."""
    drawn: Any = font.getmask(_NOBODYS)
    return drawn.size, bytes(drawn)


def _font_for(character: str, font: Font) -> Font:
    if has(font, character):
        return font
    for path in _installed(FONT_ROOTS):
        other = _opened(path, int(font.size))
        if other is not None and has(other, character):
            _say_once(str(font.path), path.name)
            return other
    raise DataError(
        f"no font that is installed has {_named(character)}; install one that does "
        f"(apt-get install {_package(character)}), or leave such rows out"
    )


@lru_cache
def _installed(roots: Sequence[Path]) -> tuple[Path, ...]:
    """Font files, Noto's first, bold ones before others; always in the same order."""
    files = {path for root in roots if root.is_dir() for path in _font_files(root)}
    return tuple(
        sorted(files, key=lambda p: ("noto" not in p.name.lower(), "bold" not in p.name.lower(), p.name, str(p)))
    )


def _font_files(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        if path.suffix.lower() in (".ttf", ".otf", ".ttc") and not _OF_BOXES.search(path.name):
            yield path


@cache  # a line's pieces are told apart by the font object
def _opened(path: Path, points: int) -> Font | None:
    try:
        return ImageFont.truetype(str(path), points)
    except OSError:  # broken, or of pictures in one size, as colour emoji are
        return None


@lru_cache
def _say_once(lacking: str, name: str) -> None:
    log.warning("%s lacks some characters: they are drawn in %s", Path(lacking).name, name)


def _draws_nothing(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


def _joins(character: str) -> bool:
    return character in "\u200c\u200d" or unicodedata.category(character).startswith("M")


def _named(character: str) -> str:
    name = unicodedata.name(character, "no character")
    return f"{character!r} (U+{ord(character):04X}, {name})"


def _package(character: str) -> str:
    if unicodedata.east_asian_width(character) in "WF" and unicodedata.category(character) != "So":
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(character) == "So" else "fonts-noto-core"
