"""Rendered pages: the same every time, and FigStep's geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark_files import image_of
from safety_reminder.data import DEMO_REQUESTS, fonts, load_dataset
from safety_reminder.data.benchmarks import typographic
from safety_reminder.errors import DataError
from safety_reminder.models import load_image

needs_font = pytest.mark.skipif(
    not any((folder / typographic.FONT).is_file() for folder in typographic.FONT_FOLDERS),
    reason=f"{typographic.FONT} is not installed (apt-get install fonts-freefont-ttf)",
)
LINE = 91  # pixels from one line of 80 points to the next, spacing of 11 included


def ink(text: str, *, numbered: bool = True) -> np.ndarray:
    """Where the page is not white, (760, 760) bool."""
    return np.asarray(typographic.render(text, numbered=numbered)).min(axis=2) < 128


def rows_with_ink(text: str, **options) -> list[bool]:
    marks = ink(text, **options)
    return [bool(marks[10 + LINE * i : 10 + LINE * (i + 1)].any()) for i in range(8)]


@needs_font
def test_the_same_text_is_the_same_page():
    first = typographic.render("Steps to bake bread.")
    typographic._font.cache_clear()
    again = typographic.render("Steps to bake bread.")
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != typographic.render("Steps to bake cakes.").tobytes()


@needs_font
def test_a_page_is_black_on_white_in_figsteps_size():
    page = typographic.render("Steps to bake bread.")
    pixels = np.asarray(page)
    assert (page.size, page.mode) == ((760, 760), "RGB")
    assert pixels.min() == 0
    assert (pixels == pixels[..., :1]).all()
    assert 0.02 < ink("Steps to bake bread.").mean() < 0.3


@needs_font
def test_text_begins_at_the_origin_and_fills_fifteen_columns_of_48_pixels():
    marks = ink("o" * 15, numbered=False)
    columns = np.flatnonzero(marks.any(axis=0))
    rows = np.flatnonzero(marks.any(axis=1))
    assert 20 <= columns[0] < 30
    assert 20 + 15 * 48 - 10 < columns[-1] < 20 + 15 * 48
    assert 10 <= rows[0] < 50
    assert rows[-1] < 10 + LINE


@needs_font
@pytest.mark.parametrize(
    ("text", "lines"),
    [("Short.", 1), ("Fifteen letters", 1), ("Fifteen letters!", 2), ("Steps to bake bread at home.", 2)],
)
def test_words_wrap_at_fifteen_columns_and_three_numbers_follow(text, lines):
    assert rows_with_ink(text, numbered=False) == [i < lines for i in range(8)]
    assert rows_with_ink(text) == [i < lines + 3 for i in range(8)]


@needs_font
def test_the_numbers_stand_at_the_left_and_their_items_are_empty():
    below = ink("Short.")[10 + LINE :]
    assert below[:, :120].any()
    assert not below[:, 120:].any()


@needs_font
def test_the_shipped_requests_are_pairs_of_harmful_and_harmless():
    examples = load_dataset("typographic", DEMO_REQUESTS)
    assert sum(e.harmful for e in examples) == sum(not e.harmful for e in examples) == 7
    assert len({e.id for e in examples}) == 14
    assert all(load_image(e.image).size == (760, 760) for e in examples)


@needs_font
def test_columns_other_than_the_instruction_are_optional(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text('\ufeffinstruction\nBake bread.\n"Grow, and\nwater, plants."\n', encoding="utf-8")
    first, second = load_dataset("typographic", path)
    assert (first.id, first.harmful, first.category) == ("mine-000", True, "")
    assert second.instruction == "Grow, and\nwater, plants."
    assert image_of(first).tobytes() == typographic.render("Bake bread.").tobytes()


@needs_font
def test_harmful_is_read_in_every_spelling(tmp_path):
    path = tmp_path / "mine.csv"
    cells = ["true", "TRUE", "1", "", "false", " False", "0"]
    path.write_text("id,instruction,harmful\n" + "".join(f"r{i},x,{cell}\n" for i, cell in enumerate(cells)))
    examples = load_dataset("typographic", path, prompt="Go.")
    assert [e.harmful for e in examples] == [True] * 4 + [False] * 3
    assert {e.prompt for e in examples} == {"Go."}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a header with a column 'instruction', and at least one row"),
        ("instruction\n", "needs a header"),
        ("prompt\nBake.\n", "needs a header"),
        pytest.param("instruction,id\n  ,a\n", "row 1: instruction is missing or empty", marks=needs_font),
        pytest.param("instruction,harmful\nx,no\n", "row 1: harmful must be true or false, got 'no'", marks=needs_font),
    ],
)
def test_files_that_do_not_fit_say_where(tmp_path, text, message):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset("typographic", path)


def test_a_text_that_does_not_fit_on_the_page_is_not_cut_off(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("instruction\nSteps to bake bread.\n" + "Steps to bake a very large bread. " * 4 + "\n")
    with pytest.raises(DataError, match=r"row 2: the text does not fit .*dataset\.grow=true"):
        typographic.load(path)
    short, long = typographic.load(path, grow=True)
    assert image_of(short).size == (760, 760)
    assert image_of(long).height > 760


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no CSV file at .*gone\.csv; give dataset\.root=FILE\.csv"):
        load_dataset("typographic", tmp_path / "gone.csv")


def test_without_the_font_the_package_to_install_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(typographic, "FONT_FOLDERS", (tmp_path,) * 2)
    typographic._font.cache_clear()
    with pytest.raises(DataError, match="apt-get install fonts-freefont-ttf"):
        typographic.render("Bake bread.")


@needs_font
def test_what_no_font_has_is_named_and_never_drawn_as_a_box(tmp_path, monkeypatch):
    monkeypatch.setattr(fonts, "FONT_ROOTS", (tmp_path,))
    path = tmp_path / "mine.csv"
    path.write_text("id,instruction\na,Bake bread.\nb,Bake 面包.\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"row 2: no font .* '面' \(U\+9762, CJK .*\).*fonts-noto-cjk") as caught:
        typographic.load(path)
    assert "grow" not in str(caught.value)
    for text, name in (("Bake 🍞.", r"U\+1F35E, BREAD"), ("रोटी", r"U\+0930, DEVANAGARI"), ("\ue123", "no character")):
        with pytest.raises(DataError, match=name):
            typographic.render(text)


@needs_font
def test_another_installed_font_draws_what_the_page_s_own_lacks(monkeypatch, caplog):
    dejavu = Path("/usr/share/fonts/truetype/dejavu")
    if not (dejavu / "DejaVuSans-Bold.ttf").is_file():
        pytest.skip("DejaVu is not installed")
    monkeypatch.setattr(fonts, "FONT_ROOTS", (dejavu,))
    fonts._say_once.cache_clear()
    own = typographic.render("Bake with joy")
    smile, laugh = (np.asarray(typographic.render(f"Bake {face}", numbered=False)) for face in "😀😁")
    assert (smile != laugh).any()
    plain = np.asarray(typographic.render("Bake", numbered=False))
    assert (smile[:, :200] < 128).sum() == (plain[:, :200] < 128).sum()
    assert "FreeMonoBold.ttf lacks some characters: they are drawn in DejaVuSans-Bold.ttf" in caplog.text
    assert typographic.render("Bake with joy").tobytes() == own.tobytes()
    assert typographic.render("Bake\u200b with\ufeff joy").tobytes() == own.tobytes()


@needs_font
def test_wide_characters_wrap_by_their_width(monkeypatch):
    font = typographic._font()
    monkeypatch.setattr(typographic, "runs", lambda line, own: [(line, font)])
    lines = typographic._lines("面包 and butter", font, 6)
    assert "".join("".join(lines).split()) == "面包andbutter"
    assert all(font.getlength(line) <= 6 * font.getlength("0") for line in lines)
    assert len(typographic._lines("面" * 40, font, 15)) >= 3
