"""The names that the paper's repository has for its models: what they stand for, and what wins over them."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from safety_reminder import cli
from safety_reminder.commands import check_model
from safety_reminder.commands.composing import compose
from safety_reminder.commands.help_page import help_page
from safety_reminder.commands.presets import expand, takes_presets
from safety_reminder.config.names import require_found
from safety_reminder.config.presets import PRESETS, PUBLISHED_TRAINING, preset_names
from safety_reminder.errors import ConfigError, ModelError
from safety_reminder.training import TrainingConfig

LLAVA, QWEN = "llava-hf/llava-1.5-7b-hf", "Qwen/Qwen2-VL-7B-Instruct"
# Every command that takes a model of ours, and what it cannot be without.
COMMANDS = {
    "generate": [],
    "demo": [],
    "evaluate": [],
    "awareness": [],
    "attack": ["dataset.root=x.csv"],
    "train": ["data=x.jsonl"],
    "probe": ["data=x.jsonl"],
    "calibrate": ["data=x.jsonl"],
    "dro": ["data=x.jsonl"],
    "generality": ["data=x.jsonl"],
    "make-rows": [],
    "import-official": ["prompt_embedding=x.pth", "classifier=x.npz"],
}


def command(name: str) -> Any:
    return cli.command(name)


def composed(name: str, *given: str) -> Any:
    return compose(command(name), [*COMMANDS[name], *given])


def expanded(name: str, *given: str) -> tuple[list[str], dict[str, Any]]:
    """What Hydra composes from: arguments, and other defaults than the classes'."""
    return expand(command(name), given)


def test_no_command_with_a_model_is_left_out():
    names = [name for name in [*cli.COMMANDS, *cli.ANALYSES] if name != "analyze"]
    found = {name for name in names if (job := getattr(command(name), "job", None)) and takes_presets(job)}
    assert found == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_name_stands_for_a_model_and_how_it_is_loaded(name):
    arguments, defaults = expanded(name, "batch_size=2", "model=Qwen2VL", "+generation.x='model=y'")
    assert arguments == ["batch_size=2", f"model={QWEN}", "+generation.x='model=y'"]
    limits = {"reading.min_pixels": 12544, "reading.max_pixels": 200704}
    reads = name != "import-official"  # which sees no images
    assert defaults.items() >= {"dtype": "bfloat16", **(limits if reads else {})}.items()
    assert f"  Qwen2VL         {QWEN}, dtype=bfloat16, images of 12544 to 200704 pixels\n" in help_page(command(name))


@pytest.mark.parametrize("name", ["generate", "evaluate", "attack"])
def test_without_a_reminder_it_is_the_model_alone(name):
    assert expanded(name, "model=llava_7b")[1]["reminder"] is None
    assert expanded(name, f"model={LLAVA}") == ([f"model={LLAVA}"], {})


def test_what_is_given_wins_over_what_a_name_brings():
    job = composed("generate", "dtype=float32", "reading.max_pixels=5", "model=Qwen2VL", "reminder=org/pack")
    assert (job.model, job.dtype, job.reminder) == (QWEN, "float32", "org/pack")
    assert (job.reading.min_pixels, job.reading.max_pixels) == (12544, 5)


@pytest.mark.parametrize("name", ["demo", "probe"])
def test_what_needs_a_reminder_asks_for_it(name):
    with pytest.raises(ConfigError, match="reminder"):
        composed(name, "model=llava_7b")


@pytest.mark.parametrize("name", ["generate", "demo", "evaluate", "awareness", "attack", "probe", "calibrate"])
def test_a_model_with_its_reminder_says_how_to_get_one(name):
    for given in ([], ["reminder=none"], ["reminder=null"], ["reminder="]):
        with pytest.raises(ConfigError, match=r"train model=deepseek_vl_7b_SAPT .* import-official") as error:
            expanded(name, "model=deepseek_vl_7b_SAPT", *given)
        assert "\n" not in str(error.value)
    arguments, defaults = expanded(name, "model=deepseek_vl_7b_SAPT", "reminder=org/pack")
    assert arguments == ["model=deepseek-community/deepseek-vl-7b-chat", "reminder=org/pack"]
    assert "reminder" not in defaults


