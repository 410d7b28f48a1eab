"""``safety-reminder import-official``: a reminder that the paper's code trained, as a pack."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator

from safety_reminder.commands.command import Command
from safety_reminder.commands.groups import Device, DType, Output
from safety_reminder.config.guard import MOST_INTERVAL
from safety_reminder.config.names import require_found
from safety_reminder.config.options import Field, Options
from safety_reminder.errors import ModelError
from safety_reminder.run_files import provenance, run_folder, write_json

if TYPE_CHECKING:
    from safety_reminder.guard import SafetyReminder

NOTE = (
    "Imported from the files of the paper's code. There the classifier was fitted on the last token of text prompts, "
    "without image, answer or reminder, and the vectors then learned to be read by it; in this package probes are "
    "fitted after the reminder, at every check of an answer. Measure it on rows of your own before it guards anything, "
    "or fit its probe and threshold anew with safety-reminder probe."
)


def _model(value: Any) -> Any:
    return "none" if value is None else value


class ImportOfficialJob(Options):
    """The options of ``import-official``."""

    model: Annotated[
        str,
        BeforeValidator(_model),
        Field(
            description="that the files were trained for: a name of the paper's repository (below), a hub id or a "
            "folder; none: the pack then cannot tell whether a model is the right one",
            json_schema_extra={"preset": True},
        ),
    ]
    prompt_embedding: Annotated[str, Field(description="FILE.pth: prompt_embedding_iter_N.pth")]
    classifier: Annotated[str, Field(description="FILE.npz: pca_classifier.npz")]
    positive: Annotated[
        Literal["safe", "unsafe"],
        Field(description="the class whose probability the classifier gives; in the paper's code, safe"),
    ] = "safe"
    interval: Annotated[int, Field(ge=1, le=MOST_INTERVAL, description="tokens between checks")] = 16
    threshold: Annotated[
        float, Field(gt=0, le=1, description="unsafe at p_unsafe >= threshold; the paper's code says p_safe < 0.2")
    ] = 0.8
    policy: Annotated[
        Literal["continue", "rewind", "restart", "stop"], Field(description="what follows an unsafe verdict")
    ] = "continue"
    device: Device = None
    dtype: DType = "auto"
    output: Output = "runs/import-official"


def import_official(job: ImportOfficialJob, output: Path) -> None:
    """Turn a soft prompt and a classifier into ``output/pack``.

    Raises:
        PackError: a file that is not what it should be. ModelError: the model is not there, or has another hidden size.
    """
    files = {name: Path(getattr(job, name)).expanduser() for name in ("prompt_embedding", "classifier")}
    if job.model != "none":
        require_found(job.model)
    from safety_reminder.guard import SafetyReminder
    from safety_reminder.guard.official import read_classifier, read_soft_prompt

    vectors = read_soft_prompt(files["prompt_embedding"])
    probe = read_classifier(files["classifier"], job.positive)
    reminder = SafetyReminder(
        vectors,
        probe,
        interval=job.interval,
        threshold=job.threshold,
        policy=job.policy,
        calibration={"method": "imported", "guaranteed": None},
        training={
            "note": NOTE,
            "imported": {
                name: {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
                for name, path in files.items()
            },
            "positive": job.positive,
        },
    )
    with run_folder(output, reads=(None if job.model == "none" else job.model, *files.values())):
        reminder = _of_model(reminder, job)
        reminder.save_pretrained(output / "pack")
        summary = {"metrics": {"threshold": {"value": job.threshold}}, "config": job.model_dump()}
        write_json(output / "summary.json", {**summary, "provenance": provenance()})
    print(
        f"wrote {output / 'pack'}: k={reminder.length} of size {reminder.hidden_size}, unsafe at p >= "
        f"{reminder.threshold:g}, interval={reminder.interval}, policy={reminder.policy}"
    )
    print(f"its probe was fitted elsewhere; safety-reminder probe reminder={output / 'pack'} data=ROWS fits one anew")


def _of_model(reminder: SafetyReminder, job: ImportOfficialJob) -> SafetyReminder:
    """With the name and the fingerprint of the model.

    Raises:
        ModelError: its hidden size is another one.
    """
    from safety_reminder.models import fingerprint, open_vlm

    if job.model == "none":
        print("warning: model=none: whether a model is the one of this reminder cannot be checked", file=sys.stderr)
        return reminder
    print(f"loading {job.model} ...", file=sys.stderr)
    device: Any = job.device
    vlm = open_vlm(job.model, device=device, dtype=job.dtype)
    if vlm.hidden_size != reminder.hidden_size:
        raise ModelError(
            f"the soft prompt has vectors of size {reminder.hidden_size}, but {job.model} has hidden size "
            f"{vlm.hidden_size}; give the model that it was trained for"
        )
    return replace(reminder, base_model=vlm.name, fingerprint=fingerprint(vlm.model))


COMMAND = Command(
    name="import-official",
    about="a reminder that the paper's code (github.com/tpy001/Safety-Reminder) trained, as a pack in output/pack. The "
    "files are read as data; nothing in them is run.",
    examples=(
        "import-official model=llava_7b prompt_embedding=prompt_embedding_iter_49.pth classifier=pca_classifier.npz",
        "generate model=llava_7b_SAPT reminder=runs/import-official/pack dataset=figstep dataset.root=DATA",
    ),
    job=ImportOfficialJob,
    run=import_official,
    sapt={},
)
