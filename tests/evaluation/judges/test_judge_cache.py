"""Verdicts that are kept: judged once, found again, and not mistaken for those of another item or judge."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from filelock import FileLock
from PIL import Image

from safety_reminder.errors import DataError
from safety_reminder.evaluation.judges import Item, Judgement
from safety_reminder.evaluation.judges.cache import cached, item_key


class Counting:
    """Says how many items it has judged."""

    def __init__(self, name: str = "counting", version: str = "1") -> None:
        self.name, self.version, self.judged = name, version, 0

    def judge(self, items):
        verdicts = [Judgement(None, None, "unreadable", f"{self.judged + i}") for i in range(len(items))]
        self.judged += len(items)
        return verdicts


ITEMS = [Item("a", "b"), Item("a", "c"), Item("a", "b")]


def test_what_is_known_is_not_judged_again(tmp_path):
    path, judge = tmp_path / "deep" / "verdicts.jsonl", Counting()
    first = cached(judge, path).judge(ITEMS)
    assert judge.judged == 2  # the third is the first
    assert first[2] == first[0]
    again = cached(judge, path)
    assert again.judge([*ITEMS, Item("new", "b")])[:3] == first
    assert judge.judged == 3
    assert (again.name, again.version) == ("counting", "1")


def test_another_item_or_judge_is_another_verdict(tmp_path):
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "red.png")
    items = [
        Item("a", "b"), Item("b", "a"), Item("ab", ""), Item("a", "b", target="t"), Item("a", "b", red),
        Item("a", "b", blue), Item("a", "b", tmp_path / "red.png"),
    ]  # fmt: skip
    judges = [Counting(), Counting(version="2"), Counting(name="other")]
    assert len({item_key(judge, item) for judge in judges for item in items}) == len(items) * len(judges)
    assert item_key(judges[0], items[4]) == item_key(judges[0], replace(items[4], image=red.copy()))


def test_a_line_that_was_cut_off_is_judged_again(tmp_path):
    path, judge = tmp_path / "verdicts.jsonl", Counting()
    cached(judge, path).judge(ITEMS)
    path.write_bytes(path.read_bytes()[:-5])
    found = cached(judge, path).judge(ITEMS)
    assert judge.judged == 3
    assert [json.loads(line)["raw"] for line in path.read_text().splitlines()] == ["0", "2"]
    assert cached(judge, path).judge(ITEMS) == found


def test_an_interrupted_run_keeps_what_it_had(tmp_path):
    class Breaking(Counting):
        def judge(self, items):
            if self.judged:
                raise KeyboardInterrupt
            return super().judge(items)

    judge = Breaking()
    items = [Item("a", str(i)) for i in range(100)]
    with pytest.raises(KeyboardInterrupt):
        cached(judge, tmp_path / "v.jsonl").judge(items)
    whole = Counting()
    cached(whole, tmp_path / "v.jsonl").judge(items)
    assert 0 < judge.judged < 100
    assert judge.judged + whole.judged == 100


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    path, judge = tmp_path / "v.jsonl", Counting()
    cached(judge, path).judge(ITEMS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])  # the other has come so far
    kept = cached(judge, path)
    assert path.read_bytes() == whole[:-5]
    path.write_bytes(whole)
    kept.judge(ITEMS)
    assert judge.judged == 2
    assert path.read_bytes() == whole


def test_what_another_process_has_judged_since_is_known(tmp_path):
    path, judge, other = tmp_path / "v.jsonl", Counting(), Counting()
    kept = cached(judge, path)
    found = cached(other, path).judge(ITEMS)
    assert kept.judge(ITEMS) == found
    assert (judge.judged, other.judged) == (0, 2)


def test_a_verdict_that_another_process_gave_meanwhile_counts_for_both(tmp_path):
    path, other = tmp_path / "v.jsonl", Counting(version="1")
    other.judged = 40

    class Slow(Counting):
        def judge(self, items):
            cached(other, path).judge(ITEMS)
            return super().judge(items)

    assert [verdict.raw for verdict in cached(Slow(), path).judge(ITEMS)] == ["40", "41", "40"]
    assert len(path.read_text().splitlines()) == 2


def test_a_file_that_is_removed_is_begun_anew(tmp_path):
    path, judge = tmp_path / "v.jsonl", Counting()
    kept = cached(judge, path)
    kept.judge(ITEMS)
    path.unlink()
    assert len(kept.judge([*ITEMS, Item("new", "b")])) == 4
    assert [json.loads(line)["raw"] for line in path.read_text().splitlines()] == ["2"]


def test_several_write_at_once(tmp_path):
    """Threads have open files of their own here, and so exclude one another as processes do."""
    path, start = tmp_path / "v.jsonl", threading.Barrier(4)

    class Wordy(Counting):
        def judge(self, items):
            return [Judgement(True, 0.5, "x", item.response * 20_000) for item in items]

    def write(name: str) -> None:
        start.wait()
        for i in range(10):
            kept = cached(Wordy(name), path)
            kept.judge([Item("a", f"{i}-{j}") for j in range(3)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert len({json.loads(line)["key"] for line in path.read_bytes().splitlines()}) == 4 * 10 * 3
    assert len(path.read_bytes().splitlines()) == 4 * 10 * 3


def test_a_file_that_stays_locked_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("safety_reminder.evaluation.judges.cache._PATIENCE", 0.05)
    path = tmp_path / "v.jsonl"
    kept = cached(Counting(), path)
    with FileLock(tmp_path / ".v.jsonl.lock"), pytest.raises(DataError, match=r"another process keeps .* locked"):
        kept.judge(ITEMS)
    assert not path.exists()


VERDICT = '{"key": "a", "unsafe": %s, "score": %s, "label": "", "raw": "", "votes": %s}'


@pytest.mark.parametrize(
    "line",
    [
        "{", "[]", '{"key": "a"}', '{"key": "a", "unsafe": true, "score": 1, "label": ""}', "[" * 5000,
        VERDICT % ('"false"', "0", "null"), VERDICT % ("0", "0", "null"), VERDICT % ("false", '"0"', "null"),
        VERDICT % ("false", "NaN", "null"), VERDICT % ("false", "0", '{"a": "safe"}'),
        (VERDICT % ("false", "0", "null")).replace('"a"', "5"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_an_error(tmp_path, line):
    (tmp_path / "v.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=r"v\.jsonl, line 1: .*; give another file"):
        cached(Counting(), tmp_path / "v.jsonl")
