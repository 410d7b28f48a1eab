"""The figure: the same file for the same data, and what it says."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from safety_reminder.analysis.curves import Outcome, Point, Track, curves
from safety_reminder.analysis.figures import draw

pytestmark = pytest.mark.plots
POINTS = (Point(0, 0.25, -9.0, -1.0, -8.5, None), Point(8, 0.75, -9.0, -1.0, None, 2.0))


def test_the_figure_is_the_same_for_the_same_data_and_says_how_many_answers_there_are(tmp_path):
    harmful = Track(Outcome("a", True, 9, True, None), POINTS)
    harmless = Track(Outcome("b", False, 9, True, None), POINTS[:1])
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        draw(tmp_path / name, curves([harmful, harmful, harmless]), threshold=0.5)
        files.append((tmp_path / name / "awareness.svg").read_bytes())
    assert files[0] == files[1]
    assert shown_in(files[0]).count("n harmful") == shown_in(files[0]).count("n harmless") == 2
    assert {"threshold", "harmful", "harmless, with the reminder"} <= set(shown_in(files[0]))
    draw(tmp_path, curves([harmful] * 37), threshold=0.5)
    alone = shown_in((tmp_path / "awareness.svg").read_bytes())
    assert alone.count("37") == 3  # two depths on the left, one on the right
    assert "n harmless" not in alone


def shown_in(svg: bytes) -> list[str]:
    return [text for element in ElementTree.fromstring(svg).iter() if (text := (element.text or "").strip())]
