"""A trainer that learns, goes on after a break exactly as it would have, and leaves the base model alone."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import safety_reminder
from checkpoints import tiny_vlm
from safety_reminder.data.training_sets.loading import read_training_file
from safety_reminder.errors import ConfigError
from safety_reminder.guard import GuardedVLM, SafetyReminder
from safety_reminder.models import fingerprint_mismatch
from safety_reminder.models.prefix import Prefix
from safety_reminder.training import TrainingConfig, objective, state, train, trainer
from safety_reminder.training.samples import make_samples, split

CONFIG = TrainingConfig(
    k=2, epochs=6, batch_size=4, learning_rate=0.2, answer_tokens=8, target_tokens=7, validation=0.17, calibration=0.17,
    test=0.17, interval=5, policy="stop", log_with="none",
)  # fmt: skip


def write_examples(folder: Path, rows: list[dict] | None = None) -> Path:
    """Two dozen: what is asked about red pages is unsafe to answer, about blue ones safe."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(folder / "red.png")
    Image.new("RGB", (8, 8), "blue").save(folder / "blue.png")
    if rows is None:
        rows = []
        for number in range(12):
            unsafe = {"rejected": "kkkkkk", "chosen": "NNNNNN", "image": "red.png"}
            rows.append({"prompt": f"Red {number}?", "safe": False, **unsafe})
            rows.append({"prompt": f"Blue {number}?", "safe": True, "chosen": "kkkkkk", "image": "blue.png"})
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def refuses(text: str) -> bool:
    """As the refusals of these rows begin."""
    return text.startswith("N")


def fit(folder: Path, config: TrainingConfig = CONFIG, **changes: Any) -> SafetyReminder:
    data = write_examples(folder)
    config = config.with_changes(**changes)
    return train(tiny_vlm(), read_training_file(data), config, folder / "run", data.name, refuses=refuses)


