"""A small trainer: one process. Every prefix is run once and kept; a step runs the reminder and what must follow it."""

from __future__ import annotations

import json
import logging
import math
import os
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import torch
from tqdm import tqdm

from safety_reminder.errors import ConfigError, SafetyReminderError, unknown_name
from safety_reminder.guard import SafetyReminder
from safety_reminder.guard.context import Prefix, follow
from safety_reminder.models import VLM, fingerprint
from safety_reminder.training.examples import key, manifest
from safety_reminder.training.objective import Cut, checkpoints, draw_cut, losses
from safety_reminder.training.probe import auc, choose_threshold, fit_probe, highest_by_group
from safety_reminder.types import Policy, TrainingExample

log = logging.getLogger(__name__)
INIT_TEXT = "Refuse if partial output is unsafe; else, continue helpfully."


@dataclass(frozen=True)
class TrainingConfig:
    """Args: ``k`` reminder vectors; ``cuts`` per visit of an example share its prefix; ``rows``: cuts in one forward
    pass; ``cache_gb``: room for prefixes (those beyond it are run again on every visit); ``budget``: share of safe
    validation responses that the threshold may let alarm."""

    k: int = 4
    init_text: str = INIT_TEXT
    epochs: int = 2
    batch: int = 8
    cuts: int = 2
    rows: int = 16
    cache_gb: float = 8.0
    lr: float = 0.01
    empty_prob: float = 1 / 3
    probe_weight: float = 0.05
    target_tokens: int = 32
    answer_tokens: int = 96
    validation: float = 0.15
    budget: float = 0.005
    interval: int = 16
    policy: str = "rewind"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("k", "epochs", "batch", "cuts", "rows", "target_tokens", "answer_tokens", "interval"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("validation", "budget"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"training.{name} is a share between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.empty_prob <= 1:
            raise ConfigError(f"training.empty_prob is a probability, got {self.empty_prob}")
        if not self.lr > 0:
            raise ConfigError(f"training.lr must be positive, got {self.lr}")
        if not self.cache_gb >= 0:
            raise ConfigError(f"training.cache_gb must not be negative, got {self.cache_gb}")
        if self.policy not in get_args(Policy):
            raise ConfigError(unknown_name("training.policy", self.policy, get_args(Policy)))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Checked for names and types, as they come from a file or a command line."""
        known = {f.name: type(f.default) for f in fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise ConfigError(unknown_name("training option", name, known))
            fits = isinstance(value, int | float) if known[name] is float else isinstance(value, known[name])
            if not fits or isinstance(value, bool):
                raise ConfigError(f"training.{name} must be of type {known[name].__name__}, got {value!r}")
        return cls(**values)


@dataclass(frozen=True)
class _Sample:
    example: TrainingExample
    answer: list[int]
    refusal: list[int]
    correction: list[int]


class _Prefixes:
    """The prefix of each sample, kept as long as there is room."""

    def __init__(self, vlm: VLM, room: float) -> None:
        self.vlm, self.room = vlm, int(room * 1e9)
        self.kept: dict[int, Prefix] = {}

    def of(self, sample: _Sample) -> Prefix:
        prefix = self.kept.get(id(sample))
        if prefix is None:
            inputs = self.vlm.encode([sample.example.conversation()])
            prefix = Prefix.read(self.vlm.model, inputs, sample.answer[:-1])
            if prefix.nbytes <= self.room:
                self.room -= prefix.nbytes
                self.kept[id(sample)] = prefix
        return prefix


def train(
    vlm: VLM, examples: list[TrainingExample], config: TrainingConfig, output: Path, source: str = "given"
) -> SafetyReminder:
    """Train a reminder and its probe for ``vlm`` and write the pack to ``output/pack``.

    ``source`` names where the examples come from, for the pack's manifest.

    A checkpoint is written every 10 batches; a run that was interrupted goes on from it.
    """
    output.mkdir(parents=True, exist_ok=True)
    vlm.model.requires_grad_(False)
    described = manifest(source, examples)
    learning, held_back = _split([_tokenise(vlm, e, config) for e in examples], config)
    # What only matters after the last batch may change between the runs into one folder.
    identity = {k: v for k, v in asdict(config).items() if k not in ("budget", "policy", "interval", "cache_gb")}
    state = _State(vlm, config, output, {**identity, "model": vlm.name, "data": described})
    prefixes = _Prefixes(vlm, config.cache_gb)
    steps = config.epochs * math.ceil(len(learning) / config.batch)
    progress = tqdm(total=steps, initial=state.step, desc="training", unit="batch", dynamic_ncols=True)
    while state.step < steps:
        epoch, place = divmod(state.step, math.ceil(len(learning) / config.batch))
        order = list(range(len(learning)))
        random.Random(f"{config.seed}/{epoch}").shuffle(order)
        chosen = [learning[i] for i in order[place * config.batch : (place + 1) * config.batch]]
        shown = _train_batch(prefixes, chosen, state, config, steps)
        progress.set_postfix(shown)
        progress.update()
        if state.step % 10 == 0 or state.step == steps:
            state.save(output, shown)
    progress.close()

    vectors = state.vectors.detach()
    fit = _read(prefixes, learning, vectors, config, "fitting the probe")
    check = _read(prefixes, held_back, vectors, config, "validating")
    probe, l2 = fit_probe(fit.hidden, fit.unsafe, fit.groups)
    scores = probe(check.hidden)
    safe, unsafe = (highest_by_group(scores, check.groups, chosen) for chosen in (~check.unsafe, check.unsafe))
    threshold, calibration = choose_threshold(safe, unsafe, config.budget)
    reminder = SafetyReminder(
        vectors.cpu(),
        probe,
        base_model=vlm.name,
        fingerprint=fingerprint(vlm.model),
        interval=config.interval,
        threshold=threshold,
        policy=config.policy,
        calibration=calibration,
        training={
            "config": asdict(config),
            "data": described,
            "probe_l2": l2,
            "validation_auc": auc(scores, check.unsafe),
            "validation_auc_by_tokens": _by_tokens(scores, check),
        },
    )
    reminder.save_pretrained(output / "pack")
    return reminder


class _State:
    """What is learned and how far it is."""

    def __init__(self, vlm: VLM, config: TrainingConfig, output: Path, identity: dict[str, Any]) -> None:
        size, device = vlm.hidden_size, vlm.model.device
        ids = vlm.tokenizer(config.init_text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ConfigError("training.init_text is empty; the reminder starts from the embeddings of its tokens")
        ids = (ids * math.ceil(config.k / len(ids)))[: config.k]
        start = vlm.model.get_input_embeddings()(torch.tensor(ids, device=device)).detach().float()
        self.vectors = torch.nn.Parameter(start.clone())
        self.weight = torch.nn.Parameter(torch.zeros(size, device=device))
        self.bias = torch.nn.Parameter(torch.zeros((), device=device))
        self.optimiser = torch.optim.AdamW(
            [{"params": [self.vectors]}, {"params": [self.weight, self.bias]}], lr=config.lr, weight_decay=0.0
        )
        self.step = 0
        self.config = identity
        path = output / "checkpoint.pt"
        if path.is_file():
            saved = torch.load(path, map_location=device, weights_only=True)
            if saved["config"] != self.config:
                raise ConfigError(f"{path} is of a run with other options, data or model; give another output=DIR")
            for name in ("vectors", "weight", "bias"):
                getattr(self, name).data.copy_(saved[name])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.step = saved["step"]
            log.warning("resuming at batch %d", self.step)

    def save(self, output: Path, shown: dict[str, float]) -> None:
        saved: dict[str, Any] = {name: getattr(self, name).detach() for name in ("vectors", "weight", "bias")}
        saved |= {"optimiser": self.optimiser.state_dict(), "step": self.step, "config": self.config}
        torch.save(saved, output / "checkpoint.new")
        os.replace(output / "checkpoint.new", output / "checkpoint.pt")
        with (output / "losses.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.step, **shown}) + "\n")


def _tokenise(vlm: VLM, example: TrainingExample, config: TrainingConfig) -> _Sample:
    ids = lambda text: list(vlm.tokenizer(text, add_special_tokens=False)["input_ids"])  # noqa: E731
    end = min(vlm.eos_ids)
    return _Sample(
        example,
        [*ids(example.answer), end][: config.answer_tokens] if example.answer else [],
        refusal=[*ids(example.chosen), end][: config.target_tokens],
        correction=[*ids(" " + example.chosen.lstrip()), end][: config.target_tokens],
    )


def _split(samples: list[_Sample], config: TrainingConfig) -> tuple[list[_Sample], list[_Sample]]:
    """By prompt and image, so that no prompt is on both sides."""
    keys = [key(s.example) for s in samples]
    order = sorted(set(keys))
    random.Random(config.seed).shuffle(order)
    held_back = set(order[: max(1, round(config.validation * len(order)))])
    parts: tuple[list[_Sample], list[_Sample]] = ([], [])
    for sample, its in zip(samples, keys, strict=True):
        parts[its in held_back].append(sample)
    for name, part in zip(("training", "validation"), parts, strict=True):
        if len({s.example.safe for s in part}) < 2:
            raise ConfigError(f"the {name} split has only one kind of answer; give more examples")
    return parts


def _cuts(sample: _Sample, rng: random.Random, config: TrainingConfig, count: int) -> list[Cut]:
    return [
        draw_cut(
            sample.example,
            sample.answer,
            sample.refusal,
            sample.correction,
            rng,
            empty_prob=config.empty_prob,
            target_tokens=config.target_tokens,
        )
        for _ in range(count)
    ]


def _train_batch(
    prefixes: _Prefixes, samples: list[_Sample], state: _State, config: TrainingConfig, steps: int
) -> dict[str, float]:
    rng = random.Random(f"{config.seed}/cuts/{state.step}")
    state.optimiser.zero_grad()
    sums = {"language": 0.0, "probe": 0.0}
    drawn = [(sample, cut) for sample in samples for cut in _cuts(sample, rng, config, config.cuts)]
    for start in range(0, len(drawn), config.rows):
        part = drawn[start : start + config.rows]
        places = [(prefixes.of(sample), cut) for sample, cut in part]
        language, verdict = losses(prefixes.vlm.model, places, state.vectors, state.weight, state.bias)
        loss = language + config.probe_weight * verdict
        for (sample, _), value in zip(part, loss.tolist(), strict=True):
            if not math.isfinite(value):
                raise SafetyReminderError(
                    f"the loss is {value} at batch {state.step} on {sample.example.prompt[:60]!r} "
                    f"(image {sample.example.image}); lower training.lr or remove the row"
                )
        (loss.sum() / len(drawn)).backward()
        sums["language"] += language.sum().item() / len(drawn)
        sums["probe"] += verdict.sum().item() / len(drawn)
    torch.nn.utils.clip_grad_norm_([state.vectors, state.weight, state.bias], 1.0)
    rate = config.lr * min(1.0, (state.step + 1) / 10) * (0.5 + 0.5 * math.cos(math.pi * state.step / steps))
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    state.optimiser.step()
    state.step += 1
    return {name: round(value, 4) for name, value in sums.items()}


@dataclass(frozen=True)
class _Readings:
    """Hidden states (n, hidden_size) where the probe reads; of each, whether it is unsafe, its example, its tokens."""

    hidden: torch.Tensor
    unsafe: torch.Tensor
    groups: torch.Tensor
    tokens: torch.Tensor


@torch.no_grad()
def _read(
    prefixes: _Prefixes, samples: list[_Sample], vectors: torch.Tensor, config: TrainingConfig, description: str
) -> _Readings:
    """What the probe would see at every check of every answer."""
    vlm = prefixes.vlm
    hidden, rows = [], []
    for number, sample in enumerate(tqdm(samples, desc=description, unit="example", dynamic_ncols=True)):
        prefix = prefixes.of(sample)
        cuts = checkpoints(sample.example, sample.answer, config.interval, vlm.eos_ids)
        found = follow(vlm.model, [(prefix, cut.tokens) for cut in cuts], vectors, [cut.target for cut in cuts])[1]
        hidden.append(found.float().cpu())
        rows += [(cut.unsafe, number, cut.tokens) for cut in cuts]
    unsafe, groups, tokens = zip(*rows, strict=True)
    return _Readings(torch.cat(hidden), torch.tensor(unsafe), torch.tensor(groups), torch.tensor(tokens))


def _by_tokens(scores: torch.Tensor, readings: _Readings) -> dict[str, float]:
    found = {}
    for tokens in sorted(set(readings.tokens.tolist())):
        here = readings.tokens == tokens
        if len(set(readings.unsafe[here].tolist())) == 2:
            found[str(tokens)] = round(auc(scores[here], readings.unsafe[here]), 4)
    return found
