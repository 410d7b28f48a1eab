"""One step of the trainer and what it minimises, against the same computed by hand: row by row, without the loop."""

from __future__ import annotations

import math
import random
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from checkpoints import tiny_vlm
from safety_reminder.data.training_sets.loading import read_training_file
from safety_reminder.models.prefix import Prefix
from safety_reminder.models.scoring import Place, follow
from safety_reminder.training import TrainingConfig, objective, state, trainer
from safety_reminder.training.samples import Sample
from training.test_trainer import CONFIG, write_examples

# A gradient that is not cut, since what it was is to be seen.
STEP = CONFIG.with_changes(max_grad_norm=1e9, kl_weight=0.5, unheeded_prob=0.5)


@pytest.fixture(autouse=True)
def _frozen():
    with state.frozen(tiny_vlm().model):
        yield


def begun(folder: Path, config: TrainingConfig = STEP, **changes: Any) -> trainer.Trainer:
    data = write_examples(folder)
    config = config.with_changes(**changes)
    return trainer.Trainer(tiny_vlm(), read_training_file(data), config, folder / "run", data.name)


def by_hand(run: trainer.Trainer, samples: list[Sample]) -> tuple[list[torch.Tensor], float]:
    """The gradient of the mean loss over all cuts of the step that comes next, each run alone, and that loss."""
    config, rng = run.config, random.Random(f"{run.config.seed}/cuts/{run.state.step}")
    learned = [parameter.detach().clone().requires_grad_() for parameter in run.state.parameters]
    cuts = [(sample, objective.draw_cut(sample, rng, config)) for sample in samples for _ in range(config.cuts)]
    each = [
        objective.losses(run.vlm.model, [(run.prefixes.of(sample), cut)], *learned, kl=True).total(config)
        for sample, cut in cuts
    ]
    mean = torch.cat(each).mean()
    return list(torch.autograd.grad(mean, learned)), float(mean.detach())


def norm(gradients: list[torch.Tensor]) -> float:
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


@pytest.mark.parametrize("micro_batch_size", [1, 3, 64])
def test_a_step_follows_the_mean_over_its_cuts_however_many_share_a_pass(tmp_path, micro_batch_size):
    run = begun(tmp_path, micro_batch_size=micro_batch_size)
    rows = run.parts["training"]
    for samples in (rows[:4], rows[4:7]):  # the second of them: nothing is left of the first, nor is a row counted
        gradients, loss = by_hand(run, samples)
        shown = run._train_batch(samples)
        assert shown["gradient_norm"] == pytest.approx(norm(gradients), rel=1e-4)
        assert shown["loss"] == pytest.approx(loss, rel=1e-4)
        for parameter, expected in zip(run.state.parameters, gradients, strict=True):
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, expected, rtol=1e-3, atol=1e-5)
    assert run.state.step == 2


def test_the_parts_of_the_loss_that_are_logged_make_up_the_whole(tmp_path):
    run = begun(tmp_path)
    shown = run._train_batch(run.parts["training"][:4])
    whole = shown["language"] + run.config.probe_weight * shown["probe"] + run.config.kl_weight * shown["kl"]
    assert shown["loss"] == pytest.approx(whole, rel=1e-5)
    assert min(shown["language"], shown["probe"], shown["kl"]) > 0


def test_a_long_gradient_is_cut_to_the_norm_that_was_asked_for_and_logged_as_it_was(tmp_path):
    run = begun(tmp_path, max_grad_norm=0.01)
    samples = run.parts["training"][:4]
    gradients, _ = by_hand(run, samples)
    shown = run._train_batch(samples)
    assert shown["gradient_norm"] == pytest.approx(norm(gradients), rel=1e-4)
    assert shown["gradient_norm"] > 0.05
    cut = [parameter.grad for parameter in run.state.parameters if parameter.grad is not None]
    assert norm(cut) == pytest.approx(0.01, rel=1e-3)


