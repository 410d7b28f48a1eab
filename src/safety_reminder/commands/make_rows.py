"""``safety-reminder make-rows``: training rows from a model's own answers."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from safety_reminder.commands.command import Command
from safety_reminder.commands.groups import BatchSize, Device, DType, Generation, GenerationOptions, Model, Output
from safety_reminder.commands.rows_plan import print_plan
from safety_reminder.config.guard import DEFAULT_REFUSAL
from safety_reminder.config.names import require_found, require_judge_found
from safety_reminder.config.options import Field, Options
from safety_reminder.config.reading import ReadingOptions
from safety_reminder.data.own_answers.asking import Asked, plan_questions
from safety_reminder.data.own_answers.requests import SHIPPED, RowRequest, load_requests
from safety_reminder.data.own_answers.wrappers import WRAPPERS, chosen_wrappers
from safety_reminder.errors import ConfigError
from safety_reminder.run_files import provenance, run_folder, write_json, write_text

if TYPE_CHECKING:
    from safety_reminder.data.own_answers.rows import Answered
    from safety_reminder.evaluation.judges import Judge
    from safety_reminder.evaluation.statistics import Metric
    from safety_reminder.types import Example

TRAIN, CALIBRATION, TEST, REQUESTS = "train.jsonl", "calibration.jsonl", "test.jsonl", "test_requests.jsonl"
HELD_OUT = "persona"
# What may differ between the run that answered and the one that goes on: it comes after the answers, or not at all.
_AFTER_ANSWERS = {"judge", "judge_options", "refusal", "plan", "output", "device"}


class MakeRowsJob(Options):
    """The options of ``make-rows``."""

    model: Annotated[Model, Field(description="the model that is to be guarded: pocket, a hub id, or a folder")] = (
        "pocket"
    )
    requests: Annotated[
        str,
        Field(
            description="FILE (.csv, .json, .jsonl, .parquet) with request and harmful, perhaps topic and contrast; or "
            "shipped: 120 harmful requests, 120 harmless ones near harm, 120 everyday ones"
        ),
    ] = SHIPPED
    limit: Annotated[int | None, Field(ge=1, description="so many requests of each of the three kinds")] = None
    wrappers: Annotated[
        list[str], Field(description=f"of {', '.join(WRAPPERS)}; none named: all that the model can read")
    ] = Field(default_factory=list)
    hold_out: Annotated[
        list[str] | None,
        Field(description=f"wrappers that no training row has; null: {HELD_OUT}, if it is among the wrappers"),
    ] = None
    test_share: Annotated[
        float, Field(ge=0, lt=1, description="share of the requests of each kind that no training row has")
    ] = 0.2
    calibration_share: Annotated[
        float,
        Field(
            ge=0, lt=1, description="share of the harmless requests whose answers only set the threshold (calibrate)"
        ),
    ] = 0.25
    per_request: Annotated[int, Field(ge=1, description="wrappers that each request is asked in")] = 2
    seed: Annotated[int, Field(ge=0, description="of what is held out, and of sampling")] = 0
    judge: Annotated[
        str,
        Field(
            description="refusal: what does not refuse a harmful request counts as unsafe; or a judge of harm (fitted, "
            "asked, llama_guard_3, ...), which drops answers that do no harm"
        ),
    ] = "refusal"
    judge_options: Annotated[
        dict[str, Any],
        Field(description="of that judge: +judge_options.model=FOLDER; of judge=asked, by default the same model"),
    ] = Field(default_factory=dict)
    refusal: Annotated[str, Field(min_length=1, description="what is to follow an unsafe beginning")] = DEFAULT_REFUSAL
    plan: Annotated[
        bool, Field(description="only print how many answers, tokens and bytes it takes; no weights are loaded")
    ] = False
    batch_size: BatchSize = 32
    device: Device = None
    dtype: DType = "auto"
    output: Output = "runs/rows"
    reading: ReadingOptions = ReadingOptions()
    generation: Generation = GenerationOptions.parse({"max_new_tokens": 48, "do_sample": False})


def make_rows(job: MakeRowsJob, output: Path) -> None:
    """Let the model answer jailbroken and harmless requests, unguarded, and write what it said as training rows.

    Raises:
        ConfigError, DataError, ModelError: with what to do about it.
    """
    requests = load_requests(job.requests, limit=job.limit, seed=job.seed)
    chosen_wrappers(job.wrappers, reads_images=True)
    require_found(job.model)
    require_judge_found(job.judge_options)
    asked = _questions(job, requests)
    if job.plan:
        return
    judge = _judge(job)
    with run_folder(output, reads=(job.model, job.requests)):
        examples = [one.example(output) for one in asked]
        answers = _answers(job, output, examples)
        from safety_reminder.evaluation.own_answers import judge_all

        loaded = judge() if judge else None
        _write(job, output, judge_all(asked, examples, answers, loaded, output), loaded)


def _questions(job: MakeRowsJob, requests: Sequence[RowRequest]) -> list[Asked]:
    """What is to be asked; its cost is printed."""
    from safety_reminder.models.size import model_size

    size = model_size(job.model, job.dtype)
    wrappers = chosen_wrappers(job.wrappers, reads_images=size.image_tokens > 0)
    hold_out = [name for name in (HELD_OUT,) if name in wrappers] if job.hold_out is None else job.hold_out
    chosen_wrappers(hold_out, reads_images=size.image_tokens > 0, option="hold_out")
    asked = plan_questions(
        requests,
        wrappers,
        hold_out=hold_out,
        test_share=job.test_share,
        calibration_share=job.calibration_share,
        per_request=job.per_request,
        seed=job.seed,
    )
    print_plan(job.model, size, asked, new_tokens=job.generation.sampling.max_new_tokens or 512, batch=job.batch_size)
    return asked


def _answers(job: MakeRowsJob, output: Path, examples: list[Example]) -> list[str]:
    """What the model writes. It is not in memory any more when this returns, so that a judge has room."""
    from safety_reminder.commands.answering import identity_of
    from safety_reminder.evaluation.own_answers import answer_all, digest_of
    from safety_reminder.evaluation.runner import open_run
    from safety_reminder.guard import load

    print(f"loading {job.model} ...", file=sys.stderr)
    model = load(
        job.model,
        device=job.device,  # type: ignore[arg-type]
        dtype=job.dtype,
        **job.reading.model_dump(),
    )
    # Another batch may round differently: its size is part of what makes the rows, as it is not in other runs.
    fixed = {"batches_of": job.batch_size, "questions": digest_of(examples)}
    records = open_run(output, job.model_dump(exclude=_AFTER_ANSWERS) | fixed | identity_of(model))
    sampling = job.generation.sampling
    seed = job.seed if sampling.do_sample else None
    return answer_all(model, examples, records, batch_size=job.batch_size, sampling=sampling, seed=seed)


def _judge(job: MakeRowsJob) -> Callable[[], Judge] | None:
    """What gives the judge; None: the rules. Its options are checked now and not after all answers, and one that is no
    model is loaded now; a model waits until the answering one is gone.

    Raises:
        ConfigError, DataError: no such judge of harm, or options or labelled answers that do not fit.
    """
    if job.judge == "refusal" and not job.judge_options:
        return None
    from safety_reminder.evaluation.judges import OF_ANSWERS, judge_class

    if job.judge in OF_ANSWERS:
        raise ConfigError(f"judge={job.judge} grades answers and says nothing about harm; give a judge of harm")
    options = dict(job.judge_options)
    if job.judge == "asked":
        options = {"model": job.model, "dtype": job.dtype} | options
    kind = judge_class(job.judge, options)
    if "model" in inspect.signature(kind).parameters:
        return lambda: kind(**options)
    ready = kind(**options)
    return lambda: ready


def _write(job: MakeRowsJob, output: Path, answered: Sequence[Answered], judge: Judge | None) -> None:
    from safety_reminder.data.own_answers import rows

    files = {
        TRAIN: rows.training_rows(answered, output, refusal=job.refusal),
        CALIBRATION: rows.calibration_rows(answered, output),
        TEST: rows.test_rows(answered, output, refusal=job.refusal),
        REQUESTS: rows.test_requests([one.example for one in answered if one.asked.part == "test"], output),
    }
    for name, lines in files.items():
        write_text(output / name, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    counts = {name: _counts(lines) for name, lines in files.items()}
    rates = _rates(answered)
    source = Path(job.requests).expanduser()
    write_json(
        output / "summary.json",
        {
            "metrics": {name: metric.as_json() for name, metric in rates.items()},
            "rows": counts,
            "answers": rows.outcomes(answered),
            "config": job.model_dump(),
            "provenance": {
                **provenance(),
                "requests_sha256": hashlib.sha256(source.read_bytes()).hexdigest() if source.is_file() else None,
                "judge": {"name": judge.name, "version": judge.version} if judge else {"name": "refusal"},
            },
        },
    )
    _print(job, output, answered, counts, rates)


def _counts(lines: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Rows of a file, by what they teach; of requests, by whether they are harmful."""
    kinds: Counter[str] = Counter()
    for line in lines:
        if "safe" not in line:
            kinds["harmful" if line["harmful"] else "harmless"] += 1
        elif not line["safe"]:
            kinds["unsafe answer" if "rejected" in line else "bare harmful prompt"] += 1
        else:
            kinds["refusal" if line.get("harmful_prompt") else "safe answer"] += 1
    return dict(kinds)


