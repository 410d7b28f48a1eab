"""Does a guard know harm, or the topics it was shown? Each topic (attack, source) is left out in turn: probe and
threshold come from all other rows, and are tested on its own.

A score is that of a whole response, the highest ``p_unsafe`` over its checks, as it is where the threshold is set.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from safety_reminder.errors import ConfigError
from safety_reminder.evaluation.statistics import Metric, mean, median, proportion, shown
from safety_reminder.guard import Probe
from safety_reminder.models import VLM
from safety_reminder.training.config import TrainingConfig
from safety_reminder.training.leave_out import AT_RANDOM, LABELS, require_known, set_apart
from safety_reminder.training.prefixes import Prefixes
from safety_reminder.training.probing.calibration import calibrate_on, highest_by_group
from safety_reminder.training.probing.readings import Readings, prompt_numbers, read
from safety_reminder.training.probing.regression import auc, auc_interval, fit_probe
from safety_reminder.training.samples import Sample, seen_as, split
from safety_reminder.training.trainer import train
from safety_reminder.types import TrainingExample


class TooFew(ConfigError):
    """Without one value, what is left cannot be split: all harmless rows have it, for example."""


@dataclass(frozen=True)
class Fold:
    """What a probe does on rows with the value ``left_out`` of the label ``by``, of which it saw none.

    ``unsafe``, ``harmless``: responses (of harmless requests, not refusals). ``beside``: whose harmless responses the
    AUC is against, its ``own`` or, where it has none, those that were held back of ``others``. ``auc``: of responses;
    ``auc_at_the_prompt``: of the checks before the first token. ``missed``: unsafe responses that no check finds;
    ``false_alarms``: of harmless ones, ``false_alarms_others``: of those of others. ``threshold``: what was
    calibrated on others. ``seen``: how many of these rows the vectors were trained on. ``dropped``: rows of others that
    ask the same as one of them, and were not learned from either.
    """

    by: str
    left_out: str
    unsafe: int
    harmless: int
    beside: str
    auc: Metric | None
    auc_at_the_prompt: Metric | None
    missed: Metric | None
    false_alarms: Metric | None
    false_alarms_others: Metric | None
    threshold: float
    seen: int
    vectors: str = "kept"
    dropped: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Any) -> Fold:
        """Raises: ConfigError: it is not what :meth:`as_json` gives."""
        try:
            values: dict[str, Any] = {k: Metric(**v) if isinstance(v, dict) else v for k, v in row.items()}
            return cls(**values)
        except (TypeError, AttributeError) as error:
            raise ConfigError(f"not a line of the table ({error})") from error


def labels_digest(samples: Sequence[Sample]) -> str:
    """SHA-256 of what the rows say of themselves."""
    labels = [[label(sample.example) for label in LABELS.values()] for sample in samples]
    return hashlib.sha256(json.dumps(labels).encode()).hexdigest()


def parts_without(
    samples: Sequence[Sample], by: str, value: str, config: TrainingConfig, seen: Collection[str] = ()
) -> tuple[dict[str, list[Sample]], list[Sample]]:
    """(the other rows by part, those that are left out). The test part is what is held back of the others.

    Raises:
        TooFew: the others are too few for a part.
    """
    plain = config.with_changes(leave_out=None)
    if value == AT_RANDOM:
        parts = split(samples, plain, held_back=("calibration", "test"), seen=seen)
        return parts, parts["test"]
    entry = [f"{by}:{value}"]
    require_known([sample.example for sample in samples], entry)
    others, left = set_apart(samples, entry)
    try:
        return split(others, plain, held_back=("calibration", "test"), seen=seen), left
    except ConfigError as error:
        raise TooFew(f"without {by} {value!r}, {error}") from error


@dataclass(frozen=True)
class Read:
    """All rows, read once: ``readings`` by the number of the sample in ``samples``."""

    samples: Sequence[Sample]
    readings: Readings

    def of(self, part: Sequence[Sample], *, further: bool = False) -> Readings:
        """Of the rows of ``part``; with ``further``, also where no check of a plain answer is."""
        number = {id(sample): n for n, sample in enumerate(self.samples)}
        wanted = torch.tensor(sorted(number[id(sample)] for sample in part), dtype=torch.long)
        chosen = self.readings.select(torch.isin(self.readings.groups, wanted))
        return chosen if further else chosen.checks

    def by_key(self, readings: Readings) -> Readings:
        """With the answers to one prompt as one group, since they are alike."""
        return replace(readings, groups=prompt_numbers(self.samples)[readings.groups])


def without(
    rows: Read, by: str, value: str, config: TrainingConfig, *, prompt_check: bool, seen: Collection[str] = ()
) -> Fold:
    """Fit a probe and a threshold without the rows of ``value``, and test them on these.

    Args:
        prompt_check: the bare prompt is a check too. seen: what the vectors were trained on (``seen_as``).

    Raises:
        TooFew: the other rows are too few for a part.
    """
    parts, left = parts_without(rows.samples, by, value, config, seen)
    fitting = rows.of(parts["training"], further=True)
    probe, _ = fit_probe(
        fitting.hidden, fitting.unsafe, fitting.groups, kind=config.probe, components=config.pca_components
    )
    calibration = [sample for sample in parts["calibration"] if sample.example.safe]
    checks = rows.by_key(rows.of(calibration))
    threshold, _ = calibrate_on(probe, checks, config.false_alarm_budget, prompt_check=prompt_check)
    held_back = [] if value == AT_RANDOM else parts["test"]
    fold = judge(rows, left, held_back, probe, threshold, prompt_check=prompt_check, seen=seen)
    dropped = 0 if value == AT_RANDOM else len(rows.samples) - len(left) - sum(map(len, parts.values()))
    return replace(fold, by=by, left_out=value, dropped=dropped)


def without_at_all(
    vlm: VLM,
    examples: Sequence[TrainingExample],
    samples: Sequence[Sample],
    by: str,
    value: str,
    config: TrainingConfig,
    folder: Path,
    source: str,
) -> Fold:
    """As :func:`without`, with vectors of its own too: a run of ``train`` in ``folder``, which goes on where it was.

    Raises:
        TooFew: as :func:`without`.
    """
    leave_out = None if value == AT_RANDOM else f"{by}:{value}"
    config = config.with_changes(leave_out=leave_out)
    try:
        parts = split(samples, config)
    except ConfigError as error:
        raise TooFew(f"without {by} {value!r}, {error}") from error
    pack = train(vlm, examples, config, folder, source)
    tested, dropped = parts["test"], len(samples) - sum(map(len, parts.values()))
    left = [s for s in tested if leave_out is None or LABELS[by](s.example) == value]
    held_back = [s for s in tested if leave_out is not None and LABELS[by](s.example) != value]
    prefixes = Prefixes(vlm, config.with_changes(prefix_cache_gb=0.0), folder / "prefixes")
    readings = Read(tested, read(prefixes, tested, pack.vectors, pack.interval, description="testing"))
    fold = judge(readings, left, held_back, pack.probe, pack.threshold, prompt_check=pack.prompt_check)
    return replace(fold, by=by, left_out=value, vectors="retrained", dropped=dropped)


def judge(
    rows: Read,
    left: Sequence[Sample],
    held_back: Sequence[Sample],
    probe: Probe,
    threshold: float,
    *,
    prompt_check: bool,
    seen: Collection[str] = (),
) -> Fold:
    """A probe and a threshold on the rows ``left`` out, and on those of others that were ``held_back``."""
    unsafe = [sample for sample in left if not sample.example.safe]
    own, others = _harmless(left), _harmless(held_back)
    checked = lambda tokens: tokens >= (0 if prompt_check else 1)  # noqa: E731
    at_prompt = lambda tokens: tokens == 0  # noqa: E731
    harmful, harmless, of_others = (_scores(rows, part, probe, checked) for part in (unsafe, own, others))
    prompts = [_scores(rows, part, probe, at_prompt) for part in (unsafe, own or others)]
    return Fold(
        by="",
        left_out="",
        unsafe=len(unsafe),
        harmless=len(own),
        beside="own" if own else "others",
        auc=_auc(harmful, harmless if own else of_others),
        auc_at_the_prompt=_auc(*prompts),
        missed=_share(harmful, lambda p: p < threshold),
        false_alarms=_share(harmless, lambda p: p >= threshold),
        false_alarms_others=_share(of_others, lambda p: p >= threshold),
        threshold=threshold,
        seen=sum(seen_as(sample.key) in seen for sample in left),
    )


def _harmless(samples: Sequence[Sample]) -> list[Sample]:
    """Answers to harmless requests; a refusal of a harmful one is safe too, and is none."""
    return [sample for sample in samples if sample.example.safe and not sample.example.harmful_prompt]


@dataclass(frozen=True)
class _Scores:
    """The highest ``p`` of each response, (n,), and which responses are to one prompt, (n,)."""

    p: torch.Tensor
    keys: torch.Tensor


def _scores(
    rows: Read, samples: Sequence[Sample], probe: Probe, where: Callable[[torch.Tensor], torch.Tensor]
) -> _Scores:
    """Over the checks after so many tokens as ``where`` says; responses without any have no score."""
    checks = rows.of(samples)
    checks = checks.select(where(checks.tokens))
    highest = highest_by_group(probe(checks.hidden), checks.groups)
    return _Scores(highest, prompt_numbers(rows.samples)[checks.groups.unique()])


def _auc(harmful: _Scores, harmless: _Scores) -> Metric | None:
    if not len(harmful.p) or not len(harmless.p):
        return None
    scores = torch.cat([harmful.p, harmless.p])
    unsafe = torch.arange(len(scores)) < len(harmful.p)
    low, high = auc_interval(scores, unsafe, torch.cat([harmful.keys, harmless.keys]))
    return Metric(auc(scores, unsafe), low, high, len(scores), "score")


def _share(scores: _Scores, holds: Callable[[torch.Tensor], torch.Tensor]) -> Metric | None:
    """Wilson's interval counts prompts, since the answers to one are alike."""
    prompts = len(scores.keys.unique())
    return proportion(float(holds(scores.p).float().mean()) * prompts, prompts) if prompts else None


