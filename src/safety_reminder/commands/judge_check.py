"""``safety-reminder judge-check``: a judge of harm compared with labels that people gave."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ValidationInfo, field_validator

from safety_reminder.commands.command import Command
from safety_reminder.commands.groups import Output
from safety_reminder.config.names import require_judge_found
from safety_reminder.config.options import Field, Options
from safety_reminder.data.tables import read_rows, sample_rows
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.evaluation.judges import Judge, cached, load_judge
from safety_reminder.run_files import provenance, run_folder, write_json

if TYPE_CHECKING:
    from safety_reminder.evaluation.judges.check import Checked, Labelled, Layout

Label = bool | int | float | str | None


class LabelledFile(Options):
    """The labelled answers."""

    sets: Annotated[str, Field(description="data=FILE: .csv, .json, .jsonl or .parquet")]

    @property
    def path(self) -> Path:
        return Path(self.sets).expanduser()


class JudgeCheckJob(Options):
    """The options of ``judge-check``."""

    judge: Annotated[
        str,
        Field(
            description="refusal, fitted, asked, llama_guard_3, llama_guard_3_vision, llama_guard_4, md_judge, "
            "harmbench, qwen3guard, ..."
        ),
    ] = "refusal"
    judge_options: Annotated[
        dict[str, Any],
        Field(
            default_factory=dict,
            description="of that judge: +judge_options.model=FOLDER, +judge_options.batch_size=4",
        ),
    ]
    data: LabelledFile
    prompt: Annotated[str, Field(description="the column of the request")] = "prompt"
    response: Annotated[str, Field(description="the column of everything the user saw")] = "response"
    label: Annotated[str, Field(description="the column of the label")] = "label"
    image: Annotated[str | None, Field(description="the column of the image's path, relative to the file")] = None
    positive: Annotated[
        tuple[Label, ...], Field(description="the labels that mean unsafe; every other one means safe")
    ] = ("unsafe", "true", "1")
    ignore: Annotated[tuple[Label, ...], Field(description="labels whose rows are left out")] = ()
    folds: Annotated[
        int | None,
        Field(
            ge=2,
            le=20,
            description="with judge=fitted: fit it to the file itself, and judge every row by what was fitted to the "
            "other folds; no question is in two folds",
        ),
    ] = None
    limit: Annotated[int | None, Field(ge=1, description="judge a sample of so many rows")] = None
    seed: Annotated[int, Field(description="of the sample")] = 0
    cache: Annotated[
        str | None,
        Field(description="file of verdicts that runs may share; null: verdicts.jsonl in the output folder"),
    ] = None
    output: Output = "runs/judge-check"

    @field_validator("judge_options", mode="before")
    @classmethod
    def _options(cls, given: Any) -> Any:
        if given is None:
            return {}
        if not isinstance(given, dict):
            raise ValueError(f"judge_options={given!r} is not options; set single ones with +judge_options.NAME=VALUE")
        return given

    @field_validator("prompt", "response", "label", mode="before")
    @classmethod
    def _column(cls, given: Any, info: ValidationInfo) -> Any:
        if given is None:
            raise ValueError(f"{info.field_name} must name a column")
        return given

    @field_validator("positive", "ignore", mode="before")
    @classmethod
    def _labels(cls, given: Any, info: ValidationInfo) -> Any:
        labels = tuple(given) if isinstance(given, list | tuple) else () if given is None else (given,)
        if not labels and info.field_name == "positive":
            raise ValueError("positive must list the labels that mean unsafe, as in positive=[1,unsafe]")
        if not all(isinstance(label, Label) for label in labels):
            raise ValueError(f"{info.field_name} must list labels, got {given!r}")
        return labels

    @property
    def layout(self) -> Layout:
        from safety_reminder.evaluation.judges.check import Layout

        return Layout(self.prompt, self.response, self.label, self.image, self.positive, self.ignore)


def judge_check(job: JudgeCheckJob, output: Path) -> None:
    """Judge a labelled file and write ``results.json``: accuracy, precision, recall and Cohen's kappa of the judge's
    verdicts with the labels, each with a 95 % interval, and the share of verdicts that could not be read, which the
    others leave out. Verdicts are kept in ``verdicts.jsonl``, or the file ``cache``.

    Raises:
        ConfigError: no such judge or option, or labels that ``positive`` does not name.
        DataError: the file cannot be read or lacks a column.
    """
    require_judge_found(job.judge_options)
    rows = read_labelled(job)
    if job.folds is None:
        _check(job, rows, output)
    else:
        _check_folds(job, job.folds, rows, output)


def _check(job: JudgeCheckJob, rows: list[Labelled], output: Path) -> None:
    from tqdm import tqdm

    from safety_reminder.evaluation.judges.check import check

    judge = load_judge(job.judge, **job.judge_options)
    _require_unseen(judge, rows)
    with run_folder(output, reads=(job.data.sets,)):
        kept = cached(judge, Path(job.cache).expanduser() if job.cache else output / "verdicts.jsonl")
        with tqdm(total=len(rows), desc=judge.name, unit="item") as progress:
            checked = check(kept, rows, progress.update)
        _write(job, (judge.name, judge.version), checked, output / "results.json")
    _print(job, judge.name, checked)
    print(f"wrote {output / 'results.json'}")


def _check_folds(job: JudgeCheckJob, folds: int, rows: list[Labelled], output: Path) -> None:
    """``judge=fitted``, cross-validated on the rows. Raises ConfigError where that makes no sense."""
    from safety_reminder.evaluation.judges.check import checked_against
    from safety_reminder.evaluation.judges.fitted import cross_fitted

    if job.judge != "fitted":
        raise ConfigError(f"folds is of judge=fitted, which is fitted anew for each; judge={job.judge} is not")
    if set(job.judge_options) - {"threshold"}:
        raise ConfigError("with folds, judge=fitted is fitted to data=FILE; of judge_options only threshold is left")
    with run_folder(output, reads=(job.data.sets,)):
        checked = checked_against(rows, cross_fitted(rows, folds, **job.judge_options))
        _write(job, ("fitted", f"{folds} folds by question"), checked, output / "results.json")
    _print(job, f"fitted, {folds} folds by question,", checked)
    print(f"wrote {output / 'results.json'}")


def _require_unseen(judge: Judge, rows: list[Labelled]) -> None:
    """A judge is not checked on what it was fitted to. Raises: ConfigError."""
    from safety_reminder.evaluation.judges.fitted import Fitted, question

    if isinstance(judge, Fitted) and (seen := sum(question(row.item) in judge.seen for row in rows)):
        raise ConfigError(
            f"judge=fitted was fitted to the questions of {seen} of the {len(rows)} rows; check it on others, or "
            "cross-validate it on them: judge-check judge=fitted folds=5 data=FILE"
        )


def read_labelled(job: JudgeCheckJob) -> list[Labelled]:
    """The rows of a CSV, JSON, JSON Lines or parquet file, or a sample of them.

    Raises:
        ConfigError: labels that ``positive`` does not name. DataError: the file cannot be read or lacks a column.
    """
    path = job.data.path
    if not path.is_file():
        raise DataError(f"no file at {path}; give data=FILE (.csv, .json, .jsonl or .parquet)")
    from safety_reminder.evaluation.judges.check import labelled

    return list(sample_rows(labelled(read_rows(path), job.layout, path), job.limit, job.seed))


def _write(job: JudgeCheckJob, judge: tuple[str, str], checked: Checked, path: Path) -> None:
    write_json(
        path,
        {
            "metrics": {name: metric.as_json() for name, metric in checked.metrics.items()},
            "krippendorff_alpha": checked.alpha,
            "counts": checked.counts,
            "config": job.model_dump(mode="json"),
            "provenance": {
                **provenance(),
                "judge": dict(zip(("name", "version"), judge, strict=True)),
                "data_sha256": hashlib.sha256(job.data.path.read_bytes()).hexdigest(),
            },
        },
    )


def _print(job: JudgeCheckJob, judge: str, checked: Checked) -> None:
    print(f"{judge} on {job.data.path.name}:")
    for name, metric in checked.metrics.items():
        print(f"  {name:<24} {metric.value:6.3f}   [{metric.low:.3f}, {metric.high:.3f}]   n={metric.n}")
    for name in ("precision", "recall", "cohen_kappa"):
        if name not in checked.metrics:
            print(f"  {name:<24} undefined")


COMMAND = Command(
    name="judge-check",
    about="a judge of harm against labels that people gave: accuracy, precision, recall, kappa.",
    examples=(
        "judge-check judge=refusal data=labels.csv prompt=question response=answer label=label positive=[1]",
        "judge-check judge=llama_guard_3 +judge_options.model=./Llama-Guard-3-8B data=labels.jsonl",
        "judge-check judge=fitted folds=5 data=labels.csv prompt=question response=answer label=label positive=[1]",
        "judge-check data=labels.json label=safe positive=[false] ignore=[unknown] limit=200",
    ),
    job=JudgeCheckJob,
    run=judge_check,
)
