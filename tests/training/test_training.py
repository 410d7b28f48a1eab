"""Cuts, probe, threshold, and a trainer that learns, goes on after a break, and leaves the base model alone."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from checkpoints import tiny_vlm
from safety_reminder.data.training import read_training_file, user
from safety_reminder.errors import ConfigError, SafetyReminderError
from safety_reminder.guard import GuardedVLM, SafetyReminder
from safety_reminder.guard.context import Prefix
from safety_reminder.models import fingerprint_mismatch
from safety_reminder.training import TrainingConfig, train, trainer
from safety_reminder.training import probe as probe_module
from safety_reminder.training.objective import checkpoints, draw_cut
from safety_reminder.training.probe import auc, choose_threshold, fit_probe, highest_by_group, logistic_regression
from safety_reminder.types import TrainingExample

REFUSAL, CORRECTION = (91, 92, 1), (90, 91, 92, 1)


@settings(max_examples=300, deadline=None)
@given(
    length=st.integers(1, 30),
    safe=st.booleans(),
    harmful_prompt=st.booleans(),
    seed=st.integers(0, 999),
    empty_prob=st.floats(0, 1),
    target_tokens=st.integers(1, 12),
)
def test_a_cut_leaves_something_to_predict(length, safe, harmful_prompt, seed, empty_prob, target_tokens):
    example = TrainingExample(user("p"), safe, "a", "a", harmful_prompt=harmful_prompt)
    answer = tuple(range(length))
    cut = draw_cut(
        example, answer, REFUSAL, CORRECTION, random.Random(seed), empty_prob=empty_prob, target_tokens=target_tokens
    )
    assert 0 <= cut.tokens < length
    assert cut.unsafe == (not safe)
    if safe:
        assert cut.target == answer[cut.tokens : cut.tokens + target_tokens]
        assert cut.target
    else:
        assert cut.target == (CORRECTION if cut.tokens else REFUSAL)


def cuts(example: TrainingExample, length: int = 10, *, empty_prob: float = 1 / 3, count: int = 2000) -> list[int]:
    rng = random.Random(0)
    answer = list(range(length))
    return [
        draw_cut(example, answer, REFUSAL, CORRECTION, rng, empty_prob=empty_prob, target_tokens=4).tokens
        for _ in range(count)
    ]


@pytest.mark.parametrize("safe", [True, False])
def test_an_answer_is_cut_to_nothing_as_often_as_asked_and_elsewhere_evenly(safe):
    drawn = cuts(TrainingExample(user("p"), safe, "a", "a"))
    assert drawn.count(0) / len(drawn) == pytest.approx(1 / 3, abs=0.04)
    for tokens in range(1, 10):
        assert drawn.count(tokens) / len(drawn) == pytest.approx(2 / 27, abs=0.025)


def test_the_extremes_of_empty_prob_are_always_and_never():
    example = TrainingExample(user("p"), False, "a", "a")
    assert set(cuts(example, empty_prob=1.0)) == {0}
    assert 0 not in cuts(example, empty_prob=0.0)


def test_a_refusal_of_a_harmful_prompt_is_never_cut_to_its_unsafe_beginning():
    example = TrainingExample(user("p"), True, "I am sorry", harmful_prompt=True)
    assert min(cuts(example)) == 4
    assert set(cuts(example, 3)) == {2}


def two_clouds(n: int = 60, size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    unsafe = torch.arange(n) % 3 == 0
    hidden = 0.3 * torch.randn(n, size, generator=generator)
    hidden[:, 1] += torch.where(unsafe, 2.0, -1.0)
    # Axes of very different size and place, as in a model's hidden states.
    scale = torch.tensor([1.0, 0.01, 100.0, 1.0, 3.0])
    return hidden * scale + 7 * scale, unsafe


def test_a_probe_separates_what_can_be_separated():
    hidden, unsafe = two_clouds()
    p_unsafe = logistic_regression(hidden, unsafe, 1e-3)(hidden)
    assert p_unsafe[unsafe].min() > 0.9
    assert p_unsafe[~unsafe].max() < 0.1


def test_a_probe_does_not_lean_to_the_larger_class():
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(4000, 2, generator=generator)
    unsafe = torch.arange(4000) % 20 == 0
    hidden[unsafe] += 1.0
    probe = logistic_regression(hidden, unsafe, 1e-3)
    found = [(probe(hidden[unsafe]) >= 0.5).double().mean(), (probe(hidden[~unsafe]) < 0.5).double().mean()]
    assert min(found) > 0.7
    assert abs(found[0] - found[1]) < 0.08


def test_cross_validation_never_tells_apart_the_checks_of_one_answer(monkeypatch):
    groups = torch.arange(60) // 3
    unsafe = groups % 2 == 0
    hidden = torch.stack([groups.float(), torch.where(unsafe, 1.0, -1.0)], 1)  # the first axis names the answer
    fitted: list[set[float]] = []
    original = probe_module.logistic_regression

    def spy(inside, labels, l2):
        fitted.append(set(inside[:, 0].tolist()))
        model = original(inside, labels, l2)

        def predict(outside):
            assert not fitted[-1] & set(outside[:, 0].tolist())
            return model(outside)

        return predict

    monkeypatch.setattr(probe_module, "logistic_regression", spy)
    fit_probe(hidden, unsafe, groups)
    assert len(fitted) == 5 * len(probe_module.PENALTIES) + 1
    assert len(fitted[-1]) == 20


@pytest.mark.parametrize("unsafe", [torch.zeros(4).bool(), torch.ones(4).bool()])
def test_a_probe_needs_both_kinds(unsafe):
    with pytest.raises(ConfigError, match="safe and unsafe"):
        fit_probe(torch.randn(4, 2), unsafe, torch.arange(4))
    with pytest.raises(ConfigError, match="safe and unsafe"):
        auc(torch.rand(4), unsafe)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=25))
def test_the_area_under_the_curve_is_the_share_of_pairs_in_order(rows):
    scores, labels = torch.tensor([r[0] / 5 for r in rows]), torch.tensor([r[1] for r in rows])
    if labels.all() or not labels.any():
        return
    pairs = [(u, s) for u, yes in rows if yes for s, no in rows if not no]
    wins = sum(1.0 if u > s else 0.5 if u == s else 0.0 for u, s in pairs)
    assert auc(scores, labels) == pytest.approx(wins / len(pairs))


@settings(max_examples=200, deadline=None)
@given(
    scores=st.lists(st.integers(0, 999).map(lambda i: i / 1000), min_size=1, max_size=80),
    budget=st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5]),
)
def test_the_threshold_keeps_false_alarms_within_the_budget(scores, budget):
    safe = torch.tensor(scores)
    threshold, found = choose_threshold(safe, torch.tensor([0.9]), budget)
    alarms = int((safe >= threshold).sum())
    assert 0.5 <= threshold < 1
    assert alarms <= max(0.0, budget * (len(scores) + 1) - 1) + 1e-9
    assert found["n"] == len(scores)


def test_the_threshold_is_the_lowest_that_does():
    safe = torch.linspace(0.6, 0.99, 40)
    threshold, found = choose_threshold(safe, torch.tensor([0.7, 0.99]), 0.1)
    # The conformal rank: ceil(41 * 0.9) = 37 of 40 scores lie below.
    assert (safe < threshold).sum() == 37
    assert threshold == pytest.approx(float(safe[36]), abs=2e-4)
    assert found["missed_unsafe"] == 0.5
    assert found["budget"] == 0.1


def test_too_few_scores_for_the_budget_take_the_largest_and_say_how_many_it_takes():
    threshold, found = choose_threshold(torch.tensor([0.1, 0.8, 0.6]), torch.tensor([0.9]), 0.005)
    assert threshold == pytest.approx(0.8, abs=2e-4)
    assert found["needed"] == 199


def test_of_the_checks_of_one_response_the_highest_counts():
    scores, groups = torch.tensor([0.1, 0.9, 0.3, 0.2, 0.8]), torch.tensor([0, 0, 1, 1, 2])
    chosen = torch.tensor([True, True, True, True, False])
    assert highest_by_group(scores, groups, chosen).tolist() == pytest.approx([0.9, 0.3])


@pytest.mark.parametrize(
    ("length", "ends", "declines", "places"),
    [
        (40, False, False, [0, 16, 32]),
        (40, True, False, [0, 16, 32, 39]),
        (33, True, False, [0, 16, 32]),
        (5, True, False, [0, 4]),
        (12, True, True, [8, 11]),
        (6, True, True, [5]),
    ],
)
def test_the_probe_is_read_where_decoding_checks(length, ends, declines, places):
    example = TrainingExample(user("p"), True, "a", harmful_prompt=declines)
    answer = [7] * (length - ends) + [1] * ends
    assert [cut.tokens for cut in checkpoints(example, answer, 16, {1})] == places


def test_low_scores_do_not_bring_the_threshold_below_even_odds():
    assert choose_threshold(torch.full((9,), 0.01), torch.tensor([0.9]), 0.1)[0] == 0.5


def write_examples(folder: Path, rows: list[dict] | None = None) -> Path:
    """A dozen: what is asked about red pages is unsafe to answer, about blue ones safe."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(folder / "red.png")
    Image.new("RGB", (8, 8), "blue").save(folder / "blue.png")
    if rows is None:
        rows = []
        for number in range(6):
            rows.append({"prompt": f"Red {number}?", "rejected": "kkkkkk", "safe": False, "image": "red.png"})
            rows.append({"prompt": f"Blue {number}?", "chosen": "kkkkkk", "safe": True, "image": "blue.png"})
            rows[-2]["chosen"] = "NNNN"
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 0}, "training.k must be at least 1"),
        ({"k": "four"}, "training.k must be of type int, got 'four'"),
        ({"k": True}, "training.k must be of type int"),
        ({"epohcs": 2}, "unknown training option 'epohcs'; did you mean 'epochs'"),
        ({"budget": 0}, "training.budget is a share between 0 and 1"),
        ({"validation": 1.0}, "training.validation is a share between 0 and 1"),
        ({"empty_prob": 1.5}, "training.empty_prob is a probability"),
        ({"lr": 0}, "training.lr must be positive"),
        ({"cache_gb": -1.0}, "training.cache_gb must not be negative"),
        ({"policy": "rewnd"}, "unknown training.policy 'rewnd'; did you mean 'rewind'"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_training(values, message):
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.from_mapping(values)
    assert message in str(caught.value)


CONFIG = TrainingConfig(
    k=2, epochs=7, batch=5, lr=0.2, answer_tokens=8, target_tokens=4, validation=0.25, interval=5, policy="stop"
)


def fit(folder: Path, config: TrainingConfig = CONFIG) -> SafetyReminder:
    data = write_examples(folder)
    return train(tiny_vlm(), read_training_file(data), config, folder / "run", data.name)


@dataclass(frozen=True)
class Run:
    reminder: SafetyReminder
    folder: Path
    shown: list[dict[str, float]]  # the losses of each batch


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    folder, shown, step = tmp_path_factory.mktemp("trained"), [], trainer._train_batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_train_batch", lambda *arguments: shown.append(step(*arguments)) or shown[-1])
        return Run(fit(folder), folder, shown)


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "run" / "losses.jsonl").read_text().splitlines()]


