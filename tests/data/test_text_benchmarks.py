"""AdvBench, XSTest and HarmBench, in files laid out as upstream lays them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark_files import picture, write_csv
from safety_reminder.data import load_dataset
from safety_reminder.errors import ConfigError, DataError

GOALS = [{"goal": "Filler one, two.", "target": "Sure, here is filler"}, {"goal": "Filler three.", "target": "Sure"}]
XSTEST = [
    {"id": 1, "prompt": "Kill a process?", "type": "homonyms", "label": "safe", "focus": "kill", "note": ""},
    {"id": 26, "prompt": "Filler?", "type": "contrast_homonyms", "label": "unsafe", "focus": "kill", "note": "x"},
    {"id": 51, "prompt": "Shoot a film?", "type": "figurative_language", "label": "safe", "focus": "", "note": ""},
]
BEHAVIORS = [
    {
        "Behavior": "Filler one.",
        "FunctionalCategory": "standard",
        "SemanticCategory": "illegal",
        "Tags": "",
        "ContextString": "",
        "BehaviorID": "filler_one",
    },
    {
        "Behavior": "Filler two.",
        "FunctionalCategory": "contextual",
        "SemanticCategory": "misinformation_disinformation",
        "Tags": "context",
        "ContextString": "Some context,\non two lines.",
        "BehaviorID": "filler_two",
    },
]
WITH_IMAGE = {
    "Behavior": "Filler for the image.",
    "FunctionalCategory": "multimodal",
    "SemanticCategory": "illegal",
    "Tags": "",
    "ImageFileName": "shop.jpg",
    "ImageDescription": "A shop.",
    "RedactedImageDescription": "A place.",
    "Source": "somewhere",
    "BehaviorID": "filler_image",
}


def test_advbench_gives_its_goals_and_no_target(tmp_path):
    path = write_csv(tmp_path / "data" / "advbench" / "harmful_behaviors.csv", GOALS)
    for root in (path, path.parent, tmp_path):
        first, second = load_dataset("advbench", root)
        assert (first.id, first.prompt, first.instruction) == ("advbench/000", "Filler one, two.", "Filler one, two.")
        assert (second.id, second.harmful, second.target, second.image) == ("advbench/001", True, "", None)


def test_advbench_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"expected .*/harmful_behaviors\.csv, or .*data/advbench/harmful_behaviors"):
        load_dataset("advbench", tmp_path)
    path = write_csv(tmp_path / "harmful_behaviors.csv", [{"prompt": "x"}])
    with pytest.raises(DataError, match=r"harmful_behaviors\.csv needs at least one row, and the columns goal, target"):
        load_dataset("advbench", tmp_path)
    write_csv(path, [*GOALS, {"goal": " ", "target": "x"}])
    with pytest.raises(DataError, match="row 3: goal is missing or empty"):
        load_dataset("advbench", path)


def test_xstest_tells_safe_from_unsafe(tmp_path):
    path = write_csv(tmp_path / "xstest_prompts.csv", XSTEST)
    examples = load_dataset("xstest", tmp_path)
    assert [(e.id, e.harmful, e.category) for e in examples] == [
        ("xstest/1", False, "homonyms"),
        ("xstest/26", True, "contrast_homonyms"),
        ("xstest/51", False, "figurative_language"),
    ]
    assert examples[0].prompt == "Kill a process?"
    assert examples == load_dataset("xstest", path)
    assert load_dataset("xstest", path, kind="safe") == [examples[0], examples[2]]
    assert load_dataset("xstest", path, kind="unsafe") == [examples[1]]
    assert load_dataset("xstest", path, types=["Homonyms", "contrast_homonyms"]) == examples[:2]


def test_the_older_xstest_goes_by_the_type(tmp_path):
    rows = [{"id_v2": f"v2-{r['id']}", "type": r["type"], "prompt": r["prompt"], "focus": ""} for r in XSTEST]
    write_csv(tmp_path / "xstest_v2_prompts.csv", rows)
    examples = load_dataset("xstest", tmp_path)
    assert [(e.id, e.harmful) for e in examples] == [
        ("xstest/v2-1", False), ("xstest/v2-26", True), ("xstest/v2-51", False),
    ]  # fmt: skip


def test_xstest_names_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match=r"expected .*/xstest_prompts\.csv, or .*/xstest_v2_prompts\.csv"):
        load_dataset("xstest", tmp_path)
    path = write_csv(tmp_path / "xstest_prompts.csv", [XSTEST[0] | {"label": "unsafe"}])
    with pytest.raises(DataError, match="row 1: label 'unsafe' contradicts the type 'homonyms'"):
        load_dataset("xstest", path)
    write_csv(path, XSTEST)
    with pytest.raises(ConfigError, match="unknown kind of XSTest prompts 'save'; did you mean 'safe'"):
        load_dataset("xstest", path, kind="save")
    with pytest.raises(ConfigError, match="unknown XSTest type 'homonym'; did you mean 'homonyms'"):
        load_dataset("xstest", path, types="homonym")
    write_csv(path, [{"goal": "x"}])
    with pytest.raises(DataError, match="the columns prompt, type"):
        load_dataset("xstest", path)


def harmbench(root: Path) -> Path:
    write_csv(root / "data" / "behavior_datasets" / "harmbench_behaviors_text_all.csv", BEHAVIORS)
    write_csv(root / "data" / "behavior_datasets" / "harmbench_behaviors_multimodal_all.csv", [WITH_IMAGE])
    picture(root / "data" / "multimodal_behavior_images" / "shop.png")
    return root


def test_harmbench_puts_the_context_before_the_behaviour(tmp_path):
    harmbench(tmp_path)
    first, second = load_dataset("harmbench", tmp_path)
    assert (first.id, first.prompt, first.category) == ("harmbench/filler_one", "Filler one.", "illegal")
    assert second.prompt == "Some context,\non two lines.\n\n---\n\nFiller two."
    assert (second.instruction, second.harmful, second.image) == ("Filler two.", True, None)
    assert load_dataset("harmbench", tmp_path / "data" / "behavior_datasets", categories="contextual") == [second]
    csv = tmp_path / "data" / "behavior_datasets" / "harmbench_behaviors_text_all.csv"
    assert load_dataset("harmbench", csv) == load_dataset("harmbench", tmp_path / "data") == [first, second]


def test_harmbenchs_images_are_png_whatever_their_name_says(tmp_path):
    (example,) = load_dataset("harmbench", harmbench(tmp_path), modality="multimodal")
    assert example.image == tmp_path / "data" / "multimodal_behavior_images" / "shop.png"
    assert (example.id, example.prompt) == ("harmbench/filler_image", "Filler for the image.")
    csv = tmp_path / "data" / "behavior_datasets" / "harmbench_behaviors_multimodal_all.csv"
    elsewhere = picture(tmp_path / "elsewhere" / "shop.png").parent
    (again,) = load_dataset("harmbench", csv, modality="multimodal", images=elsewhere)
    assert again.image == elsewhere / "shop.png"


def test_harmbench_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"expected .*/behavior_datasets/harmbench_behaviors_text_all\.csv, or "):
        load_dataset("harmbench", tmp_path)
    image = harmbench(tmp_path) / "data" / "multimodal_behavior_images" / "shop.png"
    image.write_bytes(b"")
    with pytest.raises(DataError, match=r"row 1: .*shop\.png is not an image that can be read"):
        load_dataset("harmbench", tmp_path, modality="multimodal")
    image.unlink()
    with pytest.raises(DataError, match=r"row 1: no image at .*multimodal_behavior_images/shop\.png"):
        load_dataset("harmbench", tmp_path, modality="multimodal")
    image.parent.rmdir()
    with pytest.raises(DataError, match=r"expected .*data/multimodal_behavior_images, or "):
        load_dataset("harmbench", tmp_path, modality="multimodal")
    with pytest.raises(ConfigError, match="unknown HarmBench modality 'texts'; did you mean 'text'"):
        load_dataset("harmbench", tmp_path, modality="texts")
    with pytest.raises(ConfigError, match="unknown HarmBench functional category 'context'; did you mean 'contextual'"):
        load_dataset("harmbench", tmp_path, categories="context")
    csv = tmp_path / "data" / "behavior_datasets" / "harmbench_behaviors_text_all.csv"
    with pytest.raises(DataError, match=r"the columns Behavior, .*, ImageFileName"):
        load_dataset("harmbench", csv, modality="multimodal")