def logged(folder: Path) -> list[dict[str, str]]:
    with (folder / "run" / "losses.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class Run:
    reminder: SafetyReminder
    folder: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("trained")
    return Run(fit(folder), folder)


def same(first: SafetyReminder, second: SafetyReminder) -> bool:
    return (
        torch.equal(first.vectors, second.vectors)
        and torch.equal(first.probe.weight, second.probe.weight)
        and (first.probe.bias, first.threshold) == (second.probe.bias, second.threshold)
    )


def test_the_loss_falls(trained):
    rows = logged(trained.folder)
    third = len(rows) // 3
    for name in ("language", "probe"):
        first, last = (sum(float(row[name]) for row in part) for part in (rows[:third], rows[-third:]))
        assert last < 0.95 * first, name
    assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    assert sum(bool(row["validation_loss"]) for row in rows) == CONFIG.epochs


def test_what_the_reminder_turns_is_in_the_pack_on_its_card_and_in_the_summary(trained):
    turned = trained.reminder.training["turned"]
    assert turned["rows"] == "test"
    assert list(turned["rates"]) == ["harmful", "harmless"]
    assert list(turned["rates"]["harmful"]) == ["all", "0", "1-5", "6-10"]
    metrics = json.loads((trained.folder / "run" / "summary.json").read_text())["metrics"]
    assert metrics["turned_harmful_after_0_tokens"] == turned["rates"]["harmful"]["0"]
    assert SafetyReminder.from_pretrained(trained.folder / "run" / "pack").training["turned"] == turned
    card = (trained.folder / "run" / "pack" / "README.md").read_text()
    shown = "{value:.1%} [{low:.1%}, {high:.1%}] of {n}".format(**turned["rates"]["harmless"]["all"])
    assert shown in next(line for line in card.splitlines() if line.startswith("| all |"))


def test_the_pack_is_complete_and_guards(trained):
    loaded = SafetyReminder.from_pretrained(trained.folder / "run" / "pack")
    assert same(loaded, trained.reminder)
    assert (loaded.length, loaded.interval, loaded.policy) == (2, 5, "stop")
    assert loaded.training["data"]["safe"] == loaded.training["data"]["unsafe"] == 12
    assert len(loaded.training["data"]["sha256"]) == 64
    assert loaded.training["config"]["learning_rate"] == 0.2
    assert loaded.training["test"]["auc"]["tokens"].keys() == {"0", "5", "end"}
    assert loaded.calibration["rows"] == "calibration"
    assert fingerprint_mismatch(loaded.fingerprint, tiny_vlm().model) is None
    response = GuardedVLM(tiny_vlm(), loaded).generate([{"role": "user", "content": "Red?"}], max_new_tokens=6)
    assert response.checks


def test_the_splits_are_written_and_share_nothing(trained):
    splits = json.loads((trained.folder / "run" / "splits.json").read_text())
    assert set(splits) == {"training", "validation", "calibration", "test"}
    keys = [key for part in splits.values() for key in part]
    assert len(keys) == len(set(keys)) == 24
    assert all(len(key) == 64 for key in keys)


@pytest.fixture
def finished(trained, tmp_path) -> Path:
    """A copy of the finished run, which what comes after the last step may be done again for."""
    return shutil.copytree(trained.folder, tmp_path / "copy")


def test_turns_are_measured_where_decoding_would_check_and_on_no_more_rows_than_asked_for(finished):
    turned = fit(finished, interval=2, turn_rows=1).training["turned"]
    assert turned["rates"]["harmful"]["1-2"]["n"] == 1
    assert turned["rates"]["harmless"]["all"]["n"] == len(turned["rates"]["harmless"]) - 1


def test_where_nobody_judges_refusals_turns_are_not_measured(finished):
    data = write_examples(finished)
    reminder = train(tiny_vlm(), read_training_file(data), CONFIG, finished / "run", data.name)
    assert reminder.training["turned"] == {}
    assert "turns into refusals" not in (finished / "run" / "pack" / "README.md").read_text()


def test_a_threshold_and_a_probe_that_are_to_stay_do_so_and_nothing_is_guaranteed(trained, finished):
    kept = fit(finished, threshold=0.8, refit=False)
    saved = torch.load(finished / "run" / "checkpoint.pt", weights_only=True)
    assert torch.allclose(kept.probe.weight, saved["best"]["weight"] / saved["scale"])
    assert 1 < saved["scale"] < 100  # the length of this model's states
    assert kept.threshold == 0.8
    assert (kept.calibration["method"], kept.calibration["guaranteed"]) == ("given", None)
    assert kept.calibration["alarms"] == sum(score >= 0.8 for score in kept.calibration["highest"])


def test_a_run_that_broke_off_ends_in_exactly_the_same_reminder(trained, tmp_path, monkeypatch):
    step, calls = trainer.Trainer._train_batch, []

    def break_off(*arguments):
        calls.append(None)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(trainer.Trainer, "_train_batch", break_off)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path)
    assert not (tmp_path / "run" / "pack").exists()
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 10
    assert len(logged(tmp_path)) == 12
    monkeypatch.undo()
    assert same(fit(tmp_path), trained.reminder)
    assert logged(tmp_path) == logged(trained.folder)


def test_a_finished_run_is_not_trained_again(trained, monkeypatch):
    monkeypatch.setattr(trainer.Trainer, "_train_batch", lambda *arguments: 1 / 0)
    assert same(fit(trained.folder), trained.reminder)


def test_a_checkpoint_of_other_options_or_data_is_refused(trained, tmp_path):
    with pytest.raises(ConfigError, match="is of a run with other options, data or model"):
        fit(trained.folder, learning_rate=0.1)
    changed = write_examples(tmp_path)
    changed.write_text(changed.read_text().replace("kkkkkk", "kkkkk"))
    with pytest.raises(ConfigError, match="other options, data or model"):
        train(tiny_vlm(), read_training_file(changed), CONFIG, trained.folder / "run", changed.name)


@pytest.mark.parametrize(("moved", "goes_on"), [(1e-6, True), (1e-2, False)])
def test_a_checkpoint_goes_on_where_sums_differ_in_the_last_digits_and_not_with_other_weights(
    trained, tmp_path, moved, goes_on
):
    shutil.copytree(trained.folder, tmp_path / "copy")
    path = tmp_path / "copy" / "run" / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    projections = saved["model"]["projections"]
    for name, (norm, *sums) in projections.items():
        projections[name] = [norm, *(value + moved * norm for value in sums)]
    torch.save(saved, path)
    if goes_on:
        assert same(fit(tmp_path / "copy"), trained.reminder)
    else:
        with pytest.raises(ConfigError, match="other options, data or model"):
            fit(tmp_path / "copy")