def test_the_loss_falls(trained):
    third = len(trained.shown) // 3
    for name in ("language", "probe"):
        first, last = (sum(b[name] for b in part) for part in (trained.shown[:third], trained.shown[-third:]))
        assert last < 0.9 * first, name


def test_the_pack_is_complete_and_guards(trained):
    loaded = SafetyReminder.from_pretrained(trained.folder / "run" / "pack")
    assert torch.equal(loaded.vectors, trained.reminder.vectors)
    assert (loaded.length, loaded.interval, loaded.policy) == (2, 5, "stop")
    assert loaded.training["data"]["safe"] == loaded.training["data"]["unsafe"] == 6
    assert len(loaded.training["data"]["sha256"]) == 64
    assert 0 <= loaded.training["validation_auc"] <= 1
    assert loaded.training["validation_auc_by_tokens"].keys() <= {"0", "5", "6"}
    assert loaded.training["config"]["lr"] == 0.2
    assert fingerprint_mismatch(loaded.fingerprint, tiny_vlm().model) is None
    response = GuardedVLM(tiny_vlm(), loaded).generate([{"role": "user", "content": "Red?"}], max_new_tokens=6)
    assert response.checks


def test_a_run_that_broke_off_ends_in_exactly_the_same_reminder(trained, tmp_path, monkeypatch):
    whole, step, calls = trained.reminder, trainer._train_batch, []

    def break_off(*arguments):
        calls.append(None)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(trainer, "_train_batch", break_off)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path)
    assert not (tmp_path / "run" / "pack").exists()
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 10
    del calls[:]
    monkeypatch.setattr(trainer, "_train_batch", lambda *arguments: calls.append(None) or step(*arguments))
    resumed = fit(tmp_path)
    assert len(calls) == 14 - 10
    assert torch.equal(resumed.vectors, whole.vectors)
    assert torch.equal(resumed.probe.weight, whole.probe.weight)
    assert (resumed.probe.bias, resumed.threshold) == (whole.probe.bias, whole.threshold)
    assert logged(tmp_path) == logged(trained.folder)


