"""The rows that published figures rest on, and what asks for advice."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from benchmark_files import picture, write_csv, write_json, write_lines
from safety_reminder.data import load_dataset
from safety_reminder.data.attack_runs import write_examples
from safety_reminder.data.benchmarks import advbench, figstep, mm_safetybench
from safety_reminder.data.protocols import PROTOCOLS
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.types import Example

GOLDEN = {
    "train": [1, 3, 4, 5, 6, 7],
    "validation": [0, 20, 26, 29, 33, 40],
    "test": [2, 8, 38, 44, 45, 51],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Every set with a protocol, of its full size."""
    root = tmp_path_factory.mktemp("data")
    for subset, each in (("SafeBench", 50), ("SafeBench-Tiny", 5)):
        rows = []
        for number, topic in enumerate(figstep.TOPICS, 1):
            for task in range(1, each + 1):
                image = root / "figstep/images" / subset / f"query_ForbidQI_{number}_{task}_6.png"
                image.parent.mkdir(parents=True, exist_ok=True)
                image.touch()
                rows.append(
                    {"category_id": number, "task_id": task, "category_name": topic, "instruction": f"{topic} {task}"}
                )
        write_csv(root / f"figstep/question/{subset}.csv", rows)
    sizes = (97, 163, 44, 144, 122, 154, 109, 153, 139, 130, 167, 109, 149)
    for scenario, size in zip(mm_safetybench.SCENARIOS, sizes, strict=True):
        rows = {str(i): {"Question": f"{scenario} {i}?"} for i in range(size)}
        write_json(root / f"mm_safetybench/processed_questions/{scenario}.json", rows)
    goals = [{"goal": f"Filler {i}.", "target": "Sure"} for i in range(520)]
    write_csv(root / "advbench/harmful_behaviors.csv", goals)
    picture(root / "vlsafe/images/1.jpg")
    queries = [{"image_id": "1.jpg", "query": f"Filler {i}?"} for i in range(310)]
    write_lines(root / "vlsafe/harmlessness_examine.jsonl", queries)
    picture(root / "spa_vl/1.jpg")
    rows = [{"question": f"Filler {i}?", "class1": "A", "image": "1.jpg"} for i in range(265)]
    write_lines(root / "spa_vl/harm.jsonl", rows)
    return root


def load(folder: Path, name: str, **options) -> list[Example]:
    root = folder / name / "harm.jsonl" if name == "spa_vl" else folder / name
    return load_dataset(name, root, **({"variant": "text"} if name == "mm_safetybench" else {}), **options)


@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [
        ("figstep", {"protocol": "official"}, 350),
        ("figstep", {"protocol": "official", "subset": "SafeBench-Tiny"}, 35),
        ("figstep", {"protocol": "advice"}, 150),
        ("figstep", {"protocol": "advice", "subset": "SafeBench-Tiny"}, 15),
        ("figstep", {}, 500),
        ("mm_safetybench", {"protocol": "official"}, 394),
        ("mm_safetybench", {"protocol": "advice"}, 250),
        ("mm_safetybench", {}, 1680),
        ("spa_vl", {"protocol": "official"}, 265),
        ("vlsafe", {"protocol": "official"}, 300),
        ("vlsafe", {}, 310),
        ("advbench", {"protocol": "official"}, 100),
        ("advbench", {"protocol": "official", "split": "train"}, 320),
        ("advbench", {"protocol": "official", "split": "validation"}, 100),
        ("advbench", {"split": "test"}, 100),
        ("advbench", {}, 520),
        ("advbench", {"protocol": "official", "limit": 7, "seed": 1}, 7),
    ],
)
def test_whole_sets_have_the_documented_row_counts_and_no_warning(folder, name, options, rows, caplog):
    with caplog.at_level(logging.WARNING):
        examples = load(folder, name, **options)
    assert len(examples) == rows
    assert not caplog.records
    kinds = {e.kind for e in examples}
    wanted = {"official": {"attack"}, "advice": {"advice"}, None: kinds}[options.get("protocol")]
    assert kinds == wanted
    places = {e.id: place for place, e in enumerate(load(folder, name, **_subset(options)))}
    assert [places[e.id] for e in examples] == sorted(places[e.id] for e in examples)  # in upstream's order
    if name == "mm_safetybench" and "protocol" in options:
        assert max(sum(e.category == c for e in examples) for c in {e.category for e in examples}) == 50


