"""The figure of delayed awareness, as PNG and SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safety_reminder.analysis.curves import Curve, Measure
from safety_reminder.errors import MissingExtraError

# Two colours of Okabe and Ito's palette that stay apart under every common form of colour blindness, and in grey.
COLOURS = {"harmful": "#D55E00", "harmless": "#0072B2"}
_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.titlelocation": "left",
    "figure.facecolor": "white",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "safety-reminder",  # so that the same data gives the same file
}
_MOST_COUNTS = 13  # numbers of answers written under a panel


def require_matplotlib() -> None:
    """Raises: MissingExtraError: with the install command."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("matplotlib", "train") from error


def draw(output: Path, curves: Mapping[Measure, Mapping[str, Curve]], *, threshold: float) -> None:
    """``awareness.png`` and ``awareness.svg`` in ``output``: p_unsafe, and the log-odds of a refusal, by depth.

    Lines are means over answers, shaded areas 95 % intervals; dashed lines are with the reminder. The numbers of
    answers stand below each panel; a hollow mark rests on one answer alone, and has no interval.

    Raises:
        MissingExtraError: without matplotlib.
    """
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)

        for kind, curve in curves["p_unsafe"].items():
            _line(left, curve, COLOURS[kind], kind)
        left.axhline(threshold, color="0.45", linewidth=0.9, linestyle=":")
        left.annotate(
            "threshold", (1, threshold), xycoords=left.get_yaxis_transform(), xytext=(0, -3 if threshold > 0.5 else 3),
            textcoords="offset points", ha="right", va="top" if threshold > 0.5 else "bottom", color="0.35",
            fontsize="small",
        )  # fmt: skip
        left.set(title="The probe: is the text unsafe?", ylabel="p_unsafe, mean", ylim=(-0.02, 1.05))
        _counts(left, curves["p_unsafe"])

        for kind, curve in curves["refusal_log_odds"].items():
            _line(right, curve, COLOURS[kind], kind)
        for kind, curve in curves["refusal_log_odds_reminded"].items():
            _line(right, curve, COLOURS[kind], f"{kind}, with the reminder", linestyle="--")
        right.axhline(0, color="0.45", linewidth=0.9, linestyle=":")
        right.set(title="The model: would it refuse from here?", ylabel="log-odds of a refusal, mean")
        _counts(right, curves["refusal_log_odds"])

        handles, labels = right.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        figure.savefig(output / "awareness.png", dpi=160)
        figure.savefig(output / "awareness.svg", metadata={"Date": None})


def _line(axes: Any, curve: Curve, colour: str, label: str, linestyle: str = "-") -> None:
    several = {depth: metric for depth, metric in curve.items() if metric.n > 1}
    low, high = [m.low for m in several.values()], [m.high for m in several.values()]
    axes.fill_between(list(several), low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(
        list(curve), [m.value for m in curve.values()], color=colour, linestyle=linestyle, linewidth=1.8, marker="o",
        markersize=3.5, label=label,
    )  # fmt: skip
    alone = [depth for depth in curve if depth not in several]
    axes.plot(
        alone, [curve[depth].value for depth in alone], color=colour, linestyle="", marker="o", markersize=3.5,
        markerfacecolor="white",
    )  # fmt: skip


def _counts(axes: Any, curves: Mapping[str, Curve]) -> None:
    """Below the axis, how many answers each kind has at these depths."""
    depths = sorted({depth for curve in curves.values() for depth in curve})
    shown = depths[:: -(-len(depths) // _MOST_COUNTS)] if depths else []
    axes.set_xticks(shown)
    axes.set_xlabel("tokens of the answer so far")
    place = axes.get_xaxis_transform()
    for line, (kind, curve) in enumerate(curves.items()):
        y = -0.21 - 0.065 * line
        axes.text(-0.02, y, f"n {kind}", transform=axes.transAxes, ha="right", color=COLOURS[kind], fontsize="small")
        for depth in shown:
            count = curve[depth].n if depth in curve else 0
            axes.text(depth, y, str(count), transform=place, ha="center", color=COLOURS[kind], fontsize="small")
