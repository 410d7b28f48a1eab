"""The table of an ablation: mean ± standard deviation over seeds, one row a variant.

    safety-reminder train --multirun data=ROWS variant=base,k1,k2,k8 training.seed=0,1,2 training.rivals=true \\
        test_on="['figstep:DIR:subset=SafeBench-Tiny',\
                  'typographic:src/safety_reminder/data/shipped/benign_twins.csv']" \\
        output=runs/ablation
    python benchmarks/ablation.py --runs runs/ablation --json FILE

It only reads what the runs left, and prints Markdown. Cost is counted, since comparing the times of runs side by side
would not be fair: the reminder's positions that checks read, for each 100 tokens of harmless answers. Seconds, by
number of vectors and interval, are measured by ``guard_overhead.py --architectures settings``.
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

from common import figure, finish, parser

from safety_reminder.evaluation.records import RecordFile

COLUMNS = {
    "attack_success_rate": "attack success",
    "false_alarm_rate": "false alarms",
    "probe_auc": "AUC",
    "header_probe_auc": "AUC, header",
    "last_probe_auc": "AUC, last token",
    "positions": "positions",
}
DIGITS = {"probe_auc": 4, "header_probe_auc": 4, "last_probe_auc": 4, "positions": 1}


def read_runs(folder: Path) -> dict[str, list[dict[str, float]]]:
    """Metrics of every finished run, by variant."""
    runs: dict[str, list[dict[str, float]]] = {}
    for path in sorted(folder.glob("*/summary.json")):
        summary = json.loads(path.read_text(encoding="utf-8"))
        variant = ",".join(re.findall(r"variant=(\w+)", path.parent.name)) or "base"
        metrics = {name: metric["value"] for name, metric in summary["metrics"].items()}
        cost = positions_read(path.with_name("answers") / "records.jsonl", summary["config"]["training"]["k"])
        if cost is not None:
            metrics["positions"] = cost
        runs.setdefault(variant, []).append(metrics)
    if not runs:
        raise SystemExit(f"no */summary.json in {folder}")
    return runs


def positions_read(records: Path, k: int) -> float | None:
    """The reminder's positions that checks read for each 100 tokens of harmless answers, if there are such answers."""
    harmless = [answer for answer in RecordFile(records).records if not answer.harmful]
    tokens = sum(len(answer.token_ids) for answer in harmless)
    return 100 * k * sum(len(answer.checks) for answer in harmless) / tokens if tokens else None


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", type=Path, required=True)
    arguments = options.parse_args()
    runs = read_runs(arguments.runs)
    shown = [name for name in COLUMNS if any(name in run for several in runs.values() for run in several)]
    figures = {}
    print("| variant | seeds | " + " | ".join(COLUMNS[name] for name in shown) + " |")
    print("|---" * (2 + len(shown)) + "|")
    for variant, several in runs.items():
        cells = []
        for name in shown:
            values = [run[name] for run in several if name in run]
            if not values:
                cells.append("-")
                continue
            mean = statistics.mean(values)
            digits = DIGITS.get(name, 3)
            spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{mean:.{digits}f}{spread}")
            figures[f"{variant}: {COLUMNS[name]}"] = figure(mean, values)
        print(f"| {variant} | {len(several)} | " + " | ".join(cells) + " |")
    if arguments.json:
        finish(figures, arguments)


if __name__ == "__main__":
    main()
