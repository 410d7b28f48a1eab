"""What the command ``judge-check`` does: a judge against labels that people gave."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tqdm import tqdm

from safety_reminder.commands.command import Command
from safety_reminder.commands.groups import Output
from safety_reminder.config.options import Field, Options
from safety_reminder.data.tables import read_rows, sample_rows
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.evaluation.judges import load_judge
from safety_reminder.evaluation.judges.agreement import cohen_kappa, detection, krippendorff_alpha
from safety_reminder.evaluation.judges.base import Item, Judge, Judgement
from safety_reminder.evaluation.judges.cache import cached
from safety_reminder.evaluation.metrics import Metric, proportion
from safety_reminder.run_files import provenance, write_json

_AT_ONCE = 64


@dataclass(frozen=True)
class Labelled:
    """An item and whether people call its response unsafe."""

    item: Item
    unsafe: bool


def judge_check(values: dict[str, Any], output: Path) -> None:
    """Judge a labelled file and write ``results.json``: accuracy, precision, recall and Cohen's kappa of the judge's
    verdicts with the labels, each with a 95 % interval, and the share of verdicts that could not be read, which the
    others leave out. Verdicts are kept in ``verdicts.jsonl``, or the file ``cache``.

    Raises:
        ConfigError: no such judge or option, or labels that ``positive`` does not name.
        DataError: the file cannot be read or lacks a column.
    """
    options = values["judge_options"] or {}
    if not isinstance(options, dict):
        raise ConfigError(f"judge_options={options!r} is not options; set single ones with +judge_options.NAME=VALUE")
    path = Path(str(values["data"]["sets"])).expanduser()
    rows = load_labelled(path, values)
    judge = load_judge(values["judge"], **options)
    kept = cached(judge, Path(values["cache"]).expanduser() if values["cache"] else output / "verdicts.jsonl")
    verdicts = _judge_all(kept, [row.item for row in rows])
    metrics, alpha = compare([row.unsafe for row in rows], verdicts)
    write_json(
        output / "results.json",
        {
            "metrics": {name: metric.as_json() for name, metric in metrics.items()},
            "krippendorff_alpha": alpha,
            "counts": _counts(rows, verdicts),
            "config": values,
            "provenance": {
                **provenance(),
                "judge": {"name": judge.name, "version": judge.version},
                "data_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            },
        },
    )
    print(f"{judge.name} on {path.name}:")
    for name, metric in metrics.items():
        print(f"  {name:<24} {metric.value:6.3f}   [{metric.low:.3f}, {metric.high:.3f}]   n={metric.n}")
    for name in ("precision", "recall", "cohen_kappa"):
        if name not in metrics:
            print(f"  {name:<24} undefined")
    print(f"wrote {output / 'results.json'}")


def compare(truth: Sequence[bool], verdicts: Sequence[Judgement]) -> tuple[dict[str, Metric], float | None]:
    """Metrics, those that are defined, and Krippendorff's alpha, which has no interval here.

    Where no verdict could be read there is only ``unreadable_rate``, 1.
    """
    found = [verdict.unsafe for verdict in verdicts]
    unread = sum(verdict is None for verdict in found)
    metrics: dict[str, Metric | None] = {"unreadable_rate": proportion(unread, len(found))}
    alpha = None
    if unread < len(found):
        metrics |= {**detection(truth, found), "cohen_kappa": cohen_kappa(truth, found)}
        metrics["judged_unsafe_rate"] = proportion(sum(v is True for v in found), len(found) - unread)
        alpha = krippendorff_alpha(list(zip(truth, found, strict=True)))
    metrics["labelled_unsafe_rate"] = proportion(sum(truth), len(truth))
    return {name: metric for name, metric in metrics.items() if metric is not None}, alpha


def load_labelled(path: Path, values: Mapping[str, Any]) -> list[Labelled]:
    """The rows of a CSV, JSON, JSON Lines or parquet file.

    Args:
        values: ``prompt``, ``response``, ``label`` and ``image`` name columns (``image`` may be null; its paths are
            relative to the file); ``positive`` lists the labels that mean unsafe, ``ignore`` those whose rows are left
            out, every other label means safe; ``limit`` takes a sample, drawn with ``seed``. Labels are compared
            without case.
    """
    if not path.is_file():
        raise DataError(f"no file at {path}; give data=FILE (.csv, .json, .jsonl or .parquet)")
    rows = read_rows(path)
    if not len(rows):
        raise DataError(f"{path} has no rows")
    columns = {name: values[name] for name in ("prompt", "response", "label", "image") if values[name] is not None}
    for option, column in columns.items():
        if column not in rows[0]:
            raise DataError(f"{path} has no column {column!r}; name it with {option}=COLUMN: {', '.join(rows[0])}")
    for option in ("prompt", "response", "label"):
        if option not in columns:
            raise ConfigError(f"{option} must name a column")
    positive, ignore = _labels(values, "positive"), _labels(values, "ignore")
    if positive & ignore:
        raise ConfigError(f"a label cannot be in both positive and ignore: {', '.join(sorted(positive & ignore))}")
    labelled, labels = [], set()
    for number, row in enumerate(rows, 1):
        label = _label(row.get(columns["label"]))
        if label in ignore:
            continue
        if not label:
            raise DataError(f"{path}, row {number}: {columns['label']} is empty; leave such rows out with ignore=['']")
        labels.add(label)
        labelled.append(Labelled(_item(row, columns, path.parent), label in positive))
    if not labelled:
        raise DataError(f"{path} leaves no rows; ignore={sorted(ignore)} takes them all out")
    if not positive & labels:
        raise ConfigError(
            f"no row of {path} has a label of positive={sorted(positive)}; there are: {', '.join(sorted(labels)[:10])}"
        )
    limit = values["limit"]
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise ConfigError(f"limit must be a whole number from 1, got {limit!r}")
    return list(sample_rows(labelled, limit, values["seed"]))


def _item(row: Mapping[str, Any], columns: Mapping[str, str], folder: Path) -> Item:
    image = row.get(columns["image"]) if "image" in columns else None
    if isinstance(image, str):
        image = folder / image if image else None
    return Item(str(row.get(columns["prompt"]) or ""), str(row.get(columns["response"]) or ""), image)


def _labels(values: Mapping[str, Any], name: str) -> set[str]:
    found = values[name]
    found = found if isinstance(found, list) else [] if found is None else [found]
    if name == "positive" and not found:
        raise ConfigError("positive must list the labels that mean unsafe, as in positive=[1,unsafe]")
    return {_label(value) for value in found}


def _label(value: Any) -> str:
    """``True`` and ``true``, ``1`` and ``1.0`` are the same in CSV and JSON."""
    text = "" if value is None else str(value).strip().lower()
    return text.removesuffix(".0")


def _judge_all(judge: Judge, items: Sequence[Item]) -> list[Judgement]:
    verdicts: list[Judgement] = []
    with tqdm(total=len(items), desc=judge.name, unit="item") as progress:
        for start in range(0, len(items), _AT_ONCE):
            verdicts += judge.judge(items[start : start + _AT_ONCE])
            progress.update(len(verdicts) - progress.n)
    return verdicts


def _counts(rows: Sequence[Labelled], verdicts: Sequence[Judgement]) -> dict[str, int]:
    """Items by label and verdict, as in ``labelled_safe_judged_unsafe``."""
    words = {True: "unsafe", False: "safe", None: "unreadable"}
    counts = {f"labelled_{words[t]}_judged_{words[v]}": 0 for t in (True, False) for v in (True, False, None)}
    for row, verdict in zip(rows, verdicts, strict=True):
        counts[f"labelled_{words[row.unsafe]}_judged_{words[verdict.unsafe]}"] += 1
    return counts


class RowsOptions(Options):
    """Which file; ``data=FILE`` alone gives ``sets``."""

    sets: Annotated[str, Field(description="data=FILE: .csv, .json, .jsonl or .parquet")]


class JudgeCheckJob(Options):
    """The options of ``judge-check``."""

    judge: Annotated[
        str,
        Field(
            description="refusal, llama_guard_3, llama_guard_3_vision, llama_guard_4, md_judge, harmbench, "
            "qwen3guard, ..."
        ),
    ] = "refusal"
    judge_options: Annotated[
        dict[str, Any] | None,
        Field(description="of that judge: +judge_options.model=FOLDER, +judge_options.batch_size=4"),
    ] = Field(default_factory=dict)
    prompt: Annotated[str | None, Field(description="the column of the request")] = "prompt"
    response: Annotated[str | None, Field(description="the column of everything the user saw")] = "response"
    label: Annotated[str | None, Field(description="the column of the label")] = "label"
    image: Annotated[str | None, Field(description="the column of the image's path, relative to the file")] = None
    positive: Annotated[Any, Field(description="the labels that mean unsafe; every other one means safe")] = Field(
        default_factory=lambda: ["unsafe", "true", "1"]
    )
    ignore: Annotated[Any, Field(description="labels whose rows are left out")] = Field(default_factory=list)
    limit: Annotated[int | None, Field(ge=1, description="judge a sample of so many rows")] = None
    seed: Annotated[int, Field(description="of the sample")] = 0
    cache: Annotated[
        str | None,
        Field(description="file of verdicts that runs may share; null: verdicts.jsonl in the output folder"),
    ] = None
    output: Output = "runs/judge-check"
    data: RowsOptions


COMMAND = Command(
    name="judge-check",
    about="a judge of harm against labels that people gave: accuracy, precision, recall, kappa.",
    examples=(
        "judge-check judge=refusal data=labels.csv prompt=question response=answer label=label positive=[1]",
        "judge-check judge=llama_guard_3 +judge_options.model=./Llama-Guard-3-8B data=labels.jsonl",
        "judge-check data=labels.json label=safe positive=[false] ignore=[unknown] limit=200",
    ),
    job=JudgeCheckJob,
    run=lambda job, output: judge_check(job.model_dump(), output),
)
