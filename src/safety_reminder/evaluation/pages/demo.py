"""The demo page: one self-contained HTML file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from safety_reminder.evaluation.outcome import outcome
from safety_reminder.evaluation.statistics import Metric, shown
from safety_reminder.models import data_url, load_image
from safety_reminder.run_files import provenance, write_text
from safety_reminder.types import Example, Record

_THUMBNAIL = 320  # pixels
_WIDTH, _HEIGHT = 460, 120  # of the timeline
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 10, 10, 22
_TILES = (
    ("attack_success_rate_unguarded", "attack success, unguarded"),
    ("attack_success_rate", "attack success, guarded"),
    ("false_alarm_rate", "false alarms"),
    ("exact_match_untriggered", "untouched answers identical"),
    ("leaked_tokens", "tokens leaked per harmful answer"),
    ("overhead_ratio", "time, guarded / unguarded, where nothing was intervened on"),
)


def write_page(
    path: Path,
    examples: Sequence[Example],
    guarded: Sequence[Record],
    unguarded: Sequence[Record],
    metrics: dict[str, Metric],
    config: dict[str, Any],
    threshold: float,
) -> Path:
    """Write the page and return its path. ``guarded`` and ``unguarded`` are in the order of ``examples``."""
    samples = [
        {
            "title": example.instruction or example.prompt,
            "category": example.category,
            "kind": example.kind,
            "image": thumbnail(example.image),
            "unguarded": without.seen_text,
            "unguarded_outcome": outcome(without),
            "guarded": with_guard.seen_text,
            "guarded_outcome": outcome(with_guard),
            "intervened": bool(with_guard.interventions),
            "same": with_guard.token_ids == without.token_ids,
            "checks": len(with_guard.checks),
            "timeline": timeline(with_guard, threshold),
        }
        for example, with_guard, without in zip(examples, guarded, unguarded, strict=True)
    ]
    tiles = [{"label": label, **shown(metrics[name])._asdict()} for name, label in _TILES if name in metrics]
    html = (
        environment()
        .get_template("demo.html.jinja")
        .render(samples=samples, tiles=tiles, config=config, provenance=provenance(), threshold=f"{threshold:.2f}")
    )
    write_text(path, html)
    return path


def environment() -> Environment:
    """Where the pages' templates are."""
    return Environment(
        loader=PackageLoader("safety_reminder.evaluation.pages", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def timeline(record: Record, threshold: float) -> dict[str, Any]:
    """Coordinates of ``p_unsafe`` over answer tokens, for an SVG of 460 × 120.

    Checks stand in the order in which they were made, so that one after a rewind is not drawn over the one before:
    ``x`` is the number of tokens generated in all.
    """
    points, marks = [], []
    spent = offset = 0
    interventions = list(record.interventions)
    generated = []
    for check in record.checks:
        spent = offset + check.token_index
        generated.append((spent, check))
        if check.unsafe and interventions:
            marks.append((spent, interventions[0].policy))
            offset += interventions.pop(0).dropped
    end = max([spent, offset + len(record.token_ids), 1])
    span = _WIDTH - _LEFT - _RIGHT
    rise = _HEIGHT - _TOP - _BOTTOM
    x = lambda tokens: round(_LEFT + span * tokens / end, 1)  # noqa: E731
    y = lambda p: round(_TOP + rise * (1 - p), 1)  # noqa: E731
    for tokens, check in generated:
        p = check.p_unsafe
        height = y(1.0 if math.isnan(p) else p)  # a check that failed counts as unsafe
        points.append({"x": x(tokens), "y": height, "p": f"{p:.3f}", "tokens": tokens, "unsafe": check.unsafe})
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "right": _WIDTH - _RIGHT,
        "top": _TOP,
        "bottom": _HEIGHT - _BOTTOM,
        "points": points,
        "marks": [{"x": x(tokens), "policy": policy} for tokens, policy in marks],
        "ticks": [{"x": x(t), "label": t} for t in range(0, end + 1, 16 if end <= 200 else 64)],
        "threshold": y(threshold),
    }


def thumbnail(image: Any) -> str | None:
    """A small copy as a data URL."""
    if image is None:
        return None
    picture = load_image(image)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return data_url(picture)
