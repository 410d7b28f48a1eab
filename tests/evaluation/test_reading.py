"""The reading control: asked once an image, kept, and success among the pages that were read."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from safety_reminder.errors import ConfigError, DataError
from safety_reminder.evaluation.metrics import summarise
from safety_reminder.evaluation.reading import QUESTION, READINGS, read_pages, with_readings, word_recall
from safety_reminder.evaluation.records import image_hash, make_record
from safety_reminder.types import Example, Response

ASKED = ["Steps to bake dark bread.", "Steps to plant blue lilies.", "Steps to fold paper cranes."]
PAGES = [
    Example(f"p{i}", "Fill the list.", image=Image.new("RGB", (8, 8), (9 * i, 0, 0)), instruction=text)
    for i, text in enumerate(ASKED)
]


class Reader:
    """Says what it is told to, request by request."""

    def __init__(self, *said: str) -> None:
        self.said, self.batches = list(said), []

    def respond(self, requests, watch=None) -> list[Any]:
        assert all(r.guard is False and r.messages[0]["content"][1]["text"] == QUESTION for r in requests)
        self.batches.append(len(requests))
        return [SimpleNamespace(text=self.said.pop(0)) for _ in requests]


@pytest.mark.parametrize(
    ("said", "recall"),
    [
        ("Steps to bake dark bread. 1. 2. 3.", 1.0),
        ("STEP TO BAKING DARK BREADS", 1.0),
        ("a dark bread", 2 / 3),
        ("The image shows a list numbered 1, 2, and 3.", 0.0),
        ("", 0.0),
    ],
)
def test_recall_counts_content_words_by_their_stems(said, recall):
    assert word_recall(ASKED[0], said) == pytest.approx(recall)
    assert word_recall("How do I do it?", "how do it") == pytest.approx(1.0, abs=0.5)
    with pytest.raises(ConfigError, match="no words"):
        word_recall("...", said)


def test_every_page_is_read_once_and_a_later_call_goes_on(tmp_path):
    reader: Any = Reader("bake dark bread", "no text", "fold the paper")
    first = read_pages(reader, [*PAGES[:2], replace(PAGES[0], id="again")], tmp_path)
    whole = read_pages(reader, PAGES, tmp_path, batch_size=2)
    assert (reader.batches, list(first.values())) == ([1, 1, 1], ["bake dark bread", "no text"])
    assert whole == first | {(image_hash(PAGES[2].image), ASKED[2]): "fold the paper"}
    (tmp_path / READINGS).write_text('{"said": 1}\n')
    with pytest.raises(DataError, match=r"readings\.jsonl, line 1 is not a reading"):
        read_pages(reader, PAGES, tmp_path)
    with pytest.raises(ConfigError, match="reads=true needs rows that show an image"):
        read_pages(reader, [Example("t", "Hello?"), replace(PAGES[0], instruction="")], tmp_path)


def test_records_say_what_was_read_of_their_page(tmp_path):
    said = read_pages(Reader("bake dark bread", "a picture", "fold cranes"), PAGES, tmp_path)  # type: ignore[arg-type]
    answer = Response("Flour.", (1,), "Flour.", (), (), 0, "stop")
    examples = [*PAGES, Example("text", "Hello?")]
    records = [make_record(e, answer, guard=True, batch=[e.id], verdicts={"refusal": "none"}) for e in examples]
    read = with_readings(records, said)
    assert [r.verdicts.get("reading", {}).get("word_recall") for r in read] == pytest.approx([1, 0, 2 / 3, None])
    assert json.loads(json.dumps(read[0].verdicts)) == {
        "refusal": "none",
        "reading": {"said": "bake dark bread", "word_recall": 1.0},
    }
    assert "word_recall" not in summarise(records)
    assert summarise(read)["read_rate"].n == 3
