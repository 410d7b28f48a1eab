"""MM-Vet's loader, on both layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark_files import picture, write_json
from safety_reminder.data import load_dataset
from safety_reminder.errors import ConfigError, DataError

ROWS = {
    "v1_0": {
        "imagename": "v1_0.png",
        "question": "What is x?",
        "answer": "-1<AND>-5",
        "imagesource": "web",
        "capability": ["ocr", "math"],
    },
    "v1_1": {
        "imagename": "v1_1.jpg",
        "question": "Who is it?",
        "answer": "A<OR>B",
        "imagesource": "web",
        "capability": ["rec"],
    },
}


def lay_out(root: Path) -> Path:
    write_json(root / "mm-vet.json", ROWS)
    for row in ROWS.values():
        picture(root / "images" / row["imagename"])
    return root


def test_rows_become_harmless_examples_with_their_answers(tmp_path):
    first, second = load_dataset("mmvet", lay_out(tmp_path))
    assert (first.id, first.prompt, first.target, first.category) == ("v1_0", "What is x?", "-1<AND>-5", "ocr/math")
    assert first.image == tmp_path / "images" / "v1_0.png"
    assert (second.target, second.category, second.harmful) == ("A<OR>B", "rec", False)


def test_the_archives_folder_and_the_list_read_alike(tmp_path):
    expected = [(e.id, e.prompt, e.target, e.category) for e in load_dataset("mmvet", lay_out(tmp_path / "a/mm-vet"))]
    listed = [{"question_id": k, "image": r["imagename"], **r, "category": "x"} for k, r in ROWS.items()]
    write_json(lay_out(tmp_path / "b") / "data.json", listed)
    (tmp_path / "b" / "mm-vet.json").unlink()
    for folder in ("a", "b"):
        assert [(e.id, e.prompt, e.target, e.category) for e in load_dataset("mmvet", tmp_path / folder)] == expected


def test_capabilities_select(tmp_path):
    assert [e.id for e in load_dataset("mmvet", lay_out(tmp_path), capabilities=["MATH"])] == ["v1_0"]
    assert len(load_dataset("mmvet", tmp_path, capabilities=["rec", "ocr"])) == 2
    with pytest.raises(ConfigError, match="unknown MM-Vet capability 'maths'; did you mean 'math'"):
        load_dataset("mmvet", tmp_path, capabilities="maths")


def test_files_that_are_missing_or_not_what_they_should_be_are_named(tmp_path):
    with pytest.raises(DataError, match=r"expected .*/mm-vet\.json, or .*mm-vet/mm-vet\.json, or .*/data\.json"):
        load_dataset("mmvet", tmp_path)
    lay_out(tmp_path)
    (tmp_path / "images" / "v1_1.jpg").unlink()
    with pytest.raises(DataError, match=r"question v1_1: no image at .*images/v1_1\.jpg"):
        load_dataset("mmvet", tmp_path)
    write_json(tmp_path / "mm-vet.json", {"v1_0": ROWS["v1_0"] | {"answer": ""}})
    with pytest.raises(DataError, match=r"mm-vet\.json, question v1_0: answer is missing or empty"):
        load_dataset("mmvet", tmp_path)
    write_json(tmp_path / "mm-vet.json", {"v1_0": ROWS["v1_0"] | {"capability": "ocr"}})
    with pytest.raises(DataError, match="question v1_0: capability must be a list of rec, ocr"):
        load_dataset("mmvet", tmp_path)
    (tmp_path / "mm-vet.json").unlink()
    write_json(tmp_path / "data.json", [{"question": "x"}])
    with pytest.raises(DataError, match=r"data\.json needs at least one row, and the columns question_id, image"):
        load_dataset("mmvet", tmp_path)
