"""How well probes tell safe from unsafe: a table, and plots as PNG."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from safety_reminder.errors import MissingExtraError
from safety_reminder.guard import Probe
from safety_reminder.models import VLM
from safety_reminder.run_files import naming, provenance, write_json
from safety_reminder.training.probing.readings import Readings, auc_by, positions, where_is
from safety_reminder.training.probing.regression import auc, auc_interval


def write_report(output: Path, probes: Mapping[str, tuple[Probe, Readings]], interval: int) -> dict[str, Any]:
    """``auc.csv``, ``roc.png``, ``precision_recall.png``, ``calibration.png`` and ``pca.png`` in ``output``.

    Args:
        probes: by name, each probe with the readings it is judged on (not those it was fitted to).

    Returns:
        AUCs by name, then by ``all``, ``tokens`` and ``source``.
    """
    output.mkdir(parents=True, exist_ok=True)
    scores = {name: probe(readings.hidden) for name, (probe, readings) in probes.items()}
    aucs = {name: auc_by(scores[name], readings, interval) for name, (_, readings) in probes.items()}
    table = output / "auc.csv"
    with naming(table), table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["probe", "by", "of", "auc"])
        for name, tables in aucs.items():
            writer.writerows([name, by, of, f"{value:.4f}"] for by, row in tables.items() for of, value in row.items())
    _plot(output, probes, scores, interval)
    return aucs


def own_and_rivals(aucs: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`write_report` returns, as a pack keeps it: the reminder's ``auc``, and ``rivals`` where there are."""
    rivals = {name: auc for name, auc in aucs.items() if name != "reminder"}
    return {"auc": aucs["reminder"], **({"rivals": rivals} if rivals else {})}


def auc_metrics(probes: Mapping[str, tuple[Probe, Readings]], interval: int) -> dict[str, dict[str, float]]:
    """``probe_auc`` over all checks and by tokens so far, each with a 95 % interval and the number of checks; a probe
    that is not the reminder's has its name in front."""
    metrics = {}
    for probe_name, (probe, readings) in probes.items():
        prefix = "probe_auc" if probe_name == "reminder" else f"{probe_name}_probe_auc"
        scores = probe(readings.hidden)
        places = {prefix: torch.ones_like(readings.unsafe)}
        for place, mask in positions(readings.tokens, interval).items():
            places[f"{prefix}_at_the_end" if place == "end" else f"{prefix}_after_{place}_tokens"] = mask
        for name, mask in places.items():
            unsafe = readings.unsafe[mask]
            if unsafe.any() and not unsafe.all():
                low, high = auc_interval(scores[mask], unsafe, readings.groups[mask])
                metrics[name] = {"value": auc(scores[mask], unsafe), "low": low, "high": high, "n": int(mask.sum())}
    return metrics