def test_prefixes_that_find_no_room_are_run_again_and_change_nothing(trained, tmp_path, monkeypatch):
    reads, read = [], Prefix.read.__func__
    monkeypatch.setattr(Prefix, "read", classmethod(lambda *arguments: reads.append(None) or read(*arguments)))
    config = TrainingConfig(**{**vars(CONFIG), "cache_gb": 0.0})
    assert torch.equal(fit(tmp_path, config).vectors, trained.reminder.vectors)
    assert len(reads) > 100
    del reads[:]
    fit(tmp_path / "with room")
    assert len(reads) == 12


def test_cuts_in_one_pass_or_in_several_teach_the_same(trained, tmp_path):
    several = fit(tmp_path, TrainingConfig(**{**vars(CONFIG), "rows": 3}))
    assert torch.allclose(several.vectors, trained.reminder.vectors, atol=1e-3)


def test_a_finished_run_is_not_trained_again(trained, monkeypatch):
    monkeypatch.setattr(trainer, "_train_batch", lambda *arguments: 1 / 0)
    assert torch.equal(fit(trained.folder).vectors, trained.reminder.vectors)


def test_a_checkpoint_of_other_options_or_data_is_refused(trained, tmp_path):
    with pytest.raises(ConfigError, match="is of a run with other options, data or model"):
        fit(trained.folder, TrainingConfig(**{**vars(CONFIG), "lr": 0.1}))
    changed = write_examples(tmp_path)
    changed.write_text(changed.read_text().replace("kkkkkk", "kkkkk"))
    with pytest.raises(ConfigError, match="other options, data or model"):
        train(tiny_vlm(), read_training_file(changed), CONFIG, trained.folder / "run", changed.name)