def summarise(folds: Sequence[Fold]) -> dict[str, Metric]:
    """Over the values of each label: the median AUC, and mean shares of what is missed and of false alarms. Intervals
    draw values; ``n`` counts them."""
    metrics: dict[str, Metric] = {}
    for by in dict.fromkeys(fold.by for fold in folds):
        own = [fold for fold in folds if fold.by == by and fold.left_out != AT_RANDOM]
        for name in ("auc", "auc_at_the_prompt"):
            if values := [metric.value for fold in own if (metric := getattr(fold, name)) is not None]:
                metrics[f"leave_one_{by}_out_{name}_median"] = median(values, "score")
        for name in ("missed", "false_alarms"):
            if values := [metric.value for fold in own if (metric := getattr(fold, name)) is not None]:
                metrics[f"leave_one_{by}_out_{name}"] = mean(values, "share")
    return metrics


def as_csv(folds: Sequence[Fold]) -> str:
    """One row a fold; of a metric its value, ``_low`` and ``_high``, empty where there is none."""
    metrics = {field.name for field in fields(Fold) if "Metric" in str(field.type)}
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = [[f.name, f"{f.name}_low", f"{f.name}_high"] if f.name in metrics else [f.name] for f in fields(Fold)]
    writer.writerow([head for group in heads for head in group])
    for fold in folds:
        cells: list[Any] = []
        for field in fields(Fold):
            value = getattr(fold, field.name)
            if field.name in metrics:
                cells += ["", "", ""] if value is None else [f"{x:.4f}" for x in (value.value, value.low, value.high)]
            else:
                cells.append(f"{value:.4f}" if isinstance(value, float) else value)
        writer.writerow(cells)
    return file.getvalue()


_HEADS = {
    "auc": "AUC",
    "auc_at_the_prompt": "at the prompt",
    "missed": "missed",
    "false_alarms": "false alarms",
    "false_alarms_others": "of others",
}


def as_table(folds: Sequence[Fold]) -> str:
    """For people, a line a fold."""
    lines = []
    for by in dict.fromkeys(fold.by for fold in folds):
        lines.append([f"without {by}", "harmful", "harmless", *_HEADS.values(), "threshold", "seen"])
        for fold in folds:
            if fold.by == by:
                cells = [_cell(getattr(fold, name)) for name in _HEADS]
                cells[0] += "" if fold.beside == "own" or fold.auc is None else " *"
                counts = [str(fold.unsafe), str(fold.harmless)]
                lines.append([fold.left_out, *counts, *cells, f"{fold.threshold:.3f}", str(fold.seen)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    if any(fold.beside == "others" and fold.auc is not None for fold in folds):
        text.append("* against harmless rows of others: it has none of its own")
    return "\n".join(text)


def _cell(metric: Metric | None) -> str:
    if metric is None:
        return "-"
    value, interval, _ = shown(metric)
    return f"{value} {interval}".rstrip()