@pytest.fixture(scope="module")
def briefly_trained(tmp_path_factory) -> SafetyReminder:
    return fit(tmp_path_factory.mktemp("briefly"), epochs=2)


@pytest.mark.parametrize("cache", ["device", "cpu", "disk"])
@pytest.mark.parametrize("room", [0.0, 1.0])
def test_where_prefixes_are_kept_changes_nothing(briefly_trained, tmp_path, monkeypatch, cache, room):
    reads, read = [], Prefix.read.__func__
    monkeypatch.setattr(Prefix, "read", classmethod(lambda *arguments: reads.append(None) or read(*arguments)))
    assert same(fit(tmp_path, prefix_cache=cache, prefix_cache_gb=room, epochs=2), briefly_trained)
    # Without room once for all cuts of a visit; 16 training rows, 2 epochs, validation after each, then the readings.
    visits = 2 * (12 + 4) + 24
    assert len(reads) <= 24 if room else len(reads) == pytest.approx(visits, abs=12)
    assert not list((tmp_path / "run").glob("prefixes-*"))


def test_cuts_in_one_pass_or_in_several_teach_the_same(trained, tmp_path):
    assert torch.allclose(fit(tmp_path, micro_batch_size=3).vectors, trained.reminder.vectors, atol=1e-3)


def test_mixed_precision_learns_about_the_same(trained, tmp_path):
    """On a CPU, autocast in bfloat16."""
    mixed = fit(tmp_path, mixed_precision="bf16")
    assert mixed.vectors.dtype == torch.float32
    assert not torch.equal(mixed.vectors, trained.reminder.vectors)
    first, last = ([float(row["loss"]) for row in logged(run.folder)][-6:] for run in (trained, Run(mixed, tmp_path)))
    assert sum(last) == pytest.approx(sum(first), rel=0.1)
    assert mixed.training["test"]["auc"]["tokens"]["5"] > 0.9