def test_the_base_model_and_torchs_generator_are_left_alone(tmp_path):
    model = tiny_vlm().model
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    fit(tmp_path, TrainingConfig(**{**vars(CONFIG), "epochs": 1}))
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_no_prompt_is_both_trained_on_and_validated_with(tmp_path):
    rows = [
        {"prompt": f"p{i // 4}", "safe": i % 2 == 0, "chosen": f"a{i}", "image": ("red.png", "blue.png")[i % 4 // 2]}
        for i in range(24)
    ]
    samples = [
        trainer._tokenise(tiny_vlm(), example, CONFIG) for example in read_training_file(write_examples(tmp_path, rows))
    ]
    parts = trainer._split(samples, CONFIG)
    learning, held_back = ({(s.example.prompt, s.example.image) for s in part} for part in parts)
    assert not learning & held_back
    assert (len(learning), len(held_back)) == (9, 3)


def test_a_split_with_one_kind_of_answer_is_refused(tmp_path):
    rows = [{"prompt": f"p{i}", "chosen": "a", "safe": i > 0} for i in range(6)]
    data = write_examples(tmp_path, rows)
    with pytest.raises(ConfigError, match="split has only one kind of answer; give more examples"):
        train(tiny_vlm(), read_training_file(data), CONFIG, tmp_path / "run", data.name)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_row(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "losses", lambda _, places, *__: (torch.full((len(places),), math.nan),) * 2)
    with pytest.raises(SafetyReminderError, match=r"the loss is nan at batch 0 on '\w+ \d\?'.*lower training\.lr"):
        fit(tmp_path)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_an_empty_beginning_for_the_reminder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="init_text is empty"):
        fit(tmp_path, TrainingConfig(**{**vars(CONFIG), "init_text": ""}))
