"""The training loop. Every prefix is run once; a step runs the reminder and what must follow it, and nothing else.

All that is random comes from the seed and the step, so that a run that was killed goes on exactly as it would have.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import pickle
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from safety_reminder.errors import ConfigError, MissingExtraError, SafetyReminderError
from safety_reminder.guard import Probe, SafetyReminder
from safety_reminder.models import VLM, embedding_weight, fingerprint, fingerprint_mismatch, token_vectors
from safety_reminder.training.config import TrainingConfig
from safety_reminder.training.logs import Logs
from safety_reminder.training.objective import Cut, draw_cut, losses
from safety_reminder.training.probing.calibration import calibrate_on_split
from safety_reminder.training.probing.places import RIVALS, Fitted, fit_at, read_test
from safety_reminder.training.probing.readings import auc_by
from safety_reminder.training.probing.report import auc_metrics, write_report, write_summary
from safety_reminder.training.samples import Prefixes, Sample, make_samples, manifest, seen_as, split, write_splits
from safety_reminder.types import TrainingExample

log = logging.getLogger(__name__)
SAVE_EVERY = 10
SUMMATION = 1e-4  # of a norm: the same weights on another machine, summed in another order
# What may change between two runs into one folder: what only matters after the last step, and whether a row that cannot
# be used stops the run.
_LATER = (
    "on_error",
    "budget",
    "prompt_check",
    "policy",
    "interval",
    "keep",
    "keep_gb",
    "log_with",
    "probe",
    "pca",
    "refit",
    "rivals",
)


def train(
    vlm: VLM,
    examples: Sequence[TrainingExample],
    config: TrainingConfig,
    output: Path,
    source: str = "given",
    origin: Mapping[str, Any] | None = None,
) -> SafetyReminder:
    """Train a reminder and its probe for ``vlm`` and write the pack to ``output/pack``.

    Under ``accelerate launch`` the rows of a batch are shared among the processes; the result is that of one process.
    ``source`` names where the examples come from, for the pack's manifest; ``origin`` is what else the pack and
    ``summary.json`` shall say of them, such as the options they were drawn with.
    """
    return Trainer(vlm, examples, config, output, source, origin).run()


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
    ) -> None:
        for package in ("sklearn", "matplotlib"):  # they are needed at the end, and that would be late to find out
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, "train")
        self.vlm, self.config, self.output, self.origin = vlm, config, output, dict(origin or {})
        output.mkdir(parents=True, exist_ok=True)
        # Its precision is the process's, once and for all; a run's own is set in `run`.
        self.accelerator = Accelerator(cpu=vlm.model.device.type == "cpu", mixed_precision="no")
        samples = make_samples(vlm, examples, config)
        self.parts = split(samples, config)
        self.manifest = manifest(source, samples)
        self.prefixes = Prefixes(vlm, config, output / f"prefixes-{self.accelerator.process_index}")
        self.steps_per_epoch = math.ceil(len(self.parts["training"]) / config.batch)
        self.steps = config.epochs * self.steps_per_epoch
        later = {name: value for name, value in asdict(config).items() if name not in _LATER}
        self.identity = {**later, "dtype": str(vlm.model.dtype), "data": self.manifest}
        self.fingerprint = fingerprint(vlm.model)
        self._start()

    def _start(self) -> None:
        config, size, device = self.config, self.vlm.hidden_size, self.vlm.model.device
        self.vectors = torch.nn.Parameter(initial_vectors(self.vlm, config))
        self.weight = torch.nn.Parameter(torch.zeros(size, device=device))
        self.bias = torch.nn.Parameter(torch.zeros((), device=device))
        self.optimiser = torch.optim.AdamW(
            [{"params": [self.vectors]}, {"params": [self.weight, self.bias], "weight_decay": 0.0}],
            lr=config.lr,
            weight_decay=config.weight_decay,
        )
        self.metrics: dict[str, Any] = {}
        self.step, self.best, self.best_loss, self.worse, self.stopped = 0, None, math.inf, 0, False
        self.empty = 0  # batches in a row of which no row could be used
        path = self.output / "checkpoint.pt"
        if path.is_file():
            try:
                saved = torch.load(path, map_location=device, weights_only=True)
            except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
                reason = type(error).__name__  # torch's own text advises to load what is not trusted
                raise ConfigError(
                    f"{path} is damaged, or no checkpoint ({reason}); remove it, or give another output=DIR"
                ) from error
            if saved["identity"] != self.identity or fingerprint_mismatch(
                saved["model"], self.vlm.model, tolerance=SUMMATION
            ):
                raise ConfigError(f"{path} is of a run with other options, data or model; give another output=DIR")
            for name, value in saved["learned"].items():
                getattr(self, name).data.copy_(value)
            self.optimiser.load_state_dict(saved["optimiser"])
            for name in ("step", "best", "best_loss", "worse", "stopped"):
                setattr(self, name, saved[name])
            log.warning("resuming at batch %d", self.step)
        if self.accelerator.is_main_process:
            write_splits(self.output, self.parts)
        self.logs = Logs(self.output, self.config.log_with, self.step, self.accelerator.is_main_process)

    @property
    def learned(self) -> dict[str, torch.Tensor]:
        return {"vectors": self.vectors.detach(), "weight": self.weight.detach(), "bias": self.bias.detach()}

    def run(self) -> SafetyReminder:
        trained = {name: p.requires_grad for name, p in self.vlm.model.named_parameters()}
        self.vlm.model.requires_grad_(False)
        try:
            mixed = self.config.mixed_precision != "none"
            with torch.autocast(self.vlm.model.device.type, torch.bfloat16, enabled=mixed):
                self._learn()
            return self._finish()
        finally:
            for name, parameter in self.vlm.model.named_parameters():
                parameter.requires_grad_(trained[name])
            self.prefixes.forget()
            self.logs.close()

    def _learn(self) -> None:
        main = self.accelerator.is_main_process
        progress = tqdm(
            total=self.steps, initial=self.step, desc="training", unit="batch", dynamic_ncols=True, disable=not main
        )
        rows = self.parts["training"]
        while self.step < self.steps and not self.stopped:
            epoch, place = divmod(self.step, self.steps_per_epoch)
            order = list(range(len(rows)))
            random.Random(f"{self.config.seed}/{epoch}").shuffle(order)
            batch = [rows[i] for i in order[place * self.config.batch : (place + 1) * self.config.batch]]
            shown = self._train_batch(batch)
            if self.step % self.steps_per_epoch == 0:
                shown |= self._validate()
            self.logs.write(self.step, shown)
            progress.set_postfix({name: f"{value:.4f}" for name, value in shown.items()})
            progress.update()
            if self.step % SAVE_EVERY == 0 or self.step == self.steps or self.stopped:
                self._save()
        progress.close()

    def _train_batch(self, samples: Sequence[Sample]) -> dict[str, float]:
        config = self.config
        rng = random.Random(f"{config.seed}/cuts/{self.step}")
        drawn = [(sample, [draw_cut(sample, rng, config) for _ in range(config.cuts)]) for sample in samples]
        rate = learning_rate(self.step, self.steps, config)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        sums = self._sums(drawn, backward=True)
        self.empty = 0 if sums["count"] else self.empty + 1
        if self.empty:
            if self.empty == self.steps_per_epoch:
                raise SafetyReminderError(
                    f"no row of the last {self.empty} batches has a finite loss (batch {self.step}); lower training.lr"
                )
            self.step += 1
            return _means(sums) | {"learning_rate": rate, "gradient_norm": 0.0}
        parameters = [self.vectors, self.weight, self.bias]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = self.accelerator.reduce(parameter.grad, "sum") / sums["count"]  # type: ignore
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        if not torch.isfinite(norm):
            raise SafetyReminderError(f"the gradient is not finite at batch {self.step}; lower training.lr")
        self.optimiser.step()
        self.step += 1
        return _means(sums) | {"learning_rate": rate, "gradient_norm": float(norm)}

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """The loss on fixed cuts of the validation rows; the best vectors so far are kept."""
        sums = self._sums(validation_cuts(self.parts["validation"], self.config), backward=False)
        if not sums["count"]:
            raise SafetyReminderError(f"no row of the validation part has a finite loss at batch {self.step}")
        means = _means(sums)
        if means["loss"] < self.best_loss:
            self.best_loss, self.worse = means["loss"], 0
            self.best = {name: value.clone() for name, value in self.learned.items()}
        else:
            self.worse += 1
            self.stopped = 0 < self.config.patience <= self.worse
        return {f"validation_{name}": value for name, value in means.items()}

    def _sums(self, drawn: Sequence[tuple[Sample, list[Cut]]], *, backward: bool) -> dict[str, float]:
        """Summed losses over all processes, each with its share of ``drawn``; with ``backward``, also gradients."""
        config = self.config
        mine = drawn[self.accelerator.process_index :: self.accelerator.num_processes]
        names = ("loss", "language", "probe", "kl", "count")
        sums: dict[str, float] = dict.fromkeys(names, 0.0)
        learned = (self.vectors, self.weight, self.bias)
        for samples, places in self.prefixes.batches(mine):
            found = losses(self.vlm.model, places, *learned, kl=config.kl_weight > 0)
            kept = self._finite(found.total(config), samples)
            if not all(kept):
                places = [place for place, fine in zip(places, kept, strict=True) if fine]
                if not places:
                    continue
                # Run again without them: times 0, their gradient would not be finite all the same.
                found = losses(self.vlm.model, places, *learned, kl=config.kl_weight > 0)
            each = found.total(config)
            if backward:
                each.sum().backward()
            for name, value in (("loss", each), ("language", found.language), ("probe", found.probe), ("kl", found.kl)):
                sums[name] += float(value.detach().sum())
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
                reason = f"the loss is not finite at batch {self.step}"
                self.prefixes.leave_out(sample, reason, "lower training.lr, ")
        return finite

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        saved: dict[str, Any] = {"learned": self.learned, "optimiser": self.optimiser.state_dict()}
        saved |= {name: getattr(self, name) for name in ("step", "best", "best_loss", "worse", "stopped", "identity")}
        saved["model"] = self.fingerprint
        path = self.output / "checkpoint.pt"
        torch.save(saved, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)

    def _finish(self) -> SafetyReminder:
        """The best vectors, a probe read behind them, a threshold, and the report. Every process does it alike."""
        config = self.config
        best = self.best or self.learned
        vectors = best["vectors"]
        options = {"vectors": vectors, "interval": config.interval}
        if config.refit:
            own = fit_at("reminder", self.prefixes, self.parts, config, **options)
        else:
            joint = Probe(best["weight"].float().cpu(), float(best["bias"]))
            own = Fitted(joint, {"kind": "joint"}, read_test("reminder", self.prefixes, self.parts, **options))
        places = RIVALS if config.rivals else ()
        rivals = {where: fit_at(where, self.prefixes, self.parts, config, **options) for where in places}
        threshold, calibration = calibrate_on_split(own.probe, self.prefixes, self.parts, config, **options)
        report = self._report({"reminder": own, **rivals})
        reminder = SafetyReminder(
            vectors.cpu(),
            own.probe,
            base_model=self.vlm.name,
            fingerprint=self.fingerprint,
            interval=config.interval,
            threshold=threshold,
            policy=config.policy,
            calibration=calibration,
            training={
                "config": asdict(config),
                "data": self.manifest,
                "origin": self.origin,
                "seen": sorted({seen_as(s.key) for part in ("training", "validation") for s in self.parts[part]}),
                "batches": self.step,
                "validation_loss": self.best_loss if math.isfinite(self.best_loss) else None,
                "probe": own.how,
                "test": report,
            },
        )
        if self.accelerator.is_main_process:
            reminder.save_pretrained(self.output / "pack")
            options = {"data": self.manifest, "origin": self.origin, "training": asdict(config)}
            write_summary(self.output, self.vlm, self.metrics, options)
        self.accelerator.wait_for_everyone()
        return reminder

    def _report(self, probes: dict[str, Fitted]) -> dict[str, Any]:
        """What the test rows say, for the pack; and for the run folder, plots and metrics."""
        judged = {name: (fitted.probe, fitted.test) for name, fitted in probes.items() if fitted.test is not None}
        if not judged:
            return {}
        interval = self.config.interval
        found = {name: auc_by(probe(test.hidden), test, interval) for name, (probe, test) in judged.items()}
        if self.accelerator.is_main_process:
            write_report(self.output, judged, interval)
            self.metrics = auc_metrics(judged, interval)
        rivals = {name: auc for name, auc in found.items() if name != "reminder"}
        return {"auc": found["reminder"], "rows": len(self.parts["test"]), **({"rivals": rivals} if rivals else {})}


def validation_cuts(samples: Sequence[Sample], config: TrainingConfig) -> list[tuple[Sample, list[Cut]]]:
    rng = random.Random(f"{config.seed}/validation")
    return [(sample, [draw_cut(sample, rng, config) for _ in range(4)]) for sample in samples]


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
        found = losses(prefixes.vlm.model, places, vectors, weight, bias, kl=config.kl_weight > 0)
        total += float(found.total(config).sum())
        count += len(places)
    return total / count


def initial_vectors(vlm: VLM, config: TrainingConfig) -> torch.Tensor:
    """(k, hidden_size) float32: the embeddings of the first k tokens of a text, or random ones of their size."""
    if config.init == "random":
        generator = torch.Generator().manual_seed(config.seed)
        drawn = torch.randn(config.k, vlm.hidden_size, generator=generator)
        some = token_vectors(vlm.model, range(min(1024, len(embedding_weight(vlm.model)))))
        return (drawn * some.std().cpu()).to(vlm.model.device)
    ids = vlm.tokenizer(config.init_text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ConfigError("training.init_text is empty; the reminder starts from the embeddings of its tokens")
    ids = (ids * math.ceil(config.k / len(ids)))[: config.k]
    return token_vectors(vlm.model, ids)


def learning_rate(step: int, steps: int, config: TrainingConfig) -> float:
    """Linear warm-up, then a cosine to 0."""
    warm = max(1, round(config.warmup * steps))
    if step < warm:
        return config.lr * (step + 1) / warm
    return config.lr * (0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _means(sums: dict[str, float]) -> dict[str, float]:
    return {name: value / (sums["count"] or math.nan) for name, value in sums.items() if name != "count"}
