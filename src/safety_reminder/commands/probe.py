"""``safety-reminder probe``: fit the probe of a reminder anew, on request beside two that need no reminder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from safety_reminder.commands import console
from safety_reminder.commands.command import Command
from safety_reminder.commands.groups import CheckBase, Device, DType, Model, Output, Reminder
from safety_reminder.commands.rows import AllowContamination, CheckAgainst, RowsOptions, named_datasets, refuse_shared
from safety_reminder.config.names import require_found
from safety_reminder.config.options import Field, Options
from safety_reminder.config.reading import ReadingOptions
from safety_reminder.run_files import run_folder
from safety_reminder.training.config import TrainingConfig

if TYPE_CHECKING:
    from safety_reminder.guard import SafetyReminder
    from safety_reminder.models import VLM


class ProbeJob(Options):
    """The options of ``probe``."""

    model: Model = "pocket"
    reminder: Annotated[
        Reminder,
        Field(
            description="pocket, a hub id or a folder; header: the assistant's header in its place, for "
            "defense=header_probe; random: training.k vectors at random, as a control"
        ),
    ] = "pocket"
    check_base: CheckBase = True
    check_against: CheckAgainst = Field(default_factory=list)
    allow_contamination: AllowContamination = False
    device: Device = None
    dtype: DType = "auto"
    output: Output = "runs/probe"
    data: RowsOptions
    training: TrainingConfig = TrainingConfig()
    reading: ReadingOptions = ReadingOptions()


def probe(job: ProbeJob, output: Path) -> None:
    """Fit the probe of a reminder anew into ``output/pack``, and print how well it tells the test rows apart."""
    examples = job.data.load(on_error=job.training.on_error)
    refuse_shared(examples, named_datasets("check_against", job.check_against), allow=job.allow_contamination)
    require_found(job.model, None if job.reminder in ("header", "random") else job.reminder)
    with run_folder(output, reads=(job.model, job.reminder)):
        options: dict[str, Any] = {"check_base": job.check_base, "reading": job.reading, "training": job.training}
        vlm, reminder = load_pack(job.model, job.reminder, job.device, job.dtype, **options)
        from safety_reminder.training import refit
        from safety_reminder.training.probing.report import side_by_side

        refitted, aucs = refit.refit_probe(vlm, reminder, examples, job.training, output, job.data.sets)
    print(side_by_side(aucs))
    print(f"wrote {output / 'pack'}, auc.csv and plots")
    console.print_threshold(refitted)


def load_pack(
    model: str,
    reminder: str,
    device: Any,
    dtype: str,
    *,
    check_base: bool,
    reading: ReadingOptions,
    training: TrainingConfig | None = None,
) -> tuple[VLM, SafetyReminder]:
    """A model and its reminder; ``header`` is the assistant's header in a reminder's place, and with ``training``,
    ``random`` are the vectors that ``training.init=random`` would begin with. Their probes are still to be fitted.

    Raises:
        ModelError, PackError: one that is missing or does not fit.
    """
    from safety_reminder.guard import SafetyReminder, load
    from safety_reminder.models import load_vlm

    if reminder == "header":
        vlm = load_vlm(model, device=device, dtype=dtype, reading=reading)
        return vlm, SafetyReminder.of_header(vlm)
    if reminder == "random" and training is not None:
        from safety_reminder.training.state import initial_vectors

        vlm = load_vlm(model, device=device, dtype=dtype, reading=reading)
        return vlm, SafetyReminder.unfitted(vlm, initial_vectors(vlm, training.with_changes(init="random")))
    guarded = load(model, reminder, device=device, dtype=dtype, check_base=check_base, **reading.model_dump())
    assert guarded.reminder is not None
    return guarded.vlm, guarded.reminder


COMMAND = Command(
    name="probe",
    about="fit the probe of a reminder anew; prints its AUC beside that of a probe after the assistant's header and of "
    "one on the last token; writes output/pack, auc.csv and plots. Of the training options, probe, pca_components, the "
    "splits, false_alarm_budget, threshold, thresholds, prompt_check, hold_back_checks, answer_tokens, "
    "micro_batch_size, prefix_cache, prefix_cache_gb, on_error, leave_out and seed matter, and unheeded_prob, "
    "repeat_prob, correction_prob (0, or as the reminder was trained); for reminder=random also k.",
    examples=("probe model=pocket reminder=runs/my-reminder/pack data=examples.jsonl output=runs/my-probe",),
    job=ProbeJob,
    run=probe,
)