def test_train_begins_from_the_published_settings_and_what_is_given_wins():
    job = composed("train", "model=llava_7b_SAPT")
    assert (job.model, job.dtype, job.data.harmful, job.data.benign) == (LLAVA, "float16", 256, 256)
    training = {name.partition(".")[2]: value for name, value in PUBLISHED_TRAINING.items() if "training." in name}
    assert job.training == TrainingConfig(**training)
    assert (job.training.k, job.training.learning_rate, job.training.batch_size) == (4, 1e-4, 4)
    assert (job.training.epochs, job.training.probe_weight, job.training.interval) == (50, 0.05, 16)
    assert (job.training.min_chars, job.training.empty_prob, job.training.threshold) == (20, 1 / 3, 0.8)
    changed = composed("train", "training.epochs=2", "model=llava_7b_SAPT", "variant=k8", "data.benign=null")
    assert changed.training == TrainingConfig(**training).with_changes(epochs=2, k=8)
    assert (changed.data.harmful, changed.data.benign) == (256, None)
    assert composed("train", "model=llava_7b").training == TrainingConfig()  # and nothing is left of the one before
    assert "training.min_chars=20" in help_page(command("train"))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("dro", "model=Qwen2VL_SAPT", "dro takes the model alone: model=Qwen2VL"),
        ("generate", "model=llava_7b,Qwen2VL", "cannot be swept"),
        ("train", "model=pocket,Qwen2VL_SAPT", "cannot be swept"),
    ],
)
def test_where_a_name_makes_no_sense_it_says_so(name, given, message):
    with pytest.raises(ConfigError, match=message):
        expanded(name, given)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("llava_7B", r"unknown model 'llava_7B': expected 'pocket', a folder, .*; did you mean 'llava_7b'\?"),
        ("Qwen2_VL_SAPT", "did you mean 'Qwen2VL_SAPT'"),
        ("llava_7b_PT", "defense: prompt_tuning"),
        ("llava_self_reminder", "defense: self_reminder"),
        ("Qwen2VL_blue_suffix", "defense: bluesuffix"),
        ("something_PT", "unknown model 'something_PT': expected"),
        ("llava_7b", f"here give '{LLAVA}' with dtype='float16'"),  # in Python, say, or of a judge
        ("Qwen2VL_SAPT", "min_pixels=12544, max_pixels=200704"),
    ],
)
def test_a_name_that_is_none_is_told_what_it_may_be(name, message):
    with pytest.raises(ModelError, match=message):
        require_found(name)


def test_every_name_of_the_table_is_a_preset():
    assert set(preset_names()) == {*PRESETS, *(f"{name}_SAPT" for name in PRESETS)}
    for name in preset_names():
        assert "/" in expanded("train", f"model={name}")[0][0]


def test_a_sweep_has_the_model_and_what_its_name_brings_in_every_job(call, place):
    line = ["model=Qwen2VL", "dataset=text", "dataset.root=missing.csv", "output=s"]
    outcome = call("generate", "-m", *line, "batch_size=1,2")
    assert re.findall("^== (.*) ==$", outcome.err, flags=re.MULTILINE) == ["batch_size=1", "batch_size=2"]
    assert f"model={QWEN}, dtype=bfloat16, reading.min_pixels=12544, reading.max_pixels=200704, reminder=none" in (
        outcome.err
    )
    shown = call("generate", *line, "--cfg", "job")
    assert f"model: {QWEN}\nreminder: null\n" in shown.out
    assert "max_pixels: 200704" in shown.out


def test_check_model_takes_them_too(call, monkeypatch):
    asked: dict[str, Any] = {}
    vlm = SimpleNamespace(model=None)
    monkeypatch.setattr(
        "safety_reminder.models.open_vlm", lambda name, **given: asked.update(name=name, **given) or vlm
    )
    monkeypatch.setattr("safety_reminder.models.checked.check", lambda vlm: [])
    monkeypatch.setattr("safety_reminder.models.self_check.require_holds", lambda *found: None)
    call("check-model", "Qwen2VL_SAPT", "dtype=float32")
    assert (asked["name"], asked["dtype"], asked["reading"].max_pixels) == (QWEN, "float32", 200704)
    call("check-model", "llava_7b")
    assert (asked["name"], asked["dtype"], asked["reading"].max_pixels) == (LLAVA, "float16", None)
    assert "llava_7b" in check_model.HELP
