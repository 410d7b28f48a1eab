"""Probe and threshold of a reminder that is there; the rivals' places; the report."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from checkpoints import random_reminder, tiny_vlm
from helpers import REMINDER_IDS, recomputed_hidden, reminder_of_tokens
from safety_reminder.config.guard import OTHER_THRESHOLDS
from safety_reminder.data.training_sets.loading import read_training_file, user
from safety_reminder.errors import ConfigError, DataError, ModelError
from safety_reminder.guard import GuardedVLM, Probe, SafetyReminder
from safety_reminder.training import TrainingConfig, refit
from safety_reminder.training.prefixes import Prefixes
from safety_reminder.training.probing.calibration import (
    calibrate_by,
    calibrate_on,
    calibrate_on_split,
    highest_by_group,
)
from safety_reminder.training.probing.readings import Readings, Where, auc_by, read
from safety_reminder.training.probing.report import side_by_side
from safety_reminder.training.samples import make_samples, seen_as, split
from safety_reminder.types import TrainingExample

pytestmark = pytest.mark.plots

CONFIG = TrainingConfig(validation=0.1, calibration=0.2, test=0.3, interval=4, pca_components=3, prefix_cache_gb=0.1)
PLOTS = ("roc.png", "precision_recall.png", "calibration.png", "pca.png")


def rows(count: int = 24) -> list[TrainingExample]:
    """Long answers of one letter to safe prompts, and of another to unsafe ones."""
    made = []
    for i in range(count):
        made.append(TrainingExample(user(f"Good {i}?"), True, "k" * (6 + i % 5), source="good"))
        made.append(TrainingExample(user(f"Bad {i}?"), False, "N", "zz" * (6 + i % 5), source=f"bad {i % 2}"))
    return made


@pytest.fixture(scope="module")
def vlm():
    return tiny_vlm()


@pytest.fixture(scope="module")
def refitted(vlm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    reminder = replace(random_reminder(), interval=4)
    return (*refit.refit_probe(vlm, reminder, rows(), CONFIG.with_changes(rivals=True), folder, "mine"), folder)


@pytest.mark.parametrize("where", ["reminder", "header", "last"])
def test_what_is_read_at_each_check_is_the_state_of_the_whole_sequence(vlm, where):
    samples = make_samples(vlm, rows(3), CONFIG)
    following = {"reminder": REMINDER_IDS, "header": vlm.assistant_header(), "last": []}[where]
    reminder = reminder_of_tokens(vlm.model)
    found = read(
        Prefixes(vlm, CONFIG.with_changes(micro_batch_size=4), Path()), samples, reminder.vectors, 4, where=where
    )
    assert len(set(found.groups.tolist())) == len(samples)
    for hidden, group, tokens in zip(found.hidden, found.groups, found.tokens.tolist(), strict=True):
        sample = samples[group]
        inputs = vlm.encode([sample.example.conversation()])
        with torch.no_grad():
            expected = recomputed_hidden(vlm.model, inputs, [*sample.answer[:tokens], *following])
        assert torch.allclose(hidden, expected, atol=1e-4)


def test_further_places_are_read_the_same_however_many_share_a_pass(vlm):
    config = CONFIG.with_changes(unheeded_prob=0.5, repeat_prob=0.5, correction_prob=0.5)
    samples = make_samples(vlm, rows(4), config)
    vectors = random_reminder().vectors
    alone, together = (
        read(Prefixes(vlm, config.with_changes(micro_batch_size=n), Path()), samples, vectors, 4, trained_with=config)
        for n in (1, 5)
    )
    assert len(alone.tokens) > len(read(Prefixes(vlm, config, Path()), samples, vectors, 4).tokens)
    for name in ("unsafe", "groups", "tokens"):
        assert torch.equal(getattr(alone, name), getattr(together, name))
    assert torch.allclose(alone.hidden, together.hidden, atol=1e-4)


def test_three_probes_are_judged_side_by_side_on_rows_they_were_not_fitted_to(refitted):
    pack, found, folder = refitted
    assert list(found) == ["reminder", "header", "last"]
    for tables in found.values():
        assert set(tables["source"]) == {"bad 0", "bad 1"}
        assert set(tables["tokens"]) >= {"0", "4"}
    # After some tokens of the answers, what they say tells the kinds apart; at the bare prompts, the words do.
    assert found["last"]["tokens"]["4"] > 0.9
    assert pack.training["test"]["rivals"].keys() == {"header", "last"}
    with (folder / "auc.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {row["probe"] for row in table} == {"reminder", "header", "last"}
    for name in PLOTS:
        with Image.open(folder / name) as image:
            assert image.width > 400


def test_the_refitted_pack_keeps_its_vectors_and_has_a_new_probe_and_threshold(refitted):
    pack, _, folder = refitted
    loaded = SafetyReminder.from_pretrained(folder / "pack")
    assert torch.equal(loaded.vectors, random_reminder().vectors)
    assert not torch.equal(loaded.probe.weight, random_reminder().probe.weight)
    assert loaded.threshold == pack.threshold
    assert loaded.calibration["rows"] == "calibration"
    assert not (folder / "prefixes").exists()
    splits = json.loads((folder / "splits.json").read_text())
    assert [len(splits[part]) for part in ("training", "calibration", "test")] == [24, 10, 14]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["config"]["data"]["source"] == "mine"
    assert {"probe_auc", "header_probe_auc", "last_probe_auc_after_4_tokens"} <= set(summary["metrics"])


@pytest.mark.parametrize("option", ["unheeded_prob", "repeat_prob", "correction_prob"])
def test_a_refitted_probe_knows_the_places_that_its_vectors_were_trained_at(vlm, tmp_path, monkeypatch, option):
    class Enough(Exception):
        pass

    def fit_at(where, prefixes, parts, config, **_):
        raise Enough(getattr(config, option))

    monkeypatch.setattr(refit, "fit_at", fit_at)
    reminder = replace(random_reminder(), interval=4, training={"config": {option: 0.5}})
    with pytest.raises(Enough, match=r"0\.5"):
        refit.refit_probe(vlm, reminder, rows(), CONFIG, tmp_path)


@pytest.mark.usefixtures("no_plots")
def test_a_refitted_pack_keeps_the_options_that_it_was_trained_with_and_has_no_rivals_unless_asked(vlm, tmp_path):
    trained = {"lr": 0.02, "batch": 4, "unheeded_prob": 0.25}
    reminder = replace(random_reminder(), interval=4, training={"config": trained})
    pack, found = refit.refit_probe(vlm, reminder, rows(), CONFIG, tmp_path)
    assert pack.training["config"] == trained
    assert list(found) == ["reminder"]
    assert pack.training["test"] == {"auc": found["reminder"]}
    used = json.loads((tmp_path / "summary.json").read_text())["config"]["training"]
    assert (used["unheeded_prob"], used["interval"], used["learning_rate"]) == (0.25, 4, CONFIG.learning_rate)


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(("had", "wanted", "expected"), [(2, None, 2), (2, 3, 3), (None, 2, 2), (None, None, None)])
def test_a_new_probe_shows_tokens_as_late_as_the_pack_does_or_as_asked(vlm, tmp_path, had, wanted, expected):
    reminder = replace(random_reminder(), interval=4, hold_back_checks=had)
    refit.refit_probe(vlm, reminder, rows(), CONFIG.with_changes(hold_back_checks=wanted), tmp_path)
    assert SafetyReminder.from_pretrained(tmp_path / "pack").hold_back_checks == expected


def test_after_a_refusal_that_has_begun_the_text_is_safe(vlm, tmp_path):
    samples = [sample for sample in make_samples(vlm, rows(4), CONFIG) if not sample.example.safe]
    vectors = random_reminder().vectors
    for option in ("repeat_prob", "correction_prob"):
        config = CONFIG.with_changes(**{option: 1.0})
        checks = read(Prefixes(vlm, config, tmp_path), samples, vectors, 4, trained_with=config)
        assert (~checks.unsafe).sum() == len(samples)


def test_a_threshold_for_another_interval_is_kept_with_it(vlm, tmp_path):
    safe = [row for row in rows(30) if row.safe]
    reminder = replace(random_reminder(), interval=4)
    pack = refit.calibrate(vlm, reminder, safe, CONFIG, tmp_path, "logs", interval=2)
    assert SafetyReminder.from_pretrained(tmp_path / "pack").interval == pack.interval == 2
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["metrics"]["threshold"]["value"] == pack.threshold
    assert summary["config"]["calibration"]["interval"] == 2


def test_a_threshold_from_one_s_own_responses_lets_so_many_pass(vlm, tmp_path):
    safe = [row for row in rows(30) if row.safe]
    reminder = replace(random_reminder(), threshold=0.5)
    pack = refit.calibrate(vlm, reminder, safe, CONFIG.with_changes(false_alarm_budget=0.1), tmp_path, "logs")
    checks = read(Prefixes(vlm, CONFIG, tmp_path / "p"), make_samples(vlm, safe, CONFIG), pack.vectors, pack.interval)
    used = checks.select(checks.tokens > 0)
    highest = highest_by_group(pack.probe(used.hidden), used.groups)
    assert (highest >= pack.threshold).sum() <= 2
    assert pack.calibration["data"]["safe"] == 30
    assert SafetyReminder.from_pretrained(tmp_path / "pack").threshold == pack.threshold


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("had", [True, False])
def test_a_new_threshold_or_probe_leaves_the_prompt_check_as_it_was(vlm, tmp_path, had):
    reminder = replace(random_reminder(), interval=4, calibration={"prompt_check": had})
    for name, wanted in (("kept", None), ("changed", not had)):
        config = CONFIG.with_changes(prompt_check=wanted)
        calibrated = refit.calibrate(vlm, reminder, rows(4), config, tmp_path / name, "logs")
        refitted, _ = refit.refit_probe(vlm, reminder, rows(), config, tmp_path / f"{name}-probe", "mine")
        expected = had if wanted is None else wanted
        guard = GuardedVLM(vlm, calibrated).guard
        assert guard is not None
        assert calibrated.prompt_check is refitted.prompt_check is guard.config.prompt_check
        assert calibrated.prompt_check is expected


def test_an_answer_that_was_cut_off_is_read_where_decoding_would_have_ended(vlm, tmp_path):
    row = TrainingExample(user("Good?"), True, "k" * 40)
    config = CONFIG.with_changes(answer_tokens=6)
    [sample] = make_samples(vlm, [row], config)
    found = read(Prefixes(vlm, config, tmp_path), [sample], random_reminder().vectors, 4)
    assert found.tokens.tolist() == [0, 4, 6]
    # As the last check of an answer of so many tokens.
    inputs = vlm.encode([row.conversation()])
    reminder = reminder_of_tokens(vlm.model)
    found = read(Prefixes(vlm, config, tmp_path), [sample], reminder.vectors, 4)
    with torch.no_grad():
        expected = recomputed_hidden(vlm.model, inputs, [*sample.answer, *REMINDER_IDS])
    assert torch.allclose(found.hidden[-1], expected, atol=1e-4)
    pack = refit.calibrate(
        vlm, random_reminder(), [row], config.with_changes(answer_tokens=4), tmp_path, "logs", interval=4
    )
    assert (pack.calibration["n"], pack.calibration["tokens"]) == (1, 4)


def test_of_several_answers_to_one_prompt_the_highest_counts(vlm, tmp_path):
    given = [TrainingExample(user(f"Good {i // 2}?"), True, "kz"[i % 2] * 6) for i in range(8)]
    samples = make_samples(vlm, given, CONFIG)
    prefixes = Prefixes(vlm, CONFIG, tmp_path)
    probe = Probe(torch.randn(32, generator=torch.Generator().manual_seed(0)))
    place = {"vectors": random_reminder().vectors, "interval": 4}
    parts = {"calibration": samples, "validation": []}
    _, calibration = calibrate_on_split(probe, prefixes, parts, CONFIG.with_changes(prompt_check=True), **place)
    checks = read(prefixes, samples, **place)
    each = highest_by_group(probe(checks.hidden), checks.groups).reshape(4, 2)
    assert calibration["n"] == 4
    assert calibration["highest"] == pytest.approx(each.max(dim=1).values.sort().values.tolist(), abs=1e-5)
    # The validation rows chose the vectors: what they give is no guarantee, neither in all nor for a threshold of it.
    parts = {"calibration": [], "validation": samples}
    by_prompt = CONFIG.with_changes(prompt_check=True, thresholds="prompt")
    _, told = calibrate_on_split(probe, prefixes, parts, by_prompt, **place)
    assert [part["guaranteed"] for part in (told, *told["parts"].values())] == [None] * 3


def test_rows_that_the_vectors_were_trained_on_are_neither_calibrated_nor_judged_on(vlm, tmp_path, caplog):
    samples = make_samples(vlm, rows(), CONFIG)
    trained = {seen_as(sample.key) for sample in samples[:20]}
    parts = split(samples, CONFIG, held_back=("calibration", "test"), seen=trained)
    assert not parts["validation"]
    assert trained <= {seen_as(sample.key) for sample in parts["training"]}
    assert len(parts["test"]) == 14
    reminder = replace(random_reminder(), interval=4, training={"seen": sorted(trained)})
    pack = refit.calibrate(vlm, reminder, rows(), CONFIG, tmp_path, "logs")
    assert pack.calibration["n"] == pack.calibration["data"]["safe"] == 14
    assert "left out: 10 responses that the reminder was trained on" in caplog.text
    with pytest.raises(DataError, match="trained on all safe responses of logs"):
        refit.calibrate(vlm, reminder, rows(6), CONFIG, tmp_path, "logs")
    everything = replace(reminder, training={"seen": sorted({seen_as(sample.key) for sample in samples})})
    with pytest.raises(ConfigError, match="give more rows that the reminder was not trained on"):
        refit.refit_probe(vlm, everything, rows(), CONFIG, tmp_path, "logs")


def test_an_answer_ends_as_the_chat_template_ends_it(monkeypatch):
    vlm = tiny_vlm("llama")
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", [0, 1])
    assert vlm.end_of_turn() == 0  # the tiny template ends no turn
    closing = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|end|>{% endfor %}"
    monkeypatch.setattr(
        vlm.tokenizer, "chat_template", closing + "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert vlm.end_of_turn() == 1
    sample = make_samples(vlm, [TrainingExample(user("Good?"), True, "k")], CONFIG)[0]
    assert sample.answer[-1] == sample.refusal[-1] == 1


def test_the_bare_prompt_counts_only_where_the_guard_checks_it(vlm, tmp_path):
    checks = Readings(
        torch.tensor([[0.9], [0.2], [0.8], [0.1]]).logit(), torch.zeros(4).bool(), torch.tensor([0, 0, 1, 1]),
        torch.tensor([0, 4, 0, 4]), ("a", "a"),
    )  # fmt: skip
    probe = Probe(torch.ones(1), 0.0)
    assert calibrate_on(probe, checks, 0.4, prompt_check=True)[0] == pytest.approx(0.9, abs=1e-4)
    assert calibrate_on(probe, checks, 0.4, prompt_check=False)[0] == 0.5
    only_prompts = checks.select(checks.tokens == 0)
    with pytest.raises(ConfigError, match="calibration needs safe responses; there are none"):
        calibrate_on(probe, only_prompts, 0.4, prompt_check=False)


def test_thresholds_by_prompt_share_the_budget_and_by_image_each_kind_has_its_own():
    """Twenty responses with a check of the bare prompt and one after it; those with an image score higher."""
    n = torch.arange(20)
    image = n % 2 == 1
    prompt, later = 0.5 + n / 100, 0.6 + n / 100
    scores = torch.stack([prompt, later + 0.15 * image], 1).flatten()
    checks = Readings(
        scores.logit()[:, None], torch.zeros(40).bool(), n.repeat_interleave(2), torch.tensor([0, 4] * 20), ("a",) * 20
    )
    probe = Probe(torch.ones(1), 0.0)
    options = {"prompt_check": True, "images": image.tolist()}
    one, told = calibrate_by("one", probe, checks, 0.1, **options)
    assert one == {"threshold": calibrate_on(probe, checks, 0.1, prompt_check=True)[0]} | dict.fromkeys(
        OTHER_THRESHOLDS
    )
    assert "by" not in told
    found, told = calibrate_by("prompt", probe, checks, 0.1, **options)
    # Rank ceil(21 * 0.95) = 20 of each: above all.
    assert found["prompt_threshold"] == pytest.approx(0.69, abs=1e-4)
    assert found["threshold"] == pytest.approx(0.94, abs=1e-4)
    assert found["image_threshold"] is None
    assert told["guaranteed"] == pytest.approx(2 / 21)
    assert (told["n"], told["needed"], told["prompt_check"]) == (20, 19, True)
    found, told = calibrate_by("image", probe, checks, 0.2, **options)
    # Rank ceil(11 * 0.8) = 9 of the ten of each kind: numbers 16 and 17.
    assert found["threshold"] == pytest.approx(0.76, abs=1e-4)
    assert found["image_threshold"] == pytest.approx(0.92, abs=1e-4)
    assert told["guaranteed"] == pytest.approx(2 / 11)
    with pytest.raises(ConfigError, match="no safe response is of the kind that sets image_threshold"):
        calibrate_by("image", probe, checks, 0.2, prompt_check=True, images=[False] * 20)
    with pytest.raises(ConfigError, match="add prompt_check=true"):
        calibrate_by("prompt", probe, checks, 0.2, prompt_check=False, images=[False] * 20)


def test_a_pack_is_calibrated_anew_with_one_threshold_or_several(vlm, tmp_path):
    reminder = replace(random_reminder(), interval=4, image_threshold=0.9)
    safe = [row for row in rows(6) if row.safe]
    options = CONFIG.with_changes(thresholds="prompt", prompt_check=True)
    pack = refit.calibrate(vlm, reminder, safe, options, tmp_path, "logs")
    assert set(pack.other_thresholds) == {"prompt_threshold"}
    assert SafetyReminder.from_pretrained(tmp_path / "pack").other_thresholds == pack.other_thresholds
    assert not refit.calibrate(vlm, pack, safe, CONFIG, tmp_path, "logs").other_thresholds
    pictures = [replace(row, image=Image.new("RGB", (28, 28), "red")) if n % 2 else row for n, row in enumerate(safe)]
    pack = refit.calibrate(vlm, pack, pictures, CONFIG.with_changes(thresholds="image"), tmp_path, "logs")
    assert set(pack.other_thresholds) == {"image_threshold"}
    assert [part["n"] for part in pack.calibration["parts"].values()] == [3, 3]


def test_without_safe_responses_there_is_nothing_to_calibrate_on(vlm, tmp_path):
    unsafe = [row for row in rows(3) if not row.safe]
    with pytest.raises(DataError, match="logs has no safe responses"):
        refit.calibrate(vlm, random_reminder(), unsafe, CONFIG, tmp_path, "logs")


def test_the_rivals_read_the_header_and_the_last_token(vlm, tmp_path):
    samples = make_samples(vlm, [TrainingExample(user("Good?"), True, "kkkkkk")], CONFIG)
    prefixes = Prefixes(vlm, CONFIG, tmp_path)
    ids = vlm.encode([[{"role": "user", "content": "Good?"}]])["input_ids"][0].tolist()
    answer = list(samples[0].answer)
    ends: dict[Where, list[int]] = {"header": vlm.assistant_header(), "last": []}
    for where, following in ends.items():
        found = read(prefixes, samples, random_reminder().vectors, 4, where=where)
        for hidden, tokens in zip(found.hidden, found.tokens.tolist(), strict=True):
            whole = torch.tensor([ids + answer[:tokens] + following])
            with torch.no_grad():
                expected = vlm.model(whole, output_hidden_states=True).hidden_states[-1][0, -1]
            assert torch.allclose(hidden, expected, atol=1e-4)


def test_the_header_opens_the_assistant_s_turn(vlm, monkeypatch):
    header = vlm.assistant_header()
    whole = vlm.encode([[{"role": "user", "content": "Another?"}]])["input_ids"][0].tolist()
    assert whole[-len(header) :] == header
    assert header
    monkeypatch.setattr(vlm.processor, "chat_template", "{{ messages[0]['content'][0]['text'] }}")
    with pytest.raises(ModelError, match="does not open the assistant's turn"):
        vlm.assistant_header()


def test_areas_are_left_out_where_one_kind_is_missing():
    readings = Readings(
        torch.zeros(5, 2), torch.tensor([True, True, False, False, True]), torch.arange(5),
        torch.tensor([0, 4, 0, 0, 9]), ("a", "a", "b", "b", "c"),
    )  # fmt: skip
    found = auc_by(torch.tensor([0.9, 0.8, 0.1, 0.95, 0.5]), readings, 4)
    assert found["tokens"] == {"0": 0.5}
    assert found["source"] == {"a": 0.5 * (0.5 + 0.5), "c": 0.5}
    assert found["all"]["all"] == pytest.approx(3 / 6)


def test_areas_of_several_probes_stand_side_by_side_and_what_is_missing_is_a_dash():
    aucs = {
        "reminder": {"all": {"all": 0.75}, "tokens": {"0": 0.5, "16": 1.0, "end": 0.25}},
        "last": {"all": {"all": 0.5}, "tokens": {"0": 0.125}},
    }
    assert side_by_side(aucs).splitlines() == [
        "AUC of the probe    reminder        last",
        "after 0 tokens         0.500       0.125",
        "after 16 tokens        1.000           -",
        "at another end         0.250           -",
        "all checks             0.750       0.500",
    ]


def test_a_file_of_logs_is_read_as_training_rows(tmp_path: Path):
    path = tmp_path / "logs.jsonl"
    path.write_text(json.dumps({"prompt": "Hello?", "safe": True, "chosen": "Hello."}) + "\n")
    assert read_training_file(path)[0].answer == "Hello."