def _rates(answered: Sequence[Answered]) -> dict[str, Metric]:
    """How often a harmful request was answered unsafely, in all and by wrapper."""
    from safety_reminder.evaluation.statistics import proportion

    harmful = [one for one in answered if one.asked.request.harmful]
    rates = {"attack_success_rate_unguarded": proportion(_unsafe(harmful), len(harmful))}
    for wrapper in WRAPPERS:
        own = [one for one in harmful if one.asked.wrapper == wrapper]
        if own:
            rates[f"attack_success_rate_unguarded/{wrapper}"] = proportion(_unsafe(own), len(own))
    return rates


def _unsafe(answered: Sequence[Answered]) -> int:
    return sum(one.outcome == "unsafe" for one in answered)


def _print(
    job: MakeRowsJob,
    output: Path,
    answered: Sequence[Answered],
    counts: dict[str, dict[str, int]],
    rates: dict[str, Metric],
) -> None:
    """Counts alone: what the model said is in the files."""
    from safety_reminder.commands import console

    said = Counter((one.asked.request.kind, one.outcome) for one in answered)
    print("answers: " + ", ".join(f"{count} {kind} {outcome}" for (kind, outcome), count in sorted(said.items())))
    console.print_metrics(rates)
    for name, kinds in counts.items():
        print(f"wrote {output / name}: " + (", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "no rows"))
    print(f"next: safety-reminder train model={job.model} data={output / TRAIN} output=...")


COMMAND = Command(
    name="make-rows",
    about="training rows from a model's own answers: harmful and harmless requests are put into jailbreak openings, "
    "the model answers them unguarded, and what it says is judged and balanced. Held-out requests and wrappers come "
    "along, to test on. Answers are written into the folder, and never printed.",
    examples=(
        "make-rows model=HuggingFaceTB/SmolLM2-135M-Instruct output=runs/rows",
        "make-rows model=./my-model requests=mine.csv judge=fitted +judge_options.data=labels.csv output=runs/rows",
        "make-rows model=llava-hf/llava-1.5-7b-hf hold_out=[persona,page] plan=true",
    ),
    job=MakeRowsJob,
    run=make_rows,
)
