"""``safety-reminder calibrate``: the threshold of a reminder anew, from safe responses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from safety_reminder.commands import console
from safety_reminder.commands.command import Command
from safety_reminder.commands.groups import CheckBase, Device, DType, Model, Output, Reminder, some_of
from safety_reminder.commands.probe import load_pack
from safety_reminder.commands.rows import RowsOptions
from safety_reminder.config.names import require_found
from safety_reminder.config.options import Field
from safety_reminder.config.reading import ReadingOptions
from safety_reminder.run_files import run_folder
from safety_reminder.training.config import TrainingConfig

_OF_TRAINING = TrainingConfig.marked("calibration")


class CalibrateJob(some_of(TrainingConfig, _OF_TRAINING)):
    """The options of ``calibrate``."""

    model: Model = "pocket"
    reminder: Annotated[Reminder, Field(description="pocket, a hub id or a folder")] = "pocket"
    check_base: CheckBase = True
    interval: Annotated[int | None, Field(ge=1, description="tokens between checks; null: the pack's")] = None
    answer_tokens: Annotated[int, Field(ge=1, description="responses are cut off here")] = 512
    device: Device = None
    dtype: DType = "auto"
    output: Output = "runs/calibrate"
    data: RowsOptions
    reading: ReadingOptions = ReadingOptions()

    @property
    def training(self) -> TrainingConfig:
        return TrainingConfig.parse(self.model_dump(include=set(_OF_TRAINING)))


def calibrate(job: CalibrateJob, output: Path) -> None:
    """Set the threshold of a reminder anew, in ``output/pack``. Only the safe rows are looked at."""
    config = job.training
    examples = job.data.load(both_kinds=False, on_error=config.on_error)
    require_found(job.model, job.reminder)
    with run_folder(output, reads=(job.model, job.reminder)):
        vlm, reminder = load_pack(
            job.model, job.reminder, job.device, job.dtype, check_base=job.check_base, reading=job.reading
        )
        from safety_reminder.training import refit

        calibrated = refit.calibrate(vlm, reminder, examples, config, output, job.data.sets, job.interval)
    print(f"wrote {output / 'pack'}: threshold {reminder.threshold:.4f} → {calibrated.threshold:.4f}")
    console.print_threshold(calibrated)


COMMAND = Command(
    name="calibrate",
    about="set a reminder's threshold from your own safe responses; writes output/pack. The rows are those of train: "
    "prompt or messages, perhaps image, safe: true, and chosen, the response; only the safe ones are looked at.",
    examples=(
        "calibrate model=pocket reminder=pocket data=logs.jsonl false_alarm_budget=0.005 output=runs/calibrated",
    ),
    job=CalibrateJob,
    run=calibrate,
)
