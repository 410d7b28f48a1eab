"""The texts that ship say what they are for, and a file of one's own is read line by line."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from safety_reminder.attacks.corpora import CORPORA, load_corpus, read_corpus
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.evaluation.refusal import judge_refusal


@pytest.mark.parametrize(("name", "least"), [("affirmative", 70), ("refusals", 70), ("benign", 40)])
def test_a_corpus_is_many_different_short_texts(name, least):
    texts = load_corpus(name)
    assert len(texts) >= least
    bare = [re.sub(r"\W+", " ", text).strip().lower() for text in texts]
    assert len(set(bare)) == len(bare)
    assert [text for text in texts if not 4 <= len(text.split()) <= 25] == []
    assert [text for text in texts if not re.fullmatch(r"[A-Z][\x20-\x7e]*", text)] == []


def test_the_table_names_what_ships():
    folder = resources.files("safety_reminder.attacks") / "corpora"
    assert {path.name for path in folder.iterdir()} == {f"{name}.txt" for name in CORPORA}
    assert len({load_corpus(name) for name in CORPORA}) == len(CORPORA)


def test_every_refusal_is_judged_one_from_the_start():
    assert [text for text in load_corpus("refusals") if judge_refusal(text).where != "start"] == []


@pytest.mark.parametrize("name", ["affirmative", "benign"])
def test_no_affirmative_opening_is_judged_a_refusal(name):
    assert [text for text in load_corpus(name) if judge_refusal(text).where != "none"] == []


def test_openings_differ_in_how_they_begin():
    """An image that learns one opening by heart has learned little."""
    for name in ("affirmative", "refusals"):
        beginnings = [" ".join(text.split()[:2]) for text in load_corpus(name)]
        assert len(set(beginnings)) >= 25
        assert max(map(beginnings.count, beginnings)) <= len(beginnings) / 8


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeffGladly:\r\n\n  Sure – here.  \n".encode())
    assert load_corpus(str(path)) == read_corpus(path) == ("Gladly:", "Sure – here.")


@pytest.mark.parametrize("content", [b"", b" \n\t\n"])
def test_a_file_without_text_is_an_error(tmp_path, content):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"mine\.txt has no text in it"):
        load_corpus(str(path))


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown corpus 'refusal'; did you mean 'refusals'\?"):
        load_corpus("refusal")
    for name in ("mine.txt", f"{tmp_path}/mine", str(tmp_path)):
        with pytest.raises(DataError, match=r"no file at .*one text a line"):
            load_corpus(name)
    (tmp_path / "latin").write_bytes("für".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        load_corpus(f"{tmp_path}/latin")
