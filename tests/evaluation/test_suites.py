"""Suites: what ships, one's own file, and what is wrong with it in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from safety_reminder.data import load_dataset
from safety_reminder.data.benchmarks import figstep
from safety_reminder.data.protocols import PROTOCOLS
from safety_reminder.errors import ConfigError
from safety_reminder.evaluation.suite.suites import SHIPPED, load_suite

MINE = """
max_tokens: 20
tasks:
  rows: {dataset: text, root: rows.csv, options: {limit: 9}, judges: [refusal]}
  long: {dataset: text, root: rows.csv, max_tokens: 50}
defenses:
  reminder: {}
  brief: {defense: system_prompt, text: Be good.}
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    return path


def test_the_quick_suite_is_made_of_files_that_ship():
    suite = load_suite("quick")
    for task in suite.tasks.values():
        assert Path(task.root).is_file()
        assert {e.harmful for e in load_dataset(task.dataset, task.root, **task.options)} <= {True, False}
    assert len(set(suite.defenses) - {"none", "monitor", "reminder"}) >= 5


@pytest.mark.parametrize("name", [path.stem for path in SHIPPED.glob("*.yaml")])
def test_every_shipped_suite_loads_and_has_both_ends_of_the_comparison(name):
    suite = load_suite(name, root="data")
    assert next(iter(suite.defenses)) == "none"
    assert suite.defenses["monitor"] == {"defense": "reminder", "policy": "monitor"}


def test_headline_attacks_are_those_of_the_official_protocol():
    tasks = load_suite("full", root="data").tasks
    asked = {name: task.options.get("protocol") for name, task in tasks.items()}
    assert {name for name in asked if asked[name] == "official"} == {"figstep", "mm_safetybench", "advbench"}
    assert {name for name in asked if asked[name] == "advice"} == {"figstep_advice", "mm_safetybench_advice"}
    assert all(asked[name] for name, task in tasks.items() if any(task.dataset in sets for sets in PROTOCOLS.values()))
    for task in load_suite("quick").tasks.values():
        rows = load_dataset(task.dataset, task.root)
        assert {e.category for e in rows if e.kind == "attack"}.isdisjoint(figstep.TOPICS[-3:])


def test_roots_are_relative_to_a_folder_and_limits_only_ever_lower(mine):
    suite = load_suite(str(mine), root="DATA", limit=5)
    assert suite.tasks["rows"].root == "DATA/rows.csv"
    assert suite.tasks["rows"].options == {"limit": 5, "seed": 0}
    assert load_suite(str(mine), root="DATA", limit=50).tasks["rows"].options["limit"] == 9
    assert (suite.tasks["rows"].max_tokens, suite.tasks["long"].max_tokens) == (20, 50)
    assert load_suite(str(mine), root="DATA", max_tokens=7).tasks["long"].max_tokens == 7
    assert suite.defenses["brief"] == {"defense": "system_prompt", "text": "Be good."}


def test_without_a_reminder_what_needs_one_is_left_out(mine):
    assert list(load_suite(str(mine), root="DATA", reminder=False).defenses) == ["none", "brief"]


def test_a_choice_of_defences_keeps_what_every_suite_has(mine):
    assert list(load_suite(str(mine), root="D", defenses=["brief"]).defenses) == ["none", "brief", "monitor"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (MINE, {}, r"task rows is in a folder 'rows.csv'; say where that is with root=DIR"),
        (MINE, {"root": "D", "defenses": ["breef"]}, "did you mean 'brief'"),
        (MINE.replace("dataset: text", "dataset: txt"), {"root": "D"}, "unknown dataset 'txt'; did you mean 'text'"),
        (MINE.replace("[refusal]", "[refusl]"), {"root": "D"}, "did you mean 'refusal'"),
        (MINE.replace("system_prompt", "system_promt"), {"root": "D"}, "did you mean 'system_prompt'"),
        (MINE.replace("max_tokens: 50", "max_token: 50"), {"root": "D"}, "did you mean 'max_tokens'"),
        (MINE.replace("brief:", "none:"), {"root": "D"}, "cannot be called 'none'"),
        ("tasks: [a", {}, "is not a suite"),
        ("tasks: {}", {}, "has no tasks"),
        ("tasks: {a: {dataset: text}}", {}, "task a needs root"),
    ],
)
def test_what_is_wrong_with_a_suite_is_said(tmp_path, text, options, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_suite(str(path), **options)


def test_an_unknown_suite_names_those_that_ship():
    with pytest.raises(ConfigError, match="no suite 'quik': attacks, full, quick, or a file"):
        load_suite("quik")


def test_what_suites_name_as_shipped_is_there_and_can_be_read():
    suites = [load_suite(path.stem, root="elsewhere") for path in SHIPPED.glob("*.yaml")]
    tasks = {task.root: task for suite in suites for task in suite.tasks.values() if task.dataset == "attack_run"}
    assert tasks
    for task in tasks.values():
        examples = load_dataset(task.dataset, task.root, **task.options)
        assert len(examples) == 19
        assert all(example.harmful and example.instruction for example in examples)
