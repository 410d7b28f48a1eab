"""MM-SafetyBench's loader, on folders laid out as upstream lays them out."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from benchmark_files import image_of, picture, write_json
from safety_reminder.data import load_dataset
from safety_reminder.data.benchmarks import typographic
from safety_reminder.errors import ConfigError, DataError

FRAUD, HEALTH = "06-Fraud", "12-Health_Consultation"
needs_font = pytest.mark.skipif(
    not any((folder / typographic.FONT).is_file() for folder in typographic.FONT_FOLDERS), reason="no FreeMono"
)


def row(number: int) -> dict[str, str]:
    return {
        "Question": f"Question {number}?",
        "GPT-Pred": "not read",
        "Changed Question": f"Changed {number}?",
        "Key Phrase": f"phrase {number}",
        "Phrase Type": "activity",
        "Rephrased Question": f"Rephrased {number}.",
        "Rephrased Question(SD)": f"Rephrased for SD {number}.",
    }


def lay_out(root: Path, *, variants=("SD", "TYPO", "SD_TYPO"), imgs: str = "imgs") -> Path:
    for scenario, count in ((HEALTH, 1), (FRAUD, 2)):
        write_json(root / "processed_questions" / f"{scenario}.json", {str(i): row(i) for i in range(count)})
        for variant in variants:
            for i in range(count):
                picture(root / imgs / scenario / variant / f"{i}.jpg")
    return root


@pytest.mark.parametrize(
    ("variant", "prompt"),
    [("SD", "Rephrased for SD 1."), ("TYPO", "Rephrased 1."), ("SD_TYPO", "Rephrased 1."), ("text", "Question 1?")],
)
def test_every_variant_goes_with_its_own_wording(tmp_path, variant, prompt):
    examples = load_dataset("mm_safetybench", lay_out(tmp_path), variant=variant)
    assert [e.id for e in examples] == [f"{FRAUD}/{variant}/0", f"{FRAUD}/{variant}/1", f"{HEALTH}/{variant}/0"]
    example = examples[1]
    assert (example.prompt, example.instruction, example.category) == (prompt, "Question 1?", FRAUD)
    assert example.image == (None if variant == "text" else tmp_path / "imgs" / FRAUD / variant / "1.jpg")
    assert all(e.harmful for e in examples)


def test_the_folder_above_and_the_archives_own_name_will_do(tmp_path):
    lay_out(tmp_path / "data", imgs="MM-SafetyBench(imgs)")
    examples = load_dataset("mm_safetybench", tmp_path)
    assert examples[0].image == tmp_path / "data" / "MM-SafetyBench(imgs)" / FRAUD / "SD_TYPO" / "0.jpg"


def test_the_images_may_lie_elsewhere(tmp_path):
    lay_out(tmp_path / "a", variants=())
    lay_out(tmp_path / "b")
    examples = load_dataset("mm_safetybench", tmp_path / "a", variant="SD", images=tmp_path / "b" / "imgs")
    assert examples[0].image == tmp_path / "b" / "imgs" / FRAUD / "SD" / "0.jpg"
    with pytest.raises(DataError, match=r"expected .*nowhere/06-Fraud/TYPO$"):
        load_dataset("mm_safetybench", tmp_path / "a", variant="TYPO", images=tmp_path / "nowhere")


@pytest.mark.parametrize("wanted", [FRAUD, "fraud", 6, "6", "06", ["Fraud"], [6, FRAUD]])
def test_scenarios_are_chosen_by_name_or_number(tmp_path, wanted):
    assert [e.category for e in load_dataset("mm_safetybench", lay_out(tmp_path), scenarios=wanted)] == [FRAUD] * 2


@needs_font
def test_without_typo_images_the_key_phrase_is_rendered_and_a_warning_says_so(tmp_path, caplog):
    lay_out(tmp_path, variants=("SD",))
    with caplog.at_level(logging.WARNING):
        first, second, _ = load_dataset("mm_safetybench", tmp_path, variant="TYPO")
    [record] = caplog.records
    assert record.getMessage().startswith(f"no TYPO images in {tmp_path / 'imgs'}: rendering")
    assert record.getMessage().endswith(f"({FRAUD}, {HEALTH})")
    assert (
        image_of(first).tobytes()
        == typographic.render("phrase 0", numbered=False).tobytes()
        != image_of(second).tobytes()
    )


@needs_font
def test_a_long_key_phrase_is_not_cut_off(tmp_path):
    page = typographic.render("some words more " * 14, numbered=False, grow=True)
    assert page.width == 760 < page.height
    dark = np.asarray(page).min(axis=(1, 2)) < 128
    assert dark[760:].any()
    assert not dark[-2:].any()


@pytest.mark.parametrize("variant", ["SD", "SD_TYPO"])
def test_pictures_that_are_missing_are_an_error(tmp_path, variant):
    lay_out(tmp_path, variants=("TYPO",))
    with pytest.raises(DataError, match=rf"expected .*imgs/06-Fraud/{variant}, or .*\(imgs\)/06-Fraud/{variant}"):
        load_dataset("mm_safetybench", tmp_path, variant=variant)


def test_an_image_that_is_missing_or_broken_is_named(tmp_path):
    image = lay_out(tmp_path) / "imgs" / FRAUD / "TYPO" / "1.jpg"
    image.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"question 1: .*TYPO/1\.jpg is not an image that can be read"):
        load_dataset("mm_safetybench", tmp_path, variant="TYPO")
    image.unlink()
    with pytest.raises(DataError, match=r"06-Fraud\.json, question 1: no image at .*TYPO/1\.jpg"):
        load_dataset("mm_safetybench", tmp_path, variant="TYPO")


def test_files_that_are_missing_or_not_what_they_should_be_are_named(tmp_path):
    with pytest.raises(DataError, match=r"needs dataset\.root=PATH, MM-SafetyBench's folder"):
        load_dataset("mm_safetybench", "")
    with pytest.raises(DataError, match=r"no file or folder .*gone"):
        load_dataset("mm_safetybench", tmp_path / "gone")
    with pytest.raises(DataError, match=r"expected .*processed_questions, or .*data/processed_questions"):
        load_dataset("mm_safetybench", tmp_path)
    (tmp_path / "processed_questions").mkdir()
    with pytest.raises(DataError, match=r"no scenario; expected 01-Illegal_Activitiy\.json"):
        load_dataset("mm_safetybench", tmp_path)
    lay_out(tmp_path)
    with pytest.raises(DataError, match=r"expected .*07-Sex\.json"):
        load_dataset("mm_safetybench", tmp_path, scenarios=[7])
    path = tmp_path / "processed_questions" / f"{FRAUD}.json"
    for text, message in (("[]", "not an object of objects"), ("{", "not valid JSON"), ('{"0": 1}', "not an object")):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            load_dataset("mm_safetybench", tmp_path)
    write_json(path, {"0": {key: value for key, value in row(0).items() if key != "Rephrased Question"}})
    with pytest.raises(DataError, match=r"06-Fraud\.json, question 0: Rephrased Question is missing or empty"):
        load_dataset("mm_safetybench", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "SD-TYPO"}, "unknown MM-SafetyBench variant 'SD-TYPO'; did you mean 'SD_TYPO'"),
        ({"scenarios": "06-Frauds"}, "unknown MM-SafetyBench scenario '06-Frauds'; did you mean '06-Fraud'"),
        ({"scenarios": 14}, "unknown MM-SafetyBench scenario '14'"),
    ],
)
def test_unknown_names_come_with_the_nearest_known_one(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        load_dataset("mm_safetybench", lay_out(tmp_path), **options)
