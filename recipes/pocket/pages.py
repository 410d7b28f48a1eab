"""Pages of rendered text with, for every vision patch, the BPE token whose centre it holds."""

from __future__ import annotations

import random
import textwrap
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CANVAS = 760
FREE = "/usr/share/fonts/truetype/freefont/"
DEJAVU = "/usr/share/fonts/truetype/dejavu/"
# (file, weight in the mixture, size factor that makes its lines about as tall as FreeMono Bold's)
FONTS = (
    (FREE + "FreeMonoBold.ttf", 5.0, 1.0),
    (FREE + "FreeMono.ttf", 0.5, 1.0),
    (DEJAVU + "DejaVuSans.ttf", 1.5, 0.85),
    (DEJAVU + "DejaVuSerif.ttf", 1.5, 0.85),
    (DEJAVU + "DejaVuSans-Bold.ttf", 0.8, 0.8),
    (DEJAVU + "DejaVuSansMono.ttf", 0.8, 0.9),
    (FREE + "FreeSans.ttf", 0.7, 1.0),
    (FREE + "FreeSansBold.ttf", 0.7, 0.95),
    (FREE + "FreeSerif.ttf", 0.7, 1.0),
    (FREE + "FreeSerifBold.ttf", 0.5, 1.0),
)
MAX_SPELL = 12
ALPHABET = {c: i + 2 for i, c in enumerate("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:?!'-")}
ALPHABET_SIZE = len(ALPHABET) + 2  # 0: nothing, 1: any other character


@dataclass(frozen=True)
class Page:
    """``pixels`` (image, image) uint8 grey; ``tokens`` (patches²,) ids, -1 where blank; ``spelling`` (patches², 12).
    ``whole``: no line of the text had to be left out."""

    pixels: np.ndarray
    tokens: np.ndarray
    spelling: np.ndarray
    whole: bool


@lru_cache(maxsize=256)
def font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=100_000)
def advance(path: str, size: int, char: str) -> float:
    return font(path, size).getlength(char)


@dataclass(frozen=True)
class Setting:
    """How text is set: typeface and size, where it begins, space between lines, characters in a line (all but the last
    in canvas pixels), and whether the empty numbers 1 to 3 follow it."""

    path: str
    size: int
    origin: tuple[int, int]
    spacing: int
    chars: int
    numbered: bool


@dataclass
class Drawn:
    """``text``: all lines, each after a space. ``centres``: of each of its characters, in canvas pixels."""

    canvas: Image.Image
    text: str
    centres: list[tuple[float, float]]


def make_page(
    text: str, tokenizer, rng: random.Random, *, image_size: int, patches: int, widen: float, figstep: bool = False
) -> Page:
    """Render ``text`` and label its patches. ``widen`` in [0, 1] moves from FigStep's geometry to varied ones."""
    varied = not figstep and rng.random() <= widen
    setting = _varied_setting(text, rng) if varied else _figstep_setting(rng, exact=figstep)
    lines = textwrap.fill(text, setting.chars).split("\n")
    numbers = ["1. ", "2. ", "3. "] if setting.numbered and text.strip() else []
    height = _line_height(setting)
    room = max(1, int((CANVAS - setting.origin[1]) / height))
    whole = len(lines) <= max(1, room - len(numbers))
    lines = lines[: max(1, room - len(numbers))] + numbers
    free = CANVAS - setting.origin[1] - height * len(lines)
    if not figstep and widen > 0 and free > 0 and rng.random() < 0.4 * widen:
        left, top = setting.origin
        setting = replace(setting, origin=(left, top + rng.randrange(0, int(free) + 1)))
    ink, paper = (0, 255) if figstep else _colours(rng, widen)
    drawn = _draw(lines, setting, ink, paper)
    pixels = drawn.canvas.resize((image_size, image_size), Image.Resampling.BICUBIC)
    tokens, spelling = _labels(drawn, tokenizer, patches)
    return Page(np.asarray(pixels), tokens, spelling, whole)