def test_the_base_model_and_torchs_generator_are_left_alone(tmp_path):
    vlm = tiny_vlm()
    weights = {name: tensor.clone() for name, tensor in vlm.model.state_dict().items()}
    state = torch.get_rng_state()
    data = write_examples(tmp_path)
    train(vlm, read_training_file(data), CONFIG.with_changes(epochs=1), tmp_path / "run")
    assert all(torch.equal(weights[name], tensor) for name, tensor in vlm.model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in vlm.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_training_stops_when_the_turn_no_longer_improves_whatever_the_probe_loses_and_keeps_the_best(
    tmp_path, monkeypatch
):
    losses = iter([3.0, 1.0, 2.0, 2.5, 0.1])
    original, kept = trainer.Trainer._sums, []

    def scripted(self, drawn, *, backward):
        sums = original(self, drawn, backward=backward)
        if not backward:
            harmful = next(losses)
            sums |= {"turn_harmful": harmful * sums["harmful"], "turn_harmless": sums["harmless"]}
            sums |= {"probe": sums["count"] / harmful, "loss": sums["count"] / harmful}
            kept.append(self.state.vectors.detach().clone())
        return sums

    monkeypatch.setattr(trainer.Trainer, "_sums", scripted)
    reminder = fit(tmp_path, early_stopping_patience=2, epochs=9)
    assert len(kept) == 4
    assert torch.equal(reminder.vectors, kept[1])
    assert reminder.training["validation_turn"] == pytest.approx(1.0)


@pytest.mark.parametrize("changes", [{"kl_weight": 1.0}, {"repeat_prob": 0.5, "correction_prob": 0.5}])
def test_the_options_of_the_objective_change_what_is_learned(trained, tmp_path, changes):
    assert not torch.equal(fit(tmp_path, **changes).vectors, trained.reminder.vectors)


def test_with_unheeded_reminders_the_probe_is_also_fitted_after_them(trained, tmp_path):
    found = fit(tmp_path, unheeded_prob=0.5, interval=2)
    plain = fit(tmp_path / "plain", interval=2)
    assert not torch.equal(found.vectors, trained.reminder.vectors)
    assert found.training["probe"]["rows"] > plain.training["probe"]["rows"]


def test_the_divergence_is_that_of_two_whole_sequences():
    vlm = tiny_vlm()
    vectors = state.initial_vectors(vlm, CONFIG)
    answer = [20, 21, 22, 23, 24, 25]
    inputs = vlm.encode([[{"role": "user", "content": "Red?"}]])
    prefix = Prefix.read(vlm.model, inputs, answer)
    cuts = [objective.Cut(n, [None, answer[n : n + 3]], (False,), (True,)) for n in (0, 2, 3)]
    weight, bias = torch.zeros(vlm.hidden_size), torch.zeros(())
    found = objective.losses(vlm.model, [(prefix, cut) for cut in cuts], vectors, weight, bias, kl=True).kl
    embed = vlm.model.get_input_embeddings()
    ids = inputs["input_ids"][0]
    for n, value in zip((2, 3), found[1:].tolist(), strict=True):
        head, target = embed(torch.cat([ids, torch.tensor(answer[:n])])), embed(torch.tensor(answer[n : n + 3]))
        with torch.no_grad():
            plain = vlm.model(inputs_embeds=torch.cat([head, target])[None]).logits[0, len(head) - 1 : len(head) + 2]
            whole = vlm.model(inputs_embeds=torch.cat([head, vectors, target])[None]).logits[0]
        reminded = whole[len(head) + 1 : len(head) + 4]
        expected = (plain.softmax(-1) * (plain.log_softmax(-1) - reminded.log_softmax(-1))).sum(-1).mean()
        assert value == pytest.approx(expected.item(), rel=1e-4)
    assert found[0] == 0


def test_rows_that_ask_the_same_are_never_split(tmp_path):
    rows = [
        {"prompt": f"p{i // 4}", "safe": i % 2 == 0, "chosen": f"a{i}", "image": ("red.png", "blue.png")[i % 4 // 2]}
        for i in range(48)
    ]
    samples = make_samples(tiny_vlm(), read_training_file(write_examples(tmp_path, rows)), CONFIG)
    parts = split(samples, CONFIG)
    asked = {part: {(s.example.prompt, s.example.image) for s in rows} for part, rows in parts.items()}
    assert [len(asked[part]) for part in asked] == [12, 4, 4, 4]
    assert len(set().union(*asked.values())) == 24


def test_a_split_with_one_kind_of_row_is_refused(tmp_path):
    rows = [{"prompt": f"p{i}", "chosen": "a", "safe": i > 0} for i in range(12)]
    data = write_examples(tmp_path, rows)
    with pytest.raises(ConfigError, match="split has only one kind of row; give more rows"):
        train(tiny_vlm(), read_training_file(data), CONFIG, tmp_path / "run")


def test_an_empty_beginning_for_the_reminder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="init_text is empty"):
        fit(tmp_path, init_text="")


def test_a_random_beginning_is_drawn_from_the_seed(tmp_path):
    drawn = [state.initial_vectors(tiny_vlm(), CONFIG.with_changes(init="random", seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_losses_go_to_tensorboard(tmp_path):
    fit(tmp_path, epochs=1, log_with="tensorboard")
    assert list((tmp_path / "run" / "tensorboard").rglob("events.*"))


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from training.test_trainer import CONFIG, fit
from safety_reminder.training import trainer
step = trainer.Trainer._train_batch
def slowly(self, *arguments):
    print("step", self.state.step, flush=True)
    return step(self, *arguments)
trainer.Trainer._train_batch = slowly
fit(Path({folder!r}))
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_and_ends_in_the_same_reminder(trained, tmp_path):
    tests = str(Path(__file__).parents[1])
    code = SCRIPT.format(tests=tests, folder=str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(safety_reminder.__file__).parents[1]), tests])}
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == b"step 11":
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 10
    assert same(fit(tmp_path), trained.reminder)
    assert logged(tmp_path) == logged(trained.folder)