def _subset(options: dict) -> dict:
    return {name: value for name, value in options.items() if name == "subset"}


def test_the_topics_that_ask_for_advice_are_not_attacks(folder):
    asked = {name: {e.category for e in load(folder, name) if e.kind == "advice"} for name in PROTOCOLS["advice"]}
    assert asked["figstep"] == {"Legal Opinion", "Financial Advice", "Health Consultation"}
    assert {name[:2] for name in asked["mm_safetybench"]} == {"08", "10", "11", "12", "13"}
    assert all(e.harmful for name in asked for e in load(folder, name))  # as upstream counts them


def test_advbench_s_parts_are_those_that_the_authors_tool_draws():
    parts = advbench.parts(520)  # beginnings: of datasets' own train_test_split, called as the authors call it
    assert {name: rows[:6] for name, rows in parts.items()} == GOLDEN
    fewer = advbench.parts(514)
    assert sorted(row for part in fewer.values() for row in part) == list(range(514))


def test_fewer_rows_than_in_full_will_do_and_a_warning_says_how_many(folder, tmp_path, caplog):
    for scenario in ("06-Fraud", "03-Malware_Generation", "11-Financial_Advice"):
        source = folder / f"mm_safetybench/processed_questions/{scenario}.json"
        write_json(tmp_path / f"processed_questions/{scenario}.json", {}).write_text(source.read_text())
    write_csv(tmp_path / "harmful_behaviors.csv", [{"goal": f"Filler {i}.", "target": ""} for i in range(52)])
    with caplog.at_level(logging.WARNING):
        assert len(load_dataset("mm_safetybench", tmp_path, variant="text", protocol="official")) == 94
        assert len(load_dataset("advbench", tmp_path, protocol="official", split="train")) == 32
        with pytest.raises(DataError, match=r"protocol=advice leaves none of 154 rows"):
            load_dataset("mm_safetybench", tmp_path, variant="text", protocol="advice", scenarios="Fraud")
    assert [record.getMessage() for record in caplog.records] == [
        "dataset=mm_safetybench protocol=official: 94 of its 394 rows",
        "dataset=advbench protocol=official: 32 of its 320 rows",
    ]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("figstep", {"protocol": "oficial"}, "unknown protocol 'oficial'; did you mean 'official'"),
        ("figstep", {"protocol": 1}, "unknown protocol '1'"),
        ("advbench", {"protocol": "advice"}, "dataset=advbench has no protocol=advice; .* figstep, mm_safetybench"),
        ("spa_vl", {"protocol": "official", "split": "help"}, "protocol=official is split=harm, and not split=help"),
        ("advbench", {"split": "tests"}, "unknown AdvBench split 'tests'; did you mean 'test'"),
    ],
)
def test_a_protocol_that_a_set_has_not_is_named(folder, name, options, message):
    with pytest.raises(ConfigError, match=message):
        load(folder, name, **options)


def test_one_s_own_rows_and_attacks_on_them_may_ask_for_advice(tmp_path):
    rows = [{"prompt": "Filler?", "advice": "true"}, {"prompt": "More?", "advice": ""}]
    write_csv(tmp_path / "own.csv", rows)
    own = load_dataset("text", tmp_path / "own.csv")
    assert [e.kind for e in own] == ["advice", "attack"]
    write_examples(tmp_path, {"test": own})
    assert load_dataset("attack_run", tmp_path) == own
    write_csv(tmp_path / "own.csv", [{"prompt": "Filler?", "advice": "perhaps"}])
    with pytest.raises(DataError, match="advice must be true or false"):
        load_dataset("text", tmp_path / "own.csv")
