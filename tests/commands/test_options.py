"""The options of the commands: written once, explained, and refused in one line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from safety_reminder import cli
from safety_reminder.attacks import ATTACKS
from safety_reminder.commands.command import group_of
from safety_reminder.commands.composing import compose
from safety_reminder.commands.help_page import help_page
from safety_reminder.config import GuardConfig
from safety_reminder.config.options import Options
from safety_reminder.errors import ConfigError
from safety_reminder.training import TrainingConfig
from safety_reminder.types import Sampling

NAMES = [name for name in [*cli.COMMANDS, *cli.ANALYSES] if name not in ("analyze", "check-model", "fetch", "pocket")]
# What has no default.
NEEDED = {
    "generate": {"dataset": {"name": "typographic", "root": "demo.csv"}},
    "demo": {"dataset": {"name": "typographic", "root": "demo.csv"}},
    "awareness": {"dataset": {"name": "typographic", "root": "demo.csv"}},
    "evaluate": {},
    "make-rows": {},
    "attack": {"dataset": {"name": "text", "root": "x.csv"}, "attack": {"name": "pgd"}},
    "import-official": {"model": "none", "prompt_embedding": "x.pth", "classifier": "x.npz"},
}

GIVEN = {  # likewise, as it is typed
    "attack": ["dataset.root=x.csv"],
    "import-official": ["model=none", "prompt_embedding=x.pth", "classifier=x.npz"],
}


def command(name: str) -> Any:
    return cli.command(name)


def flat(job: type[Options], front: str = "") -> dict[str, str | None]:
    """Every option as it is typed → its explanation. A group of which one is chosen explains itself."""
    found: dict[str, str | None] = {}
    for name, info in job.model_fields.items():
        kind = group_of(info)
        if name in ("dataset", "attack"):
            continue
        found |= flat(kind, f"{front}{name}.") if kind else {front + name: info.description}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_explained_and_shown_with_its_default(name):
    page = help_page(command(name))
    assert page.startswith(f"safety-reminder {command(name).name}: ")
    for option, explained in flat(command(name).job).items():
        assert f"  {option}=" in page
        assert explained, option
        assert explained.split()[0] in page
    for example in command(name).examples:
        assert f"\n  safety-reminder {example}" in page


@pytest.mark.parametrize("name", NAMES)
def test_what_the_command_line_starts_from_are_the_defaults_of_the_class(name):
    given = GIVEN.get(name, [] if name in NEEDED else ["data=x.jsonl"])
    composed = compose(command(name), given).model_dump(mode="json")
    values = NEEDED.get(name, {"data": {"sets": "x.jsonl"}})
    defaults = command(name).job.parse({"output": composed["output"], **values}).model_dump(mode="json")
    for group in command(name).choices:
        composed.pop(group, None)
        defaults.pop(group, None)
    assert composed == defaults


def test_the_guard_s_options_are_those_of_the_class_and_null():
    job = compose(command("generate"))
    assert set(job.guard.model_dump()) == set(GuardConfig.__dataclass_fields__)
    assert job.guard.given() == {}
    assert set(job.generation.model_dump()) == set(Sampling.__dataclass_fields__) - {"more"}
    assert compose(command("generate"), ["guard.hold_back=false"]).guard.given() == {"hold_back": False}


def test_other_options_of_generation_are_passed_on():
    job = compose(
        command("generate"), ["+generation.min_new_tokens=3", "generation.do_sample=true", "generation.temperature=0.5"]
    )
    assert job.generation.sampling == Sampling(128, True, 0.5, more={"min_new_tokens": 3})
    assert job.model_dump()["generation"]["min_new_tokens"] == 3


@pytest.mark.parametrize("name", ATTACKS)
def test_the_help_of_an_attack_shows_its_options(name):
    page = help_page(command("attack"), [f"attack={name}"])
    assert f"attack={name}:" in page
    for option, explained in flat(ATTACKS[name].options).items():
        assert f"  attack.{option}=" in page
        assert explained, option
    with pytest.raises(ConfigError, match="unknown attack 'pgt'; did you mean 'pgd'"):
        help_page(command("attack"), ["attack=pgt"])


def test_the_help_of_a_choice_shows_its_options_and_a_wrong_one_is_named():
    page = help_page(command("generate"), ["dataset=figstep"])
    assert "dataset=figstep:  FigStep" in page
    assert "  dataset.topics=null" in page
    assert "advbench, attack_run, bap, demo, figstep" in page
    with pytest.raises(ConfigError, match="unknown dataset 'figstop'; did you mean 'figstep'"):
        help_page(command("generate"), ["dataset=figstop"])


def test_a_variant_changes_one_option_and_training_is_checked():
    assert compose(command("train"), ["data=x", "variant=k8"]).training == TrainingConfig(k=8)
    assert compose(command("train"), ["data=x", "variant=base"]).training == TrainingConfig()


def test_calibration_has_the_trainer_s_options_with_longer_answers():
    job = compose(command("calibrate"), ["data=x", "false_alarm_budget=0.1", "prompt_check=true"])
    assert job.training == TrainingConfig(false_alarm_budget=0.1, prompt_check=True, answer_tokens=512)


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("generate", "dataset.limit=ten", "dataset.limit must be a whole number, got 'ten'"),
        ("generate", "check_base=1", "check_base must be true or false, got 1"),
        ("generate", "output=''", "output must be a folder, got ''"),
        ("generate", "dataset=null", "dataset must be one of the names that --help lists"),
        ("train", "variant=3", "variant must be one of the names that --help lists"),
        ("generate", "+guard.intervall=3", "unknown option guard.intervall"),
        ("generate", "generation.temperature=2", "temperature changes nothing without generation.do_sample=true"),
        ("generate", "generation.top_k=5", "top_k changes nothing without generation.do_sample=true"),
        ("generate", "dataset.root=20240101", "dataset.root must be a text, got 20240101"),
        ("generate", "generation.temperature=hot", "generation.temperature must be a number, got 'hot'"),
        ("demo", "compare=false", "compare must be True, got False"),
        ("demo", "guard=3", "guard=3 is not an option; set single ones with guard.NAME=VALUE"),
        ("evaluate", "defenses=reminder", "defenses must be a list, as in defenses=[a,b]; got 'reminder'"),
        ("evaluate", "limit=0", "limit must be at least 1, got 0"),
        ("train", "test.batch_size=0", "test.batch_size must be at least 1, got 0"),
        ("train", "+training.epoch=3", "unknown option training.epoch"),
        ("train", "training.policy=rewnd", "unknown training.policy 'rewnd'; did you mean 'rewind'"),
        ("train", "training.policy=monitor", "would make a pack that guards nobody"),
        ("train", "training.interval=5000", "training.interval must be at most 4096, got 5000"),
        ("train", "training=fast", "training=fast is not an option; set single ones with training.NAME=VALUE"),
        ("train", "training.test=0.9", "leave nothing to train on"),
        ("probe", "reminder=none", "give reminder=NAME or a folder"),
        ("calibrate", "reminder=null", "give reminder=NAME or a folder"),
        ("dro", "training.prompt=''", "training.prompt is empty"),
    ],
)
def test_a_wrong_value_is_named(name, override, message):
    given = GIVEN.get(name, [] if name in NEEDED else ["data=x.jsonl"])
    with pytest.raises(ConfigError) as caught:
        compose(command(name), [*given, override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["=5", "+=5", "~=", "output=\udcff", "dataset.root=a\ud800"])
def test_what_is_no_option_or_no_text_is_named(given):
    with pytest.raises(ConfigError, match=r"names no option; options are key=value|half of a character") as caught:
        command("generate")([given])
    assert "\n" not in str(caught.value)


def test_jobs_are_values():
    job = compose(command("train"), ["data=x.jsonl"])
    with pytest.raises(ValueError, match="frozen"):
        job.model = "another"
    assert job == compose(command("train"), ["data=x.jsonl"])
    assert json.loads(job.model_dump_json())["data"]["sets"] == "x.jsonl"
