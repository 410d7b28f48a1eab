"""How well probes tell safe from unsafe: a table, and plots as PNG."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from safety_reminder.errors import MissingExtraError
from safety_reminder.guard import Probe
from safety_reminder.training.readings import Readings, auc_by


def write_report(output: Path, probes: Mapping[str, tuple[Probe, Readings]], interval: int) -> dict[str, Any]:
    """``auc.csv``, ``roc.png``, ``precision_recall.png``, ``calibration.png`` and ``pca.png`` in ``output``.

    Args:
        probes: by name, each probe with the readings it is judged on (not those it was fitted to).

    Returns:
        AUCs by name, then by ``all``, ``tokens`` and ``source``.
    """
    output.mkdir(parents=True, exist_ok=True)
    scores = {name: probe(readings.hidden) for name, (probe, readings) in probes.items()}
    found = {name: auc_by(scores[name], readings, interval) for name, (_, readings) in probes.items()}
    with (output / "auc.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["probe", "by", "of", "auc"])
        for name, tables in found.items():
            writer.writerows([name, by, of, f"{value:.4f}"] for by, row in tables.items() for of, value in row.items())
    _plot(output, probes, scores, interval)
    return found


def print_side_by_side(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """AUC by tokens so far, a column for each probe."""
    names = list(found)
    steps = sorted({step for tables in found.values() for step in tables["tokens"]}, key=int)
    print("AUC of the probe" + "".join(f"{name:>12}" for name in names))
    for label, by, key in [*((f"after {step} tokens", "tokens", step) for step in steps), ("all checks", "all", "all")]:
        cells = (found[name][by].get(key) for name in names)
        print(f"{label:<16}" + "".join(f"{'-':>12}" if cell is None else f"{cell:>12.3f}" for cell in cells))


def _plot(
    output: Path,
    probes: Mapping[str, tuple[Probe, Readings]],
    scores: Mapping[str, torch.Tensor],
    interval: int,
) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from sklearn.calibration import calibration_curve
        from sklearn.decomposition import PCA
        from sklearn.metrics import precision_recall_curve, roc_curve
    except ImportError as error:
        raise MissingExtraError("matplotlib and scikit-learn", "train") from error

    def save(name: str, draw: Any, *, width: float = 5.5) -> None:
        figure = Figure(figsize=(width, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(output / f"{name}.png", dpi=130)

    labels = {name: readings.unsafe.numpy() for name, (_, readings) in probes.items()}

    def roc(figure: Any) -> None:
        axes = figure.subplots()
        for name in probes:
            false_alarms, caught, _ = roc_curve(labels[name], scores[name])
            axes.plot(false_alarms, caught, label=name)
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.7)
        axes.set(xlabel="false alarms, share of safe checks", ylabel="caught, share of unsafe checks", title="ROC")
        axes.legend()

    def precision_recall(figure: Any) -> None:
        axes = figure.subplots()
        for name in probes:
            precision, recall, _ = precision_recall_curve(labels[name], scores[name])
            axes.plot(recall, precision, label=name)
        axes.set(xlabel="recall", ylabel="precision", title="Precision and recall", ylim=(0, 1.02))
        axes.legend()

    def calibration(figure: Any) -> None:
        axes = figure.subplots()
        for name in probes:
            happened, said = calibration_curve(labels[name], scores[name], n_bins=8, strategy="quantile")
            axes.plot(said, happened, marker="o", label=name)
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.7)
        axes.set(xlabel="p_unsafe", ylabel="share that is unsafe", title="Calibration")
        axes.legend()

    def pca(figure: Any) -> None:
        _, readings = next(iter(probes.values()))
        steps = [0, 1, 2]
        flat = PCA(2, random_state=0).fit_transform(readings.hidden.numpy())
        for axes, step in zip(figure.subplots(1, len(steps), sharex=True, sharey=True), steps, strict=True):
            here = (readings.tokens // interval == step).numpy()
            for unsafe, colour, label in ((False, "tab:blue", "safe"), (True, "tab:red", "unsafe")):
                chosen = here & (readings.unsafe.numpy() == unsafe)
                axes.scatter(*flat[chosen].T, s=9, alpha=0.6, color=colour, label=label)
            axes.set(title=f"after {step * interval} tokens", xlabel="first component")
        axes.legend()

    save("roc", roc)
    save("precision_recall", precision_recall)
    save("calibration", calibration)
    save("pca", pca, width=12)