def write_summary(output: Path, vlm: VLM, metrics: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """``summary.json`` of a command that trains: metrics, configuration with what it ran on, provenance."""
    ran_on = {"model": vlm.name, "dtype": str(vlm.model.dtype).removeprefix("torch."), "device": vlm.model.device.type}
    summary = {"metrics": dict(metrics), "config": {**ran_on, **config}, "provenance": provenance()}
    write_json(output / "summary.json", summary)


def side_by_side(aucs: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """What :func:`write_report` returns as a table for people: AUC by tokens so far, a column for each probe."""
    names = list(aucs)
    places = {place for tables in aucs.values() for place in tables["tokens"]}
    ordered = [*sorted(places - {"end"}, key=int), *(places & {"end"})]
    rows = [(where_is(place), "tokens", place) for place in ordered]
    lines = ["AUC of the probe" + "".join(f"{name:>12}" for name in names)]
    for label, by, key in [*rows, ("all checks", "all", "all")]:
        cells = (aucs[name][by].get(key) for name in names)
        lines.append(f"{label:<16}" + "".join(f"{'-':>12}" if cell is None else f"{cell:>12.3f}" for cell in cells))
    return "\n".join(lines)


def _plot(
    output: Path,
    probes: Mapping[str, tuple[Probe, Readings]],
    scores: Mapping[str, torch.Tensor],
    interval: int,
) -> None:
    try:
        from sklearn.calibration import calibration_curve
        from sklearn.metrics import precision_recall_curve, roc_curve
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train") from error
    curves = _curves(probes, scores, interval)
    _plot_curves(
        output / "roc.png",
        curves,
        lambda unsafe, score: roc_curve(unsafe, score)[:2],
        xlabel="false alarms, share of safe checks",
        ylabel="caught, share of unsafe checks",
    )
    _plot_curves(
        output / "precision_recall.png",
        curves,
        lambda unsafe, score: precision_recall_curve(unsafe, score)[1::-1],
        xlabel="recall",
        ylabel="precision",
        ylim=(0, 1.02),
    )
    _plot_curves(
        output / "calibration.png",
        curves,
        lambda unsafe, score: calibration_curve(unsafe, score, n_bins=8, strategy="quantile")[::-1],
        xlabel="p_unsafe",
        ylabel="share that is unsafe",
    )
    _, readings = next(iter(probes.values()))
    _plot_components(output / "pca.png", readings, interval)


def _panels(count: int, *, width: float, sharex: bool = False) -> tuple[Any, Any]:
    """A figure, and ``count`` axes beside each other, which share what is upright."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "train") from error
    figure = Figure(figsize=(width, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, count, sharex=sharex, sharey=True, squeeze=False)[0]


def _plot_curves(
    path: Path,
    curves: Mapping[str, Sequence[tuple[str, Any, Any]]],
    draw: Callable[[Any, Any], Sequence[Any]],
    **axis: Any,
) -> None:
    """A panel for each of :func:`_curves`; ``draw`` makes x and y of labels and scores."""
    figure, panels = _panels(len(curves), width=13)
    for axes, (title, lines) in zip(panels, curves.items(), strict=True):
        for label, unsafe, score in lines:
            axes.plot(*draw(unsafe, score), label=label)
        axes.set(title=title, **axis)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=130)


def _plot_components(path: Path, readings: Readings, interval: int) -> None:
    """Hidden states on their first two principal components, at the first three places, by kind and source."""
    from sklearn.decomposition import PCA

    shown = list(positions(readings.tokens, interval).items())[:3]
    of_row = [readings.sources[group] for group in readings.groups.tolist()]
    flat = PCA(2, random_state=0).fit_transform(readings.hidden.numpy())
    figure, panels = _panels(len(shown), width=12, sharex=True)
    for axes, (place, mask) in zip(panels, shown, strict=True):
        for source, marker in zip(sorted(set(of_row)), itertools.cycle("ox^sD"), strict=False):
            from_it = mask & torch.tensor([name == source for name in of_row])
            for unsafe, colour, label in ((False, "tab:blue", "safe"), (True, "tab:red", "unsafe")):
                points = from_it & (readings.unsafe == unsafe)
                if points.any():
                    axes.scatter(
                        *flat[points.numpy()].T, s=9, alpha=0.6, color=colour, marker=marker,
                        label=f"{label}, {source}",
                    )  # fmt: skip
        axes.set(title=where_is(place), xlabel="first component")
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=130)


def _curves(
    probes: Mapping[str, tuple[Probe, Readings]], scores: Mapping[str, torch.Tensor], interval: int
) -> dict[str, list[tuple[str, Any, Any]]]:
    """Panels of (label, unsafe, scores): all checks of each probe; of the first one, by tokens so far; and by source,
    its unsafe checks against all safe ones."""
    panels: dict[str, list[tuple[str, Any, Any]]] = {"all checks": [], "by tokens so far": [], "by source": []}

    def add(panel: str, label: str, unsafe: torch.Tensor, score: torch.Tensor) -> None:
        if unsafe.any() and not unsafe.all():
            panels[panel].append((label, unsafe.numpy(), score.numpy()))

    for name, (_, readings) in probes.items():
        add("all checks", name, readings.unsafe, scores[name])
    name, (_, readings) = next(iter(probes.items()))
    for place, mask in positions(readings.tokens, interval).items():
        add("by tokens so far", place, readings.unsafe[mask], scores[name][mask])
    of_row = [readings.sources[group] for group in readings.groups.tolist()]
    for source in sorted(set(of_row)):
        mask = torch.tensor([other == source for other in of_row]) | ~readings.unsafe
        add("by source", source, readings.unsafe[mask], scores[name][mask])
    return {title: lines for title, lines in panels.items() if lines}
