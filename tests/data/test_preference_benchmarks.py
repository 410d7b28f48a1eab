"""The evaluation sides of SPA-VL, VLSafe and VLGuard, in files laid out as upstream lays them out."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import pytest
from PIL import Image

from benchmark_files import image_of, picture, write_json, write_lines
from safety_reminder.data import load_dataset
from safety_reminder.errors import ConfigError, DataError


def spa_vl(root: Path) -> Path:
    for split, count in (("harm", 2), ("help", 1)):
        table = {
            "image": [Image.new("RGB", (5 + i, 4)) for i in range(count)],
            "question": [f"{split} {i}?" for i in range(count)],
            "class1": ["Domain"] * count,
            "class2": ["Category"] * count,
            "class3": ["Subcategory"] * count,
        }
        made = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
        (root / "test").mkdir(parents=True, exist_ok=True)
        made.to_parquet(root / "test" / f"{split}-00000-of-00001.parquet")
    return root


def test_spa_vls_splits_are_read_with_their_images(tmp_path):
    first, second = load_dataset("spa_vl", spa_vl(tmp_path))
    assert (first.id, first.prompt, first.category, first.harmful) == ("spa_vl/harm/0", "harm 0?", "Domain", True)
    assert [image_of(first).size, image_of(second).size] == [(5, 4), (6, 4)]
    (helpful,) = load_dataset("spa_vl", tmp_path, split="help")
    assert (helpful.id, helpful.prompt, helpful.harmful) == ("spa_vl/help/0", "help 0?", False)
    (alone,) = load_dataset("spa_vl", tmp_path / "test" / "help-00000-of-00001.parquet", split="help")
    assert (alone.id, alone.prompt) == (helpful.id, helpful.prompt)


def test_spa_vl_is_read_as_json_lines_with_named_images(tmp_path):
    row = {"question": "Filler?", "class1": "A", "class2": "B", "class3": "C", "image_name": "1.jpg"}
    image = picture(tmp_path / "A" / "B" / "C" / "1.jpg")
    (example,) = load_dataset("spa_vl", write_lines(tmp_path / "harm.jsonl", [row]))
    assert (example.image, example.category) == (image, "A")
    elsewhere = picture(tmp_path / "elsewhere" / "1.jpg")
    (example,) = load_dataset("spa_vl", tmp_path / "harm.jsonl", images=elsewhere.parent)
    assert example.image == elsewhere
    elsewhere.write_bytes(b"no")
    with pytest.raises(DataError, match=r"row 1: .*elsewhere/1\.jpg is not an image that can be read"):
        load_dataset("spa_vl", tmp_path / "harm.jsonl", images=elsewhere.parent)


def test_spa_vl_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"dataset=spa_vl: expected .*/test/help-\*\.parquet"):
        load_dataset("spa_vl", tmp_path, split="help")
    with pytest.raises(ConfigError, match="unknown SPA-VL split 'harmful'; did you mean 'harm'"):
        load_dataset("spa_vl", tmp_path, split="harmful")
    with pytest.raises(DataError, match="the columns question, class1"):
        load_dataset("spa_vl", write_lines(tmp_path / "x.jsonl", [{"question": "Filler?"}]))


def test_a_broken_image_inside_a_parquet_file_is_named(tmp_path):
    good = io.BytesIO()
    Image.new("RGB", (4, 4)).save(good, "PNG")
    cells = [{"bytes": good.getvalue(), "path": None}, {"bytes": b"no image", "path": None}]
    table = {"image": cells, "question": ["a?", "b?"], "class1": ["x", "x"]}
    features = datasets.Features(
        image=datasets.Image(), question=datasets.Value("string"), class1=datasets.Value("string")
    )
    path = tmp_path / "harm.parquet"
    datasets.Dataset.from_dict(table, features=features).to_parquet(path)
    with pytest.raises(DataError, match=r"harm\.parquet, row 2: the image cannot be read"):
        load_dataset("spa_vl", path)


QUERIES = [
    {"image_id": "000000000001.jpg", "query": "Filler one?", "reference": "No."},
    {"image_id": "000000000002.jpg", "query": "Filler two?", "reference": "No."},
]


@pytest.mark.parametrize("folder", ["images", "train2017"])
def test_vlsafes_queries_go_with_coco_images(tmp_path, folder):
    path = write_lines(tmp_path / "VLSafe" / "harmlessness_examine.jsonl", QUERIES)
    for row in QUERIES:
        picture(path.parent / folder / row["image_id"])
    for root in (path, path.parent, tmp_path):
        first, second = load_dataset("vlsafe", root)
        assert (first.id, first.prompt, first.harmful, first.target) == ("vlsafe/0000", "Filler one?", True, "")
        assert second.image == path.parent / folder / "000000000002.jpg"


def test_vlsafe_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"expected .*/harmlessness_examine\.jsonl, or .*VLSafe/harmlessness_examine"):
        load_dataset("vlsafe", tmp_path)
    path = write_lines(tmp_path / "harmlessness_examine.jsonl", QUERIES)
    with pytest.raises(DataError, match=r"expected .*/images, or .*/train2017"):
        load_dataset("vlsafe", path)
    picture(tmp_path / "coco" / "000000000001.jpg")
    with pytest.raises(DataError, match=r"row 2: no image at .*coco/000000000002\.jpg"):
        load_dataset("vlsafe", path, images=tmp_path / "coco")
    with pytest.raises(DataError, match="the columns image_id, query"):
        load_dataset("vlsafe", write_lines(path, [{"query": "x"}]))


GUARD = [
    {
        "id": "a",
        "image": "memes/a.png",
        "safe": False,
        "harmful_category": "privacy",
        "harmful_subcategory": "personal data",
        "instr-resp": [{"instruction": "Filler unsafe image.", "response": "No."}],
    },
    {
        "id": "b",
        "image": "ads/b.png",
        "safe": True,
        "instr-resp": [
            {"safe_instruction": "Filler safe.", "response": "Yes."},
            {"unsafe_instruction": "Filler unsafe text.", "response": "No."},
        ],
    },
    {"id": "c", "image": "ads/c.png", "safe": True, "instr-resp": [{"safe_instruction": "Safe.", "response": "Yes."}]},
]


def vlguard(root: Path) -> Path:
    write_json(root / "test.json", GUARD)
    for row in GUARD:
        picture(root / "test" / row["image"])
    return root


def test_vlguards_three_subsets(tmp_path):
    vlguard(tmp_path / "data")
    examples = load_dataset("vlguard", tmp_path)
    assert [(e.id, e.prompt, e.harmful, e.category) for e in examples] == [
        ("vlguard/unsafes/0", "Filler unsafe image.", True, "privacy"),
        ("vlguard/safe_unsafes/1", "Filler unsafe text.", True, "safe_unsafes"),
        ("vlguard/safe_safes/1", "Filler safe.", False, "safe_safes"),
        ("vlguard/safe_safes/2", "Safe.", False, "safe_safes"),
    ]
    assert examples[0].image == tmp_path / "data" / "test" / "memes" / "a.png"
    assert load_dataset("vlguard", tmp_path / "data", subsets="safe_unsafes") == [examples[1]]
    assert load_dataset("vlguard", tmp_path / "data" / "test.json", subsets=["safe_safes", "unsafes"]) == [
        examples[0], *examples[2:],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"safe": "yes"}, "row 1: safe must be true or false, got 'yes'"),
        ({"instr-resp": []}, "row 1: instr-resp must be a list of objects"),
        ({"instr-resp": [{"response": "No."}]}, "row 1: instr-resp of an image that is not safe needs an instruction"),
        ({"instr-resp": [{"instruction": 3}]}, "row 1: instruction must be a text, got 3"),
        ({"image": "memes/gone.png"}, "row 1: no image at"),
        ({"image": "data:image/png;base64," + 300 * "A"}, "row 1: no image at"),
        ({"image": "gone\0.png"}, "row 1: no image at"),
    ],
)
def test_vlguard_rows_that_do_not_fit_are_named(tmp_path, change, message):
    vlguard(tmp_path)
    write_json(tmp_path / "test.json", [GUARD[0] | change])
    with pytest.raises(DataError, match=message):
        load_dataset("vlguard", tmp_path)


def test_vlguard_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"expected .*/test\.json, or .*/data/test\.json"):
        load_dataset("vlguard", tmp_path)
    write_json(tmp_path / "test.json", GUARD)
    with pytest.raises(DataError, match=r"dataset=vlguard: expected .*/test$"):
        load_dataset("vlguard", tmp_path)
    with pytest.raises(ConfigError, match="unknown VLGuard subset 'unsafe'; did you mean 'unsafes'"):
        load_dataset("vlguard", tmp_path, subsets="unsafe")