def _figstep_setting(rng: random.Random, *, exact: bool) -> Setting:
    """FigStep's own, or nearly."""
    setting = Setting(FONTS[0][0], size=80, origin=(20, 10), spacing=11, chars=15, numbered=True)
    if exact:
        return setting
    numbered = rng.random() < 0.7
    origin = (20 + rng.randrange(-14, 15), 10 + rng.randrange(-9, 10))
    return replace(setting, numbered=numbered, origin=origin)


def _varied_setting(text: str, rng: random.Random) -> Setting:
    """Any typeface; so small that the longest word fits into a line, where that is legible."""
    path, _, factor = rng.choices(FONTS, weights=[w for _, w, _ in FONTS])[0]
    size = int(rng.uniform(60, 104) * factor)
    spacing = rng.randrange(8, 28)
    origin = (rng.randrange(4, 70), rng.randrange(0, 70))
    longest = max(map(len, text.split()), default=0)
    while True:
        width = advance(path, size, "n") if "Mono" in path else advance(path, size, "e") * 1.02
        chars = max(6, int((CANVAS - origin[0] - 6) / width))
        if longest <= chars or size <= 56 * factor:
            break
        size -= 4
    if rng.random() < 0.3:
        chars = max(min(longest, chars), int(chars * rng.uniform(0.6, 1.0)))
    return Setting(path, size, origin, spacing, chars, numbered=rng.random() < 0.3)


def _line_height(setting: Setting) -> float:
    return font(setting.path, setting.size).getbbox("A")[3] + setting.spacing


def _colours(rng: random.Random, widen: float) -> tuple[int, int]:
    """Ink and paper. A quarter of the varied pages is light on dark or tinted; FigStep's is black on white."""
    if rng.random() >= 0.25 * widen:
        return 0, 255
    ink, paper = rng.randrange(0, 90), rng.randrange(190, 256)
    return (paper, ink) if rng.random() < 0.3 else (ink, paper)


def _draw(lines: list[str], setting: Setting, ink: int, paper: int) -> Drawn:
    drawn = Drawn(Image.new("L", (CANVAS, CANVAS), paper), "", [])
    draw = ImageDraw.Draw(drawn.canvas)
    height = _line_height(setting)
    for number, line in enumerate(lines):
        y = setting.origin[1] + number * height
        draw.text((setting.origin[0], y), line, fill=ink, font=font(setting.path, setting.size))
        x = float(setting.origin[0])
        drawn.text += " "
        drawn.centres.append((x, y + height / 2))
        for char in line:
            step = advance(setting.path, setting.size, char)
            drawn.centres.append((x + step / 2, y + height / 2))
            drawn.text += char
            x += step
    return drawn


def _labels(drawn: Drawn, tokenizer, patches: int) -> tuple[np.ndarray, np.ndarray]:
    """``Page.tokens`` and ``Page.spelling``."""
    tokens = np.full(patches * patches, -1, np.int64)
    spelling = np.zeros((patches * patches, MAX_SPELL), np.int64)
    encoded = tokenizer(drawn.text, add_special_tokens=False, return_offsets_mapping=True)
    for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        centre = _centre(drawn, start, end)
        if centre is None:
            continue
        column, row = (int(at * (patches / CANVAS)) for at in centre)
        if not (0 <= column < patches and 0 <= row < patches):
            continue
        place = row * patches + column
        # Two centres in one patch: the later one takes the patch to the right, where that is free.
        if tokens[place] >= 0:
            place += 1
            if column + 1 >= patches or tokens[place] >= 0:
                continue
        tokens[place] = token
        letters = [ALPHABET.get(c, 1) for c in drawn.text[start:end].strip()[:MAX_SPELL]]
        spelling[place, : len(letters)] = letters
    return tokens, spelling


def _centre(drawn: Drawn, start: int, end: int) -> tuple[float, float] | None:
    """Of the characters ``start`` to ``end`` that show, on the line where they begin; None if none shows."""
    shown = [i for i in range(start, end) if drawn.text[i] != " "]
    if not shown:
        return None
    y = drawn.centres[shown[0]][1]
    columns = [drawn.centres[i][0] for i in shown if drawn.centres[i][1] == y]
    return sum(columns) / len(columns), y
