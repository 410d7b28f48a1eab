"""Pages of rendered text with, for every vision patch, the BPE token whose centre it holds."""

from __future__ import annotations

import random
import textwrap
from dataclasses import dataclass
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


def make_page(
    text: str, tokenizer, rng: random.Random, *, image_size: int, patches: int, widen: float, figstep: bool = False
) -> Page:
    """Render ``text`` and label its patches. ``widen`` in [0, 1] moves from FigStep's geometry to varied ones."""
    if figstep or rng.random() > widen:
        path, size, origin, spacing, chars, numbered = FONTS[0][0], 80, (20, 10), 11, 15, True
        if not figstep:
            numbered = rng.random() < 0.7
            origin = (20 + rng.randrange(-14, 15), 10 + rng.randrange(-9, 10))
    else:
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
        numbered = rng.random() < 0.3
    lines = textwrap.fill(text, chars).split("\n")
    numbers = ["1. ", "2. ", "3. "] if numbered and text.strip() else []
    face = font(path, size)
    line_height = face.getbbox("A")[3] + spacing
    room = max(1, int((CANVAS - origin[1]) / line_height))
    whole = len(lines) <= max(1, room - len(numbers))
    lines = lines[: max(1, room - len(numbers))] + numbers
    free = CANVAS - origin[1] - line_height * len(lines)
    if not figstep and widen > 0 and free > 0 and rng.random() < 0.4 * widen:
        origin = (origin[0], origin[1] + rng.randrange(0, int(free) + 1))

    # A quarter of the varied pages is light on dark or tinted; FigStep's is black on white.
    ink, paper = 0, 255
    if not figstep and rng.random() < 0.25 * widen:
        ink, paper = rng.randrange(0, 90), rng.randrange(190, 256)
        if rng.random() < 0.3:
            ink, paper = paper, ink
    canvas = Image.new("L", (CANVAS, CANVAS), paper)
    draw = ImageDraw.Draw(canvas)
    centres: list[tuple[float, float]] = []  # of every character of `joined`, in canvas pixels
    joined = ""
    for number, line in enumerate(lines):
        y = origin[1] + number * line_height
        draw.text((origin[0], y), line, fill=ink, font=face)
        x = float(origin[0])
        joined += " "
        centres.append((x, y + line_height / 2))
        for char in line:
            step = advance(path, size, char)
            centres.append((x + step / 2, y + line_height / 2))
            joined += char
            x += step
    pixels = canvas.resize((image_size, image_size), Image.Resampling.BICUBIC)

    tokens = np.full(patches * patches, -1, np.int64)
    spelling = np.zeros((patches * patches, MAX_SPELL), np.int64)
    encoded = tokenizer(joined, add_special_tokens=False, return_offsets_mapping=True)
    scale = patches / CANVAS
    for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        shown = [i for i in range(start, end) if joined[i] != " "]
        if not shown:
            continue
        shown = [i for i in shown if centres[i][1] == centres[shown[0]][1]]
        x = sum(centres[i][0] for i in shown) / len(shown)
        column, row = int(x * scale), int(centres[shown[0]][1] * scale)
        if not (0 <= column < patches and 0 <= row < patches):
            continue
        place = row * patches + column
        # Two centres in one patch: the later one takes the patch to the right, where that is free.
        if tokens[place] >= 0:
            place += 1
            if column + 1 >= patches or tokens[place] >= 0:
                continue
        tokens[place] = token
        letters = [ALPHABET.get(c, 1) for c in joined[start:end].strip()[:MAX_SPELL]]
        spelling[place, : len(letters)] = letters
    return Page(np.asarray(pixels), tokens, spelling, whole)
