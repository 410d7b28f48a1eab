"""``safety-reminder dro``: train a soft safety prompt, a rival of the reminder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safety_reminder.commands.command import Command
from safety_reminder.commands.groups import Device, DType, Model, Output
from safety_reminder.commands.rows import AllowContamination, CheckAgainst, RowsOptions, named_datasets, refuse_shared
from safety_reminder.config.names import require_found
from safety_reminder.config.options import Field, Options
from safety_reminder.config.reading import ReadingOptions
from safety_reminder.evaluation.refusal import refuses
from safety_reminder.run_files import run_folder
from safety_reminder.training.config import DROConfig


class DROJob(Options):
    """The options of ``dro``."""

    model: Model = "pocket"
    check_against: CheckAgainst = Field(default_factory=list)
    allow_contamination: AllowContamination = False
    device: Device = None
    dtype: DType = "auto"
    output: Output = "runs/dro"
    data: RowsOptions
    training: DROConfig = DROConfig()
    reading: ReadingOptions = ReadingOptions()


def dro(job: DROJob, output: Path) -> None:
    """Train a soft safety prompt, for the defence of this name, into ``output/prompt``."""
    examples = job.data.load()
    refuse_shared(examples, named_datasets("check_against", job.check_against), allow=job.allow_contamination)
    require_found(job.model)
    with run_folder(output, reads=(job.model,)):
        from safety_reminder.guard import load
        from safety_reminder.training.dro import train_soft_prompt

        device: Any = job.device
        guarded = load(job.model, device=device, dtype=job.dtype, **job.reading.model_dump())
        prompt = train_soft_prompt(guarded, examples, job.training, output, refuses=refuses, source=job.data.sets)
    for text, shares in prompt.training["refused"].items():
        under = f"under {text[:40]!r}" if text else "without a safety prompt"
        print(f"refused {under}: {shares['harmful']:.0%} of harmful, {shares['harmless']:.0%} of harmless requests")
    change = prompt.training["refusal_logit_change"]
    moved = f"{change['harmful']:+.2f} (harmful) and {change['harmless']:+.2f} (harmless)"
    print(f"on these requests, refusal's logit moved by {moved}")
    print(f"wrote {output / 'prompt'}")


COMMAND = Command(
    name="dro",
    about="train a soft safety prompt (DRO, arXiv:2401.18018), for defense=dro; writes output/prompt.",
    examples=(
        "dro model=pocket data=examples.jsonl output=runs/dro",
        "evaluate model=pocket suite=my-suite.yaml  # with  dro: {defense: dro, prompt: runs/dro/prompt}",
    ),
    job=DROJob,
    run=dro,
)
