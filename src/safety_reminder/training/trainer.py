"""The training loop. Every prefix is run once; a step runs the reminder and what must follow it, and nothing else.

All that is random comes from the seed and the step, so that a run that was killed goes on exactly as it would have.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from safety_reminder.errors import MissingExtraError, SafetyReminderError
from safety_reminder.guard import Probe, SafetyReminder
from safety_reminder.models import VLM, fingerprint
from safety_reminder.models.scoring import Place, follow
from safety_reminder.training import pace, turns
from safety_reminder.training.config import TrainingConfig
from safety_reminder.training.logs import LossFile, trackers
from safety_reminder.training.objective import Cut, draw_cut, losses
from safety_reminder.training.prefixes import Prefixes, slices
from safety_reminder.training.probing.calibration import calibrate_on_split
from safety_reminder.training.probing.places import RIVALS, Fitted, fit_at, read_test
from safety_reminder.training.probing.readings import auc_by
from safety_reminder.training.probing.report import auc_metrics, own_and_rivals, write_report, write_summary
from safety_reminder.training.samples import (
    Sample,
    make_samples,
    manifest,
    seen_as,
    split,
    tell_what_is_left_out,
    write_splits,
)
from safety_reminder.training.state import State, frozen, identity
from safety_reminder.types import TrainingExample

log = logging.getLogger(__name__)
SAVE_EVERY = 10
VALIDATION_CUTS = 4  # of each row
TURNS = tuple(f"turn_{kind}" for kind in turns.KINDS)  # the losses on the turn, each over the cuts of its kind


def train(
    vlm: VLM,
    examples: Sequence[TrainingExample],
    config: TrainingConfig,
    output: Path,
    source: str = "given",
    origin: Mapping[str, Any] | None = None,
    *,
    refuses: turns.Refuses | None = None,
) -> SafetyReminder:
    """Train a reminder and its probe for ``vlm`` and write the pack to ``output/pack``.

    Under ``accelerate launch`` the rows of a batch are shared among the processes; the result is that of one process.
    ``source`` names where the examples come from, for the pack's manifest; ``origin`` is what else the pack and
    ``summary.json`` say about them, such as the options they were drawn with. ``refuses`` says whether a text opens
    with a refusal; without it, how often the reminder turns an answer into one is not measured.
    """
    return Trainer(vlm, examples, config, output, source, origin, refuses=refuses).run()


class Trainer:
    """One run into ``output``; an interrupted one goes on from its checkpoint."""

    def __init__(
        self,
        vlm: VLM,
        examples: Sequence[TrainingExample],
        config: TrainingConfig,
        output: Path,
        source: str,
        origin: Mapping[str, Any] | None = None,
        *,
        refuses: turns.Refuses | None = None,
    ) -> None:
        for package in ("sklearn", "matplotlib"):  # needed at the end, when a missing one would cost the whole run
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, "train")
        self.vlm, self.config, self.output, self.origin = vlm, config, output, dict(origin or {})
        self.refuses = refuses
        output.mkdir(parents=True, exist_ok=True)
        self.trackers = trackers(config.log_with)
        # Its precision is the process's, once and for all; a run's own is set in `run`.
        self.accelerator = Accelerator(
            cpu=vlm.model.device.type == "cpu",
            mixed_precision="no",
            log_with=[*self.trackers] or None,
            # TensorBoard's files in a folder of their own; what else writes files makes one for itself.
            project_dir=str(output / "tensorboard" if "tensorboard" in self.trackers else output),
        )
        samples = make_samples(vlm, examples, config)
        self.parts = split(samples, config)
        tell_what_is_left_out(samples, self.parts)
        self.manifest = manifest(source, samples)
        self.prefixes = Prefixes(vlm, config, output / f"prefixes-{self.accelerator.process_index}")
        self.steps_per_epoch = math.ceil(len(self.parts["training"]) / config.batch_size)
        self.steps = config.epochs * self.steps_per_epoch
        self.identity = identity(config, vlm, self.manifest)
        self.fingerprint = fingerprint(vlm.model)
        self.metrics: dict[str, Any] = {}
        self.empty = 0  # batches in a row of which no row could be used
        self.checkpoint = output / "checkpoint.pt"
        self.state = State.begin(vlm, config)
        if self.checkpoint.is_file():
            self.state.load(self.checkpoint, self.identity, vlm.model)
            log.warning("resuming at batch %d", self.state.step)
        self.loss_file = None
        if self.accelerator.is_main_process:
            write_splits(output, self.parts)
            self.loss_file = LossFile(output, self.state.step)

    def run(self) -> SafetyReminder:
        self._start_trackers()
        try:
            with frozen(self.vlm.model):
                mixed = self.config.mixed_precision != "none"
                with torch.autocast(self.vlm.model.device.type, torch.bfloat16, enabled=mixed):
                    self._learn()
                return self._finish()
        finally:
            self.prefixes.forget()
            # Not `end_training`, which ends the processes' group too: the caller may go on with it.
            for tracker in self.accelerator.trackers:
                tracker.finish()

    def _start_trackers(self) -> None:
        self.accelerator.init_trackers(
            "safety-reminder",
            init_kwargs={
                "tensorboard": {"purge_step": self.state.step + 1},
                "wandb": {"name": self.output.name, "dir": str(self.output), "resume": "allow"},
            },
        )

    def _learn(self) -> None:
        config, state = self.config, self.state
        # What is left is said by `pace`: the bar's own guess takes the first epoch, which runs all prefixes, for all.
        progress = tqdm(
            total=self.steps, initial=state.step, desc="training", unit="batch", dynamic_ncols=True,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
            disable=not self.accelerator.is_main_process,
        )  # fmt: skip
        rows = self.parts["training"]
        if state.scale is None:
            state.scale = self._scale(rows[: config.batch_size])
        timed = self._pace()
        while state.step < self.steps and not state.stopped:
            epoch, place = divmod(state.step, self.steps_per_epoch)
            order = list(range(len(rows)))
            random.Random(f"{config.seed}/{epoch}").shuffle(order)
            batch = [rows[i] for i in order[place * config.batch_size : (place + 1) * config.batch_size]]
            began = timed.start()
            shown = self._train_batch(batch)
            timed.stop("step", began)
            if state.step % self.steps_per_epoch == 0:
                began = timed.start()
                shown |= self._validate()
                timed.stop("validation", began)
            if self.loss_file is not None:
                self.loss_file.write(state.step, shown)
            self.accelerator.log(shown, step=state.step)
            left = timed.left(0 if state.stopped else self.steps - state.step)
            progress.set_postfix({"left": pace.shown(left), **{name: f"{value:.4f}" for name, value in shown.items()}})
            progress.update()
            if state.step % SAVE_EVERY == 0 or state.step == self.steps or state.stopped:
                self._save()
        progress.close()

    def _pace(self) -> pace.Pace:
        share = self.accelerator.num_processes
        training, validation = (len(self.parts[part]) for part in ("training", "validation"))
        cuts = self.config.batch_size * self.config.cuts
        return pace.Pace(
            self.prefixes,
            visited=math.ceil(training / share) + math.ceil(validation / share),
            per_epoch=self.steps_per_epoch,
            validation=VALIDATION_CUTS * validation / cuts / 3,  # without the backward pass, of twice the length
        )

    @torch.no_grad()
    def _scale(self, samples: Sequence[Sample]) -> float:
        """The mean length of hidden states after the reminder, at the bare prompts of these rows: the running probe's
        unit. Every process measures the same rows."""
        found = []
        for part in slices(samples, self.config.micro_batch_size):
            at_prompt = [Place(self.prefixes.of(sample), 0, [None]) for sample in part]
            found += follow(self.vlm.model, at_prompt, self.state.vectors, logits=False)
        lengths = torch.stack([one.last.float().norm() for one in found])
        known = lengths[lengths.isfinite() & (lengths > 0)]
        if not len(known):
            return 1.0  # the first step says what is wrong with these rows
        return self.accelerator.reduce(known.mean(), "mean").item()  # type: ignore[union-attr]

    def _train_batch(self, samples: Sequence[Sample]) -> dict[str, float]:
        """One step of the optimiser, on the mean loss over all cuts of the batch, whatever their share of a pass."""
        config, state = self.config, self.state
        rng = random.Random(f"{config.seed}/cuts/{state.step}")
        drawn = [(sample, [draw_cut(sample, rng, config) for _ in range(config.cuts)]) for sample in samples]
        rate = learning_rate(state.step, self.steps, config)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        state.optimiser.zero_grad()
        sums = self._sums(drawn, backward=True)
        self.empty = 0 if sums["count"] else self.empty + 1
        if self.empty:
            if self.empty == self.steps_per_epoch:
                raise SafetyReminderError(
                    f"no row of the last {self.empty} batches has a finite loss (batch {state.step}); "
                    "lower training.learning_rate"
                )
            state.step += 1
            return _means(sums) | {"learning_rate": rate, "gradient_norm": 0.0}
        for parameter in state.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = self.accelerator.reduce(parameter.grad, "sum") / sums["count"]  # type: ignore
        norm = torch.nn.utils.clip_grad_norm_(state.parameters, config.max_grad_norm)
        if not torch.isfinite(norm):
            raise SafetyReminderError(f"the gradient is not finite at batch {state.step}; lower training.learning_rate")
        state.optimiser.step()
        state.step += 1
        return _means(sums) | {"learning_rate": rate, "gradient_norm": float(norm)}

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """The losses on fixed cuts of the validation rows; the vectors of the best turn so far are kept. What the
        running probe thinks does not count: another is fitted to the finished vectors."""
        sums = self._sums(validation_cuts(self.parts["validation"], self.config), backward=False)
        if not sums["count"]:
            raise SafetyReminderError(f"no row of the validation part has a finite loss at batch {self.state.step}")
        means = _means(sums)
        turn = [means[name] for name in TURNS if name in means]
        means["turn"] = sum(turn) / len(turn)
        self.state.judge(means["turn"], self.config.early_stopping_patience)
        return {f"validation_{name}": value for name, value in means.items()}

    def _sums(self, drawn: Sequence[tuple[Sample, list[Cut]]], *, backward: bool) -> dict[str, float]:
        """Summed losses over all processes, each with its share of ``drawn``; with ``backward``, also gradients, which
        stay those of this process's share."""
        config = self.config
        mine = drawn[self.accelerator.process_index :: self.accelerator.num_processes]
        names = ("loss", "language", "probe", "kl", *TURNS, *turns.KINDS, "count")
        sums: dict[str, float] = dict.fromkeys(names, 0.0)
        for samples, places in self.prefixes.batches(mine):
            batch_losses = losses(self.vlm.model, places, *self.state.applied, kl=config.kl_weight > 0)
            kept = self._finite(batch_losses.total(config), samples)
            if not all(kept):
                places = [place for place, fine in zip(places, kept, strict=True) if fine]
                samples = [sample for sample, fine in zip(samples, kept, strict=True) if fine]
                if not places:
                    continue
                # Run again without them: times 0, their gradient would not be finite all the same.
                batch_losses = losses(self.vlm.model, places, *self.state.applied, kl=config.kl_weight > 0)
            each = batch_losses.total(config)
            if backward:
                each.sum().backward()
            for name, value in (
                ("loss", each),
                ("language", batch_losses.language),
                ("probe", batch_losses.probe),
                ("kl", batch_losses.kl),
            ):
                sums[name] += float(value.detach().sum())
            for sample, turn in zip(samples, batch_losses.turn.tolist(), strict=True):
                kind = turns.KINDS[sample.example.safe]
                sums[kind] += 1
                sums[f"turn_{kind}"] += turn
            sums["count"] += len(places)
        totals = self.accelerator.reduce(
            torch.tensor([sums[name] for name in names], device=self.vlm.model.device), "sum"
        )
        return dict(zip(names, totals.tolist(), strict=True))  # type: ignore[union-attr]

    def _finite(self, each: torch.Tensor, samples: Sequence[Sample]) -> list[bool]:
        """Which rows count. One that is not finite stops the run, or is left out of this batch."""
        finite = torch.isfinite(each.detach()).tolist()
        for sample, fine in zip(samples, finite, strict=True):
            if not fine:
                reason = f"the loss is not finite at batch {self.state.step}"
                self.prefixes.leave_out(sample, reason, "lower training.learning_rate, ")
        return finite

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            self.state.save(self.checkpoint, self.identity, self.fingerprint)

    def _finish(self) -> SafetyReminder:
        """The best vectors, a probe fitted to them, a threshold, and the report. Every process does the same."""
        config = self.config
        best = self.state.best or self.state.learned
        vectors = best["vectors"]
        options = {"vectors": vectors, "interval": config.interval}
        if config.refit:
            own = fit_at("reminder", self.prefixes, self.parts, config, **options)
        else:
            joint = Probe(best["weight"].float().cpu() / (self.state.scale or 1.0), float(best["bias"]))
            own = Fitted(joint, {"kind": "joint"}, read_test("reminder", self.prefixes, self.parts, **options))
        places = RIVALS if config.rivals else ()
        rivals = {where: fit_at(where, self.prefixes, self.parts, config, **options) for where in places}
        thresholds, calibration = calibrate_on_split(own.probe, self.prefixes, self.parts, config, **options)
        report = self._report({"reminder": own, **rivals})
        reminder = SafetyReminder(
            vectors.cpu(),
            own.probe,
            base_model=self.vlm.name,
            fingerprint=self.fingerprint,
            interval=config.interval,
            **thresholds,
            policy=config.policy,
            hold_back_checks=config.hold_back_checks,
            calibration=calibration,
            training={
                "config": config.model_dump(),
                "data": self.manifest,
                "origin": self.origin,
                "seen": sorted({seen_as(s.key) for part in ("training", "validation") for s in self.parts[part]}),
                "batches": self.state.step,
                "validation_turn": self.state.best_loss if math.isfinite(self.state.best_loss) else None,
                "probe": own.how,
                "test": report,
                "turned": self._turns(vectors),
            },
        )
        if self.accelerator.is_main_process:
            reminder.save_pretrained(self.output / "pack")
            options = {"data": self.manifest, "origin": self.origin, "training": config.model_dump()}
            write_summary(self.output, self.vlm, self.metrics, options)
        self.accelerator.wait_for_everyone()
        return reminder

    def _report(self, probes: dict[str, Fitted]) -> dict[str, Any]:
        """Results on the test rows for the pack; plots and metrics for the run folder."""
        judged = {name: (fitted.probe, fitted.test) for name, fitted in probes.items() if fitted.test is not None}
        if not judged:
            return {}
        interval = self.config.interval
        aucs = {name: auc_by(probe(test.hidden), test, interval) for name, (probe, test) in judged.items()}
        if self.accelerator.is_main_process:
            write_report(self.output, judged, interval)
            self.metrics = auc_metrics(judged, interval)
        return {**own_and_rivals(aucs), "rows": len(self.parts["test"])}

    def _turns(self, vectors: torch.Tensor) -> dict[str, Any]:
        """How often the finished reminder turns an answer, on rows that chose nothing if there are such."""
        part = "test" if self.parts["test"] else "validation"
        rows = turns.chosen_rows(self.parts[part], self.config.turn_rows)
        if self.refuses is None or not rows:
            return {}
        interval = self.config.interval
        rates = turns.rates(turns.measure(self.prefixes, rows, vectors, interval, self.refuses), interval)
        self.metrics |= turns.as_metrics(rates)
        return {"rows": part, "written": turns.WRITTEN, "rates": rates}


