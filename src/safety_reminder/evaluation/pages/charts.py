"""Coordinates for the report's charts. The template draws them as inline SVG, in the page's colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safety_reminder.evaluation.statistics import Metric
from safety_reminder.evaluation.suite.results import SweepPoint

WIDTH, HEIGHT = 440, 290  # of an SVG's own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 24, 30, 42
_COLOURS = 8  # that the template has


class Chart:
    """Axes from 0 to ``x_max`` and from 0 to 1, and what is drawn on them."""

    def __init__(self, x_label: str, y_label: str, *, x_max: float = 1.0, percent: bool = True) -> None:
        self.x_label, self.y_label, self.x_max = x_label, y_label, x_max
        steps = [i / 4 for i in range(5)]
        name = lambda value: f"{100 * value:g} %" if percent else f"{value:.0f}"  # noqa: E731
        self.x_ticks = [{"at": self.x(s * x_max), "label": name(s * x_max)} for s in steps]
        self.y_ticks = [{"at": self.y(s), "label": f"{100 * s:.0f} %" if percent else f"{s:g}"} for s in steps]
        self.points: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        self.bands: list[dict[str, Any]] = []
        self.dots: list[dict[str, Any]] = []
        self.marks: list[dict[str, Any]] = []

    width, height, left, top = WIDTH, HEIGHT, _LEFT, _TOP
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM

    def x(self, value: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * min(value / self.x_max, 1.0), 1)

    def y(self, value: float) -> float:
        return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - value), 1)

    def line(self, xy: Sequence[tuple[float, float]], colour: int) -> None:
        self.lines.append({"points": " ".join(f"{self.x(a)},{self.y(b)}" for a, b in xy), "colour": colour})

    def band(self, rows: Sequence[tuple[float, float, float]], colour: int) -> None:
        """(x, low, high) each."""
        lower = [f"{self.x(a)},{self.y(low)}" for a, low, _ in rows]
        upper = [f"{self.x(a)},{self.y(high)}" for a, _, high in reversed(rows)]
        self.bands.append({"points": " ".join([*lower, *upper]), "colour": colour})


def pareto(table: Mapping[str, Mapping[str, Metric]]) -> Chart | None:
    """Attack success against over-refusal, a numbered point with both intervals for each defence."""
    chart = Chart("attack success (harmful requests)", "over-refusal (harmless requests)")
    for number, (label, metrics) in enumerate(table.items()):
        attack, over = metrics.get("attack_success_rate"), metrics.get("over_refusal_rate")
        if attack and over:
            chart.points.append(
                {
                    "x": chart.x(attack.value),
                    "y": chart.y(over.value),
                    "x1": chart.x(attack.low),
                    "x2": chart.x(attack.high),
                    "y1": chart.y(over.low),
                    "y2": chart.y(over.high),
                    "number": number + 1,
                    "label": label,
                    "colour": number % _COLOURS,
                }
            )
    return chart if chart.points else None


def sweep_chart(points: Sequence[SweepPoint], threshold: float | None) -> Chart | None:
    """Attack success against false alarms as the threshold falls; a mark at the pack's own."""
    if not points:
        return None
    rows = [(p.false_alarm_rate.value, p.attack_success_rate) for p in points]
    # As far to the right as attack success still falls: beyond, there is nothing to choose.
    best = min(m.value for _, m in rows)
    end = next(x for x, m in rows if m.value == best)
    x_max = next(limit for limit in (0.1, 0.25, 0.5, 1.0) if end <= limit)
    chart = Chart("false alarms (harmless requests)", "attack success (harmful requests)", x_max=x_max)
    rows = [(x, m) for x, m in rows if x <= x_max]
    chart.band([(x, m.low, m.high) for x, m in rows], 0)
    chart.line([(x, m.value) for x, m in rows], 0)
    for own in (p for p in points if p.threshold == threshold):
        chart.marks.append(
            {
                "x": chart.x(own.false_alarm_rate.value),
                "y": chart.y(own.attack_success_rate.value),
                "label": f"the pack's threshold, {own.threshold:.3f}",
            }
        )
    return chart


def awareness_chart(curves: Mapping[str, Sequence[Mapping[str, float]]], threshold: float | None) -> Chart | None:
    """Mean ``p_unsafe`` by depth, harmful and harmless, with intervals."""
    depths = [row["tokens"] for rows in curves.values() for row in rows]
    if not depths:
        return None
    chart = Chart("answer tokens so far", "p_unsafe", x_max=max([*depths, 1]), percent=False)
    for rows, colour in ((curves["harmful"], 1), (curves["harmless"], 0)):
        chart.band([(r["tokens"], r["low"], r["high"]) for r in rows], colour)
        chart.line([(r["tokens"], r["value"]) for r in rows], colour)
        chart.dots += [{"x": chart.x(r["tokens"]), "y": chart.y(r["value"]), "colour": colour} for r in rows]
    if threshold is not None:
        chart.lines.append(
            {"points": f"{chart.left},{chart.y(threshold)} {chart.right},{chart.y(threshold)}", "colour": "limit"}
        )
    return chart
