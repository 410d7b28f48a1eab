"""The demo page: complete by itself, and drawn where the records say."""

from __future__ import annotations

import re

from PIL import Image

from checkpoints import tiny_guarded
from safety_reminder.evaluation.metrics import summarise
from safety_reminder.evaluation.pages.demo import timeline, write_page
from safety_reminder.evaluation.records import RecordFile
from safety_reminder.evaluation.runner import run
from safety_reminder.types import Example, Sampling


def answered(folder):
    examples = [
        Example("a", "Red?", Image.new("RGB", (8, 8), "red"), harmful=True, instruction="<b>bold</b> & plain"),
        Example("b", "Blue?", Image.new("RGB", (8, 8), "blue"), harmful=False),
    ]
    file = RecordFile(folder / "records.jsonl")
    sampling = Sampling(max_new_tokens=12, do_sample=False)
    without = run(tiny_guarded(), examples, file, guard=False, sampling=sampling)
    return examples, run(tiny_guarded(), examples, file, guard=True, sampling=sampling), without


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(tmp_path):
    examples, guarded, unguarded = answered(tmp_path)
    metrics = summarise(guarded, unguarded)
    config = {"model": "tiny", "reminder": "random"}
    html = write_page(tmp_path / "demo.html", examples, guarded, unguarded, metrics, config, 0.25).read_text("utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    assert "<b>bold</b>" not in html
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; plain" in html
    assert html.count("<svg") == len(examples)
    assert html.count("<circle") == sum(len(record.checks) for record in guarded)
    assert "threshold, 0.25" in html


def test_every_check_is_drawn_on_its_own_side_of_the_threshold(tmp_path):
    _, guarded, _ = answered(tmp_path)
    for record in guarded:
        drawn = timeline(record, 0.5)
        assert len(drawn["points"]) == len(record.checks)
        assert len(drawn["marks"]) == len(record.interventions)
        for point, check in zip(drawn["points"], record.checks, strict=True):
            assert (point["y"] <= drawn["threshold"]) == check.unsafe
            assert drawn["left"] <= point["x"] <= drawn["right"]