def validation_cuts(samples: Sequence[Sample], config: TrainingConfig) -> list[tuple[Sample, list[Cut]]]:
    rng = random.Random(f"{config.seed}/validation")
    return [(sample, [draw_cut(sample, rng, config) for _ in range(VALIDATION_CUTS)]) for sample in samples]


@torch.no_grad()
def validation_loss(
    prefixes: Prefixes,
    samples: Sequence[Sample],
    vectors: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    config: TrainingConfig,
) -> float:
    """What training minimises, on the fixed cuts of ``samples``, for vectors and a probe from anywhere."""
    total, count = 0.0, 0
    for _, places in prefixes.batches(validation_cuts(samples, config)):
        batch_losses = losses(prefixes.vlm.model, places, vectors, weight, bias, kl=config.kl_weight > 0)
        total += float(batch_losses.total(config).sum())
        count += len(places)
    return total / count


def learning_rate(step: int, steps: int, config: TrainingConfig) -> float:
    """Linear warm-up, then a cosine to 0."""
    warm = max(1, round(config.warmup_ratio * steps))
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    return config.learning_rate * (0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _means(sums: dict[str, float]) -> dict[str, float]:
    """Over all cuts, and those on the turn over the cuts of their kind, where there are any."""
    all_cuts = [name for name in sums if name not in ("count", *turns.KINDS, *TURNS)]
    means = {name: sums[name] / (sums["count"] or math.nan) for name in all_cuts}
    return means | {f"turn_{kind}": sums[f"turn_{kind}"] / sums[kind] for kind in turns.KINDS if sums[kind]}