class OneOf:
    """An accelerator of one of several processes, whose others have said already what they have to sum up."""

    is_main_process, trackers = True, ()

    def __init__(self, index: int, count: int, others: list[list[torch.Tensor]]) -> None:
        self.process_index, self.num_processes, self.others = index, count, others
        self.said: list[torch.Tensor] = []

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        number = len(self.said)
        self.said.append(tensor.detach().clone())
        total = sum((other[number] for other in self.others), tensor)
        return total if reduction == "sum" else total / self.num_processes


def test_processes_that_share_a_batch_take_the_step_of_one(tmp_path):
    alone = begun(tmp_path / "alone")
    samples = alone.parts["training"][:3]  # one process has two rows, the other one
    expected = alone._train_batch(samples)
    said: list[list[torch.Tensor]] = []
    for others in ([], None):
        run = begun(tmp_path / f"{len(said)}")
        accelerator: Any = OneOf(len(said), 2, said if others is None else others)
        run.accelerator = accelerator
        shown = run._train_batch(samples)
        said.append(accelerator.said)
    counts = [float(totals[-1]) for totals, *_ in said]
    assert counts == [2 * run.config.cuts, run.config.cuts]
    assert shown == pytest.approx(expected, rel=1e-4)
    for one, two in zip(alone.state.parameters, run.state.parameters, strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.allclose(one.grad, two.grad, rtol=1e-3, atol=1e-5)
        assert torch.allclose(one, two, atol=1e-5)


@pytest.mark.parametrize(
    ("step", "share"),
    [(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (12, 0.5), (19, 0.5 + 0.5 * math.cos(math.pi * 15 / 16)), (20, 0.0)],
)
def test_the_learning_rate_rises_in_a_line_and_falls_as_a_cosine(step, share):
    config = TrainingConfig(warmup_ratio=0.2, learning_rate=0.03)
    assert trainer.learning_rate(step, 20, config) == pytest.approx(0.03 * share)


def test_without_warm_up_the_first_step_is_a_whole_one():
    assert trainer.learning_rate(0, 20, TrainingConfig(warmup_ratio=0.0, learning_rate=0.03)) == 0.03


def test_a_step_is_taken_at_its_rate_and_only_the_vectors_decay(tmp_path):
    run = begun(tmp_path, warmup_ratio=1.0, weight_decay=0.1)
    shown = run._train_batch(run.parts["training"][:4])
    assert shown["learning_rate"] == pytest.approx(run.config.learning_rate / run.steps)
    groups = run.state.optimiser.param_groups
    assert [group["lr"] for group in groups] == [shown["learning_rate"]] * 2
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert groups[0]["params"] == [run.state.vectors]


def test_every_epoch_visits_every_row_once_in_an_order_of_its_own(tmp_path, monkeypatch):
    visited: list[list[Sample]] = []

    def look(self, samples):
        visited.append(list(samples))
        self.state.step += 1
        return {}

    monkeypatch.setattr(trainer.Trainer, "_train_batch", look)
    monkeypatch.setattr(trainer.Trainer, "_validate", lambda self: {})
    monkeypatch.setattr(trainer.Trainer, "_save", lambda self: None)
    run = begun(tmp_path, batch_size=5, epochs=3)
    run._learn()
    assert all(len(samples) <= 5 for samples in visited)
    size = run.steps_per_epoch
    epochs = [list(chain(*visited[start : start + size])) for start in range(0, len(visited), size)]
    assert len(epochs) == 3
    for rows in epochs:
        assert sorted(map(id, rows)) == sorted(map(id, run.parts["training"]))
    assert len({tuple(map(id, rows)) for rows in epochs}) == 3


def test_the_running_probe_s_unit_is_the_length_of_states_at_bare_prompts_after_the_reminder(tmp_path, monkeypatch):
    run = begun(tmp_path)
    rows = run.parts["training"][:3]
    places = [Place(run.prefixes.of(sample), 0, [None]) for sample in rows]
    lengths = [follow(run.vlm.model, [place], run.state.vectors)[0].hidden.norm().item() for place in places]
    assert run._scale(rows) == pytest.approx(sum(lengths) / 3, rel=1e-4)
    passes = []
    monkeypatch.setattr(
        trainer,
        "follow",
        lambda model, places, *more, **options: passes.append(len(places)) or follow(model, places, *more, **options),
    )
    run.config = run.config.with_changes(micro_batch_size=2)
    assert run._scale(rows) == pytest.approx(sum(lengths) / 3, rel=1e-4)
    assert passes == [2, 1]
    assert run.state.scale is None
    plain = run.state.applied[1].clone()
    run.state.weight.data += 1.0
    run.state.scale = 4.0
    assert torch.allclose(run.state.applied[1], plain + 0.25)


def test_the_loss_for_anybody_s_vectors_is_that_of_the_trainer(tmp_path):
    run = begun(tmp_path, micro_batch_size=3)
    shown = run._validate()
    vectors, weight, bias = run.state.parameters
    found = trainer.validation_loss(run.prefixes, run.parts["validation"], vectors, weight, bias, run.config)
    assert found == pytest.approx(shown["validation_loss"], rel=1e-5)
    assert run.state.best_loss == shown["validation_turn"]
    assert shown["validation_turn"] == (shown["validation_turn_harmful"] + shown["validation_turn_harmless"]) / 2


def read(answer: list[int]) -> tuple[Any, Prefix]:
    vlm = tiny_vlm()
    return vlm, Prefix.read(vlm.model, vlm.encode([[{"role": "user", "content": "Red?"}]]), answer)


@pytest.mark.parametrize("learn", [(True, True), (False, True)])
def test_only_what_is_to_be_learnt_is_predicted_and_the_probe_is_asked_at_every_reminder(learn):
    vlm, prefix = read([20, 21, 22, 23])
    vectors = state.initial_vectors(vlm, CONFIG)
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(vlm.hidden_size, generator=generator), torch.tensor(0.3)
    runs = [[24, 25], [30, 31, 32]]
    cut = objective.Cut(3, [None, runs[0], None, runs[1]], (True, False), learn)
    found = objective.losses(vlm.model, [(prefix, cut)], vectors, weight, bias)
    [made] = follow(vlm.model, [Place(prefix, 3, cut.script)], vectors)
    each = [
        F.cross_entropy(logits, torch.tensor(run), reduction="none")
        for logits, run, learnt in zip(made.logits, runs, learn, strict=True)
        if learnt
    ]
    assert float(found.language) == pytest.approx(float(torch.cat(each).mean()), rel=1e-5)
    p_unsafe = (made.hidden @ weight + bias).sigmoid()
    expected = -(p_unsafe[0].log() + (1 - p_unsafe[1]).log()) / 2
    assert float(found.probe) == pytest.approx(float(expected), rel=1e-4)
    assert float(found.kl) == 0


@pytest.mark.parametrize(
    ("kept", "script", "unsafe", "counts"),
    [
        (2, [None, [22, 23]], (False,), True),
        (0, [None, [20, 21]], (False,), False),  # after no token there is none to predict from without the reminder
        (2, [None, [22, 23]], (True,), False),
        (2, [[22], None, [23]], (False,), False),
    ],
)
def test_the_divergence_is_of_safe_cuts_that_keep_a_token(kept, script, unsafe, counts):
    vlm, prefix = read([20, 21, 22, 23])
    learn = tuple(script[0] is None or n > 0 for n, part in enumerate(script) if part is not None)
    cut = objective.Cut(kept, script, unsafe, learn)
    weight, bias = torch.zeros(vlm.hidden_size), torch.zeros(())
    vectors = state.initial_vectors(vlm, CONFIG)
    found = objective.losses(vlm.model, [(prefix, cut)], vectors, weight, bias, kl=True)
    assert bool(found.kl > 0) is counts
