"""A run folder: resumed without doubling, and never mixed with another configuration."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from checkpoints import tiny_guarded
from safety_reminder.errors import ConfigError
from safety_reminder.evaluation import runner
from safety_reminder.evaluation.records import to_json
from safety_reminder.evaluation.runner import open_run, run, run_each, write_summary
from safety_reminder.types import Example, Record, Sampling

OPTIONS: dict[str, Any] = {"sampling": Sampling(max_new_tokens=24, do_sample=False)}
EXAMPLES = [
    Example(f"e{i}", "Filler " * i, image=Image.new("RGB", (8, 8), (40 * i, 0, 0)), harmful=i % 2 == 0)
    for i in range(5)
]
CONFIG = {"model": "tiny", "guard": {"interval": 4}, "batch_size": 1, "output": "here"}


@pytest.fixture
def guarded():
    return tiny_guarded()


def same_answers(left: list[Record], right: list[Record]) -> bool:
    strip = lambda r: {k: v for k, v in to_json(r).items() if k not in ("seconds", "batch", "checks", "interventions")}  # noqa: E731
    return [strip(r) for r in left] == [strip(r) for r in right]


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_example_gets_one_record_in_order(guarded, tmp_path):
    records = open_run(tmp_path, CONFIG)
    result = run(guarded, EXAMPLES, records, guard=True, batch_size=2, **OPTIONS)
    assert [r.id for r in result] == [row["id"] for row in lines(tmp_path)] == [e.id for e in EXAMPLES]
    assert all(r.guard and r.verdicts["refusal"] in ("start", "late", "none") for r in result)
    assert len({r.image_sha256 for r in result}) == len(EXAMPLES)
    assert any(r.interventions for r in result)
    assert any(not r.interventions for r in result)


def test_a_run_that_broke_off_goes_on_where_it_stopped(guarded, tmp_path):
    whole = run(guarded, EXAMPLES, open_run(tmp_path / "whole", CONFIG), guard=True, **OPTIONS)

    def break_off(record):
        if record.id == "e2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(guarded, EXAMPLES, open_run(tmp_path / "part", CONFIG), guard=True, show=break_off, **OPTIONS)
    with (tmp_path / "part" / "records.jsonl").open("ab") as file:
        file.write(b'{"id": "e3", "prom')
    shown = []
    records = open_run(tmp_path / "part", CONFIG)
    resumed = run(guarded, EXAMPLES, records, guard=True, show=lambda r: shown.append(r.id), **OPTIONS)
    assert shown == ["e3", "e4"]
    assert [row["id"] for row in lines(tmp_path / "part")] == [e.id for e in EXAMPLES]
    assert same_answers(resumed, whole)


def test_sampled_answers_do_not_depend_on_batching_or_on_where_a_run_broke_off(guarded, tmp_path):
    sampling = {"sampling": Sampling(max_new_tokens=24, do_sample=True), "seed": 3}
    alone = run(guarded, EXAMPLES, open_run(tmp_path / "alone", CONFIG), guard=True, **sampling)
    batched = run(guarded, EXAMPLES, open_run(tmp_path / "batched", CONFIG), guard=True, batch_size=3, **sampling)
    records = open_run(tmp_path / "resumed", CONFIG)
    records.append(alone[1])
    resumed = run(guarded, EXAMPLES, records, guard=True, batch_size=2, **sampling)
    assert len({tuple(r.token_ids) for r in alone}) == len(EXAMPLES)
    assert same_answers(batched, alone)
    assert same_answers(resumed, alone)


CHANGES = [
    {"prompt": "Another?"},
    {"harmful": False},
    {"image": Image.new("RGB", (8, 8))},
    {"system": "Be brief."},
    {"turns": (("user", "Hello."), ("assistant", "Good day."))},
    {"prefill": "Sure"},
]


@pytest.mark.parametrize("change", CHANGES)
def test_an_id_whose_example_has_changed_is_refused(guarded, tmp_path, change):
    records = open_run(tmp_path, CONFIG)
    run(guarded, EXAMPLES[2:3], records, guard=True, **OPTIONS)
    changed = [replace(EXAMPLES[2], **change)]
    with pytest.raises(ConfigError, match="example 'e2' is not the one that was recorded under this id"):
        run(guarded, changed, records, guard=True, **OPTIONS)


@pytest.mark.parametrize("change", CHANGES[3:])
def test_what_an_attack_added_may_not_change_either(guarded, tmp_path, change):
    records = open_run(tmp_path, CONFIG)
    attacked = replace(EXAMPLES[2], system="Be kind.", turns=(("user", "Hi."), ("assistant", "Hi.")), prefill="Yes")
    [record] = run(guarded, [attacked], records, guard=True, **OPTIONS)
    assert run(guarded, [attacked], records, guard=True, **OPTIONS) == [record]
    for other in (replace(attacked, **change), EXAMPLES[2]):
        with pytest.raises(ConfigError, match="not the one that was recorded"):
            run(guarded, [other], records, guard=True, **OPTIONS)


def test_a_finished_run_does_not_touch_the_model_again(guarded, tmp_path):
    first = run(guarded, EXAMPLES, open_run(tmp_path, CONFIG), guard=True, **OPTIONS)
    nothing: Any = SimpleNamespace()
    again = run(nothing, EXAMPLES, open_run(tmp_path, CONFIG), guard=True, **OPTIONS)
    assert same_answers(first, again)
    assert len(lines(tmp_path)) == len(EXAMPLES)


def test_guarded_and_unguarded_answers_share_a_folder(guarded, tmp_path):
    records = open_run(tmp_path, CONFIG)
    plain = run(guarded, EXAMPLES[:2], records, guard=False, **OPTIONS)
    checked = run(guarded, EXAMPLES[:2], records, guard=True, **OPTIONS)
    assert [r.guard for r in plain + checked] == [False, False, True, True]
    assert not any(r.checks for r in plain)
    assert all(r.checks for r in checked)
    again = open_run(tmp_path, CONFIG)
    assert (again.done(guard=True), again.done(guard=False)) == ({"e0", "e1"}, {"e0", "e1"})


def test_a_comparison_that_breaks_off_has_pairs_and_goes_on_where_it_stopped(guarded, tmp_path):
    def break_off(record):
        if record.id == "e3":
            raise KeyboardInterrupt

    how = {"guards": (False, True), "batch_size": 2, **OPTIONS}
    with pytest.raises(KeyboardInterrupt):
        run_each(guarded, EXAMPLES, open_run(tmp_path, CONFIG), show=break_off, **how)
    pairs = [("e0", False), ("e1", False), ("e0", True), ("e1", True)]
    assert [(row["id"], row["guard"]) for row in lines(tmp_path)][:4] == pairs
    answered = run_each(guarded, EXAMPLES, open_run(tmp_path, CONFIG), **how)
    assert [[r.id for r in answered[guard]] for guard in (False, True)] == [[e.id for e in EXAMPLES]] * 2
    assert {r.batch for r in answered[True]} == {r.batch for r in answered[False]}
    assert same_answers(answered[True], run(guarded, EXAMPLES, open_run(tmp_path / "b", CONFIG), guard=True, **OPTIONS))


def test_a_batch_that_is_under_way_says_how_far_it_is(guarded, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "_TICK", 0.0)
    run(guarded, EXAMPLES[:3], open_run(tmp_path, CONFIG), guard=True, batch_size=3, **OPTIONS)
    shown = re.findall(r"(\d+) tokens, (\d) of 3 answers of this batch", capsys.readouterr().err)
    assert len(shown) > 10
    assert shown == sorted(shown, key=lambda pair: (int(pair[0]), int(pair[1])))
    assert shown[-1][1] == "3"


@pytest.fixture
def begun(guarded, tmp_path):
    """A run folder with a record in it."""
    run(guarded, EXAMPLES[:1], open_run(tmp_path, CONFIG), guard=True, **OPTIONS)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "named"),
    [({"model": "other"}, "model"), ({"guard": {"interval": 5}}, "guard"), ({"seed": 1}, "seed")],
)
def test_another_configuration_in_the_same_folder_is_refused(begun, change, named):
    with pytest.raises(ConfigError, match=rf"another configuration \({named}\).*output=DIR"):
        open_run(begun, CONFIG | change)
    assert json.loads((begun / "config.json").read_text()) == CONFIG


def test_an_option_that_is_gone_is_another_configuration(begun):
    with pytest.raises(ConfigError, match=r"\(model\)"):
        open_run(begun, {k: v for k, v in CONFIG.items() if k != "model"})


def test_an_option_that_is_new_and_null_is_the_configuration_of_before(begun):
    added = {"seed": None, "guard": {**CONFIG["guard"], "prompt_threshold": None}}
    open_run(begun, CONFIG | added)
    open_run(begun, CONFIG)
    with pytest.raises(ConfigError, match=r"another configuration \(guard\)"):
        open_run(begun, CONFIG | {"guard": {**CONFIG["guard"], "prompt_threshold": 0.5}})


def test_records_of_which_nobody_knows_the_configuration_are_refused(begun):
    (begun / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"another configuration \(guard, model\)"):
        open_run(begun, CONFIG)


def test_a_run_that_failed_before_its_first_record_does_not_block_the_folder(tmp_path):
    open_run(tmp_path, CONFIG)
    open_run(tmp_path, CONFIG | {"model": "other"})
    assert json.loads((tmp_path / "config.json").read_text())["model"] == "other"


def test_what_does_not_change_answers_may_change_between_runs(begun):
    again = open_run(begun, CONFIG | {"batch_size": 8, "output": "elsewhere", "device": "cpu"})
    assert len(again.records) == 1


def test_a_configuration_with_tuples_is_the_same_after_it_was_saved(guarded, tmp_path):
    config = CONFIG | {"topics": ("a", "b")}
    run(guarded, EXAMPLES[:1], open_run(tmp_path, config), guard=True, **OPTIONS)
    assert len(open_run(tmp_path, config).records) == 1


def test_a_restart_drops_the_records_of_another_configuration_and_keeps_those_of_the_same(guarded, tmp_path):
    run(guarded, EXAMPLES[:2], open_run(tmp_path, CONFIG), guard=True, **OPTIONS)
    assert len(open_run(tmp_path, CONFIG, restart=True).records) == 2
    assert open_run(tmp_path, CONFIG | {"seed": 1}, restart=True).records == []
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_configuration_is_named(begun, text):
    (begun / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json is not"):
        open_run(begun, CONFIG)


def test_two_examples_with_one_id_are_refused_before_anything_is_spent(tmp_path):
    twice = [Example("a", "x"), Example("b", "y"), Example("a", "z")]
    nothing: Any = SimpleNamespace()
    with pytest.raises(ConfigError, match="two examples have the id 'a'"):
        run(nothing, twice, open_run(tmp_path, CONFIG), guard=True)


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"batch_size": "x"}, {"batch_size": True}, {"seed": "x"}, {"seed": -1}]
)
def test_counts_and_seeds_that_are_none_are_refused(guarded, tmp_path, options):
    with pytest.raises(ConfigError, match=r"must be a whole number from [01], got"):
        run(guarded, EXAMPLES, open_run(tmp_path, CONFIG), guard=True, **options)


def test_the_summary_has_metrics_configuration_and_provenance(guarded, tmp_path):
    result = run(guarded, EXAMPLES, open_run(tmp_path, CONFIG), guard=True, **OPTIONS)
    metrics = write_summary(tmp_path, result, [], CONFIG)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["metrics"] == {name: metric.as_json() for name, metric in metrics.items()}
    assert summary["config"] == CONFIG
    assert set(summary["metrics"]["attack_success_rate"]) == {"value", "low", "high", "n"}
    assert summary["metrics"]["attack_success_rate"]["n"] == 3
    assert "torch" in summary["provenance"]


def test_every_example_draws_with_a_seed_of_its_own(tmp_path):
    same = [Example(str(number), "Name a river.", harmful=False) for number in range(3)]
    sampling = Sampling(max_new_tokens=12, do_sample=True)
    records = open_run(tmp_path, CONFIG)
    answers = run(tiny_guarded(), same, records, guard=False, seed=3, batch_size=2, sampling=sampling)
    assert len({answer.token_ids for answer in answers}) == 3
    for number, answer in enumerate(answers):
        alone = tiny_guarded().generate(
            same[0].messages(), guard=False, seed=3 + number, max_new_tokens=12, do_sample=True
        )
        assert answer.token_ids == alone.token_ids
