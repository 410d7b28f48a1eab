"""Training sets, in files laid out as upstream lays them out, and the project's own schema."""

from __future__ import annotations

import json
import re
from pathlib import Path

import datasets
import pytest
from PIL import Image

from benchmark_files import image_of, path_of
from safety_reminder.config.guard import DEFAULT_REFUSAL
from safety_reminder.data.training_sets.loading import load_training, read_training_file, user
from safety_reminder.errors import ConfigError, DataError, ImageError
from safety_reminder.types import TrainingExample

ROWS = [
    {"prompt": "Filler?", "safe": False, "rejected": "Filler.", "image": "a.png"},
    {"prompt": "Hello?", "safe": True, "chosen": "Hello."},
    {
        "messages": [
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "One."},
            {"role": "user", "content": "Two?"},
        ],
        "safe": True,
        "chosen": "No.",
        "harmful_prompt": True,
        "source": "mine",
    },
]


def picture(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), colour).save(path)
    return path


def lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_schema_is_read_from_json_lines(tmp_path):
    image = picture(tmp_path / "a.png")
    first, second, third = read_training_file(lines(tmp_path / "mine.jsonl", ROWS))
    assert first == TrainingExample(user("Filler?"), False, DEFAULT_REFUSAL, "Filler.", image, source="mine")
    assert (first.answer, second.answer) == ("Filler.", "Hello.")
    assert [m["role"] for m in third.conversation()] == ["user", "assistant", "user"]
    assert third.harmful_prompt
    parts = first.conversation()[0]["content"]
    assert parts == [{"type": "image", "image": image}, {"type": "text", "text": "Filler?"}]
    assert first.messages[0]["content"] == "Filler?"


def test_lines_end_where_json_lines_end(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('\ufeff{"prompt": "p", "safe": true, "chosen": "b\u2028c"}\n\n', encoding="utf-8")
    assert [e.answer for e in read_training_file(path)] == ["b\u2028c"]


def test_the_schema_is_read_from_a_csv_and_from_parquet_alike(tmp_path):
    image = picture(tmp_path / "a.png")
    expected = read_training_file(lines(tmp_path / "mine.jsonl", ROWS))
    (tmp_path / "mine.csv").write_text(
        "prompt,messages,safe,chosen,rejected,image,harmful_prompt,source\n"
        "Filler?,,false,,Filler.,a.png,,\n"
        "Hello?,,1,Hello.,,,,\n"
        f',"{json.dumps(ROWS[2]["messages"]).replace(chr(34), chr(34) * 2)}",true,No.,,,true,mine\n'
    )
    assert read_training_file(tmp_path / "mine.csv") == expected
    columns = ("prompt", "messages", "safe", "chosen", "rejected", "image", "harmful_prompt", "source")
    table = {name: [row.get(name) for row in ROWS] for name in columns}
    table["image"] = [str(image), None, None]
    made = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
    made.to_parquet(tmp_path / "mine.parquet")
    found = read_training_file(tmp_path / "mine.parquet")
    assert image_of(found[0]).size == (8, 6)
    assert found[0].messages == expected[0].messages
    assert found[1:] == expected[1:]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "a"}, "row 1: needs safe, and either messages or prompt"),
        ({"safe": True, "chosen": "a"}, "row 1: needs safe, and either messages or prompt"),
        ({"prompt": "p", "messages": [], "safe": True, "chosen": "a"}, "row 1: needs safe, and either"),
        ({"prompt": "p", "safe": "maybe", "chosen": "a"}, "row 1: safe must be true or false, got 'maybe'"),
        ({"prompt": "p", "safe": True}, "row 1: a safe row needs chosen"),
        ({"id": "a", "prompt": "p", "text": "t", "seen_text": "t", "checks": []}, "row 1 is a record of a run"),
        ({"prompt": "p", "safe": False, "chosen": 3}, "row 1: chosen must be a text, got 3"),
        ({"prompt": "p", "safe": True, "choosen": "a"}, "unknown field 'choosen'; did you mean 'chosen'"),
        ({"prompt": "p", "safe": False, "image": "gone.png"}, "row 1: no image at"),
        ({"prompt": "p", "safe": False, "image": 3}, "row 1: image must be a path or an image column, got 3"),
        ({"messages": "[", "safe": False}, "row 1: messages is not valid JSON"),
        ({"messages": [{"role": "assistant", "content": "a"}], "safe": False}, "row 1: messages must be a list"),
        ({"messages": [{"role": "user", "content": ["a"]}], "safe": False}, "row 1: messages must be a list"),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path, row, message):
    with pytest.raises(DataError) as caught:
        read_training_file(lines(tmp_path / "data.jsonl", [row]))
    assert message in str(caught.value)


def test_files_that_are_missing_or_not_what_they_should_be_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no training file at .*gone\.jsonl"):
        read_training_file(tmp_path / "gone.jsonl")
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(DataError, match=r"bad\.parquet is not a valid parquet file"):
        read_training_file(tmp_path / "bad.parquet")
    (tmp_path / "bad.csv").write_text("prompt,safe,chosen\np,true,a,b\n")
    with pytest.raises(DataError, match="row 1 has more cells than the header"):
        read_training_file(tmp_path / "bad.csv")
    (tmp_path / "bad.txt").write_text("no")
    with pytest.raises(DataError, match=r"expected .*\.jsonl or \.parquet"):
        read_training_file(tmp_path / "bad.txt")
    (tmp_path / "bad.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        read_training_file(tmp_path / "bad.jsonl")


def numbered(path: Path, unsafe: int, safe: int) -> Path:
    rows = [{"prompt": f"u{i}", "safe": False, "rejected": "x"} for i in range(unsafe)]
    return lines(path, rows + [{"prompt": f"s{i}", "safe": True, "chosen": "x"} for i in range(safe)])


def test_files_are_mixed_in_the_numbers_asked_for(tmp_path):
    one, two = numbered(tmp_path / "one.jsonl", 9, 1), numbered(tmp_path / "two.jsonl", 1, 9)
    mixed = load_training(f"{one}+{two}", harmful=4, benign=5, seed=3)
    assert [sum(e.safe == kind for e in mixed) for kind in (False, True)] == [4, 5]
    assert mixed == load_training(f"{one}+{two}", harmful=4, benign=5, seed=3)
    assert mixed != load_training(f"{one}+{two}", harmful=4, benign=5, seed=4)
    assert len(load_training(f"{one}+{two}")) == 20
    with pytest.raises(DataError, match=r"has 10 harmful rows; data\.harmful=11 asks for more"):
        load_training(f"{one}+{two}", harmful=11)


@pytest.mark.parametrize(("unsafe", "safe", "missing"), [(0, 3, "unsafe"), (3, 0, "safe")])
def test_a_mix_of_one_kind_is_refused(tmp_path, unsafe, safe, missing):
    with pytest.raises(DataError, match=f"none of them {missing}; training needs both kinds"):
        load_training(str(numbered(tmp_path / "one.jsonl", unsafe, safe)))


SPA = {"question": "Filler?", "chosen": "No.", "rejected": "Yes."}
VLSAFE_HARMFUL = {"image_id": "1.jpg", "query": "Filler?", "reference": "No."}
VLSAFE_BENIGN = {"image_id": "1.jpg", "interaction": [{"user": "What is this?"}, {"model": "Red."}]}


def test_unknown_sets_and_options_are_named(tmp_path):
    with pytest.raises(ConfigError, match="unknown training set 'spavl'; did you mean 'spa_vl'"):
        load_training("spavl")
    with pytest.raises(DataError, match=r"data=vlsafe needs data\.root=DIR"):
        load_training("vlsafe")
    with pytest.raises(DataError, match="no file or folder"):
        load_training("vlsafe", tmp_path / "gone")
    picture(tmp_path / "images/1.jpg")
    lines(tmp_path / "a.jsonl", [VLSAFE_HARMFUL, VLSAFE_BENIGN])
    with pytest.raises(ConfigError, match="unknown option of data=vlsafe 'image'; did you mean 'images'"):
        load_training("vlsafe", tmp_path, options={"image": "x"})


def test_spa_vl_is_read_from_upstream_s_parquet(tmp_path):
    pictures = [str(picture(tmp_path / f"{i}.png")) for i in range(3)]
    table = {name: [f"{text} {i}" for i in range(3)] for name, text in SPA.items()}
    table |= {"image": pictures, "image_name": ["0.jpg", "1.jpg", "2.jpg"]}
    made = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
    (tmp_path / "spa_vl/data").mkdir(parents=True)
    for shard in range(2):
        made.shard(2, shard).to_parquet(tmp_path / f"spa_vl/data/train-{shard:05d}-of-00002.parquet")
    benign = numbered(tmp_path / "mine.jsonl", 0, 2)
    found = load_training(f"spa_vl+{benign}", tmp_path, harmful=2, benign=1)
    rows = [e for e in found if e.source == "spa_vl"]
    assert len(rows) == 2
    assert image_of(rows[0]).size == (8, 6)
    assert (rows[0].safe, rows[0].chosen[:3], rows[0].rejected[:4]) == (False, "No.", "Yes.")


def test_spa_vl_is_read_as_the_authors_converted_it(tmp_path):
    classes = {"class1": "A", "class2": "B", "class3": "C"}
    rows = [
        SPA | classes | {"image_name": f"{i}.jpg", "safe": safe, "chosen_safe": chosen_safe}
        for i, (safe, chosen_safe) in enumerate([(0, 1), (1, 1), (0, 0), (0, 1)])
    ]
    image = picture(tmp_path / "images/A/B/C/0.jpg")
    picture(tmp_path / "images/A/B/C/3.jpg")
    lines(tmp_path / "SPA_VL_converted.json", rows)
    benign = numbered(tmp_path / "benign/mine.jsonl", 0, 1)
    found = [e for e in load_training(f"spa_vl+{benign}", tmp_path) if e.source == "spa_vl"]
    assert [path_of(e).name for e in found] == ["0.jpg", "3.jpg"]
    assert found[0].image == image
    (tmp_path / "images/A/B/C/3.jpg").unlink()
    with pytest.raises(DataError, match=r"row 4: no image at .*3\.jpg, nor at"):
        load_training(f"spa_vl+{benign}", tmp_path)


def test_spa_vl_without_its_columns_says_which(tmp_path):
    lines(tmp_path / "a.jsonl", [{"question": "Filler?"}])
    with pytest.raises(DataError, match="has no column chosen, rejected"):
        load_training("spa_vl", tmp_path)
    with pytest.raises(DataError, match=r"expected data/train-\*\.parquet"):
        load_training("spa_vl", picture(tmp_path / "other/a.png").parent)


def test_spa_vl_s_rows_that_lack_a_text_are_named(tmp_path):
    picture(tmp_path / "a.png")
    rows = [{"question": "Filler?", "chosen": "No.", "rejected": "x", "image": "a.png"}]
    lines(tmp_path / "a.jsonl", [*rows, {"question": "Filler?", "chosen": None, "image": "a.png"}])
    with pytest.raises(DataError, match="row 2: chosen is missing or empty"):
        load_training("spa_vl", tmp_path, harmful=2, benign=0, both_kinds=False)


def test_rows_with_a_broken_or_missing_image_are_named_and_can_be_left_out(tmp_path, caplog):
    # Of every set that has images: one row that is fine, and one that is not.
    picture(tmp_path / "a.png")
    good, gone = ({"question": "Filler?", "chosen": "No.", "rejected": "x", "image": n} for n in ("a.png", "gone.png"))
    lines(tmp_path / "spa_vl/a.jsonl", [good, gone])
    picture(tmp_path / "spa_vl/a.png")
    raw = {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}
    table = datasets.Dataset.from_list([{**good, "image": raw}, {**good, "image": {"bytes": b"no", "path": None}}])
    (tmp_path / "parquet").mkdir()
    table.to_parquet(tmp_path / "parquet/train-0.parquet")
    features = datasets.Features({**{n: datasets.Value("string") for n in good}, "image": datasets.Image()})
    table.cast(features).to_parquet(tmp_path / "parquet/train-0.parquet")
    lines(tmp_path / "vlsafe/a.jsonl", [{"image_id": n, "query": "Filler?"} for n in ("a.png", "gone.png")])
    picture(tmp_path / "vlsafe/images/a.png")
    picture(tmp_path / "vlguard/train/a.png")
    asked = [{"image": n, "instr-resp": [{"safe_instruction": "q", "response": "r"}]} for n in ("a.png", "gone.png")]
    (tmp_path / "vlguard/train.json").write_text(json.dumps(asked))
    own = lines(tmp_path / "own.jsonl", [{"prompt": "q", "safe": False, "image": n} for n in ("a.png", "gone.png")])
    for name, root in (
        ("spa_vl", "spa_vl"), ("spa_vl", "parquet"), ("vlsafe", "vlsafe"), ("vlguard", "vlguard"), (str(own), "."),
    ):  # fmt: skip
        with pytest.raises(ImageError, match=r"row 2: (no image at|the image cannot be read)"):
            load_training(name, tmp_path / root, both_kinds=False)
        caplog.clear()
        assert len(load_training(name, tmp_path / root, both_kinds=False, on_error="skip")) == 1
        assert re.search("left out: .*row 2: ", caplog.text)


@pytest.mark.parametrize("count", [-1, "x", 1.5])
def test_counts_that_are_none_are_refused(tmp_path, count):
    with pytest.raises(ConfigError, match=r"data\.harmful must be a number of rows"):
        load_training(str(numbered(tmp_path / "a.jsonl", 2, 2)), harmful=count)


def test_vlsafe_has_bare_harmful_queries_and_benign_talks(tmp_path):
    image = picture(tmp_path / "images/1.jpg")
    lines(tmp_path / "harmlessness_alignment.jsonl", [VLSAFE_HARMFUL] * 3)
    lines(tmp_path / "helpful_sampled.jsonl", [VLSAFE_BENIGN] * 3)
    found = load_training("vlsafe", tmp_path, harmful=1, benign=2)
    assert found[0] == TrainingExample(user("Filler?"), False, DEFAULT_REFUSAL, "", image, source="vlsafe")
    assert found[1] == TrainingExample(user("What is this?"), True, "Red.", "", image, source="vlsafe")
    assert len(found) == 3


def test_what_is_asked_in_vlsafe_s_talks_on_harmful_requests_is_harmful(tmp_path):
    image = picture(tmp_path / "images/1.jpg")
    # As published: the answer is beside the question, and a second turn gives feedback on it.
    turns = [{"user": "What is this?", "model": "Blue.", "rating": 2}, {"user": "Look again.", "model": "Red."}]
    row = {"image_id": "1.jpg", "caption": "A page", "interaction": turns}
    lines(tmp_path / "harmlessness_nlf.jsonl", [{**row, "interaction": [{**turns[0], "user": "Filler?"}]}] * 3)
    lines(tmp_path / "helpfulness_nlf.jsonl", [row, {**row, "interaction": turns[:1]}])
    harmful, *safe = load_training("vlsafe", tmp_path, harmful=1, benign=2)
    assert harmful == TrainingExample(user("Filler?"), False, DEFAULT_REFUSAL, "", image, source="vlsafe")
    assert [example.prompt for example in safe] == ["What is this?"] * 2
    assert {example.chosen for example in safe} == {"Red.", "Blue."}
    assert all(example.safe for example in safe)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "Filler?"}, "row 1: has no image_id"),
        ({"image_id": "2.jpg", "query": "Filler?"}, r"no image at .*2\.jpg; give \+data\.options\.images=DIR"),
        ({"image_id": "1.jpg"}, "row 1: has neither query nor interaction"),
        ({"image_id": "1.jpg", "interaction": []}, "interaction must begin with"),
        ({"image_id": "1.jpg", "interaction": [{"user": "a"}]}, "row 1: model is missing or empty"),
        ({"image_id": "1.jpg", "interaction": ["a", "b"]}, "interaction must begin with"),
        ({"image_id": "1.jpg", "interaction": [{"user": "a"}, {"model": ""}]}, "row 1: model is missing or empty"),
    ],
)
def test_vlsafe_s_mistakes_are_named(tmp_path, row, message):
    picture(tmp_path / "images/1.jpg")
    lines(tmp_path / "a.jsonl", [row])
    with pytest.raises(DataError, match=message):
        load_training("vlsafe", tmp_path)


def test_vlguard_s_three_layouts_are_read(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"train/{name}.png")
    rows = [
        {"image": "a.png", "safe": False, "instr-resp": [{"instruction": "Filler?", "response": "No."}]},
        {
            "image": "b.png",
            "safe": True,
            "instr-resp": [
                {"safe_instruction": "What?", "response": "Red."},
                {"unsafe_instruction": "Filler two?", "response": "No!"},
            ],
        },
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    found = load_training("vlguard", tmp_path)
    kinds = [(e.prompt, e.safe, e.harmful_prompt, e.answer) for e in found]
    assert kinds == [
        ("Filler?", False, False, ""),
        ("Filler two?", False, False, ""),
        ("Filler?", True, True, "No."),
        ("What?", True, False, "Red."),
        ("Filler two?", True, True, "No!"),
    ]
    (tmp_path / "train.json").write_text(json.dumps([{"image": "a.png", "instr-resp": [{"response": "No."}]}]))
    with pytest.raises(DataError, match="instr-resp needs a response, and one of safe_instruction"):
        load_training("vlguard", tmp_path)
    for answers in (["x"], "x", [{"instruction": "Filler?", "response": ""}]):
        (tmp_path / "train.json").write_text(json.dumps([{"image": "a.png", "instr-resp": answers}]))
        with pytest.raises(DataError, match=r"row 1: (instr-resp needs|response is missing)"):
            load_training("vlguard", tmp_path)
    with pytest.raises(DataError, match=r"expected VLGuard's .*test\.json"):
        load_training("vlguard", tmp_path, options={"split": "test"})


def test_labelled_answers_become_rows_of_both_kinds(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("question,answer,label\nq1,Yes.,1\nq1,No.,0\nq2,Yes.,1\nq3,Fine.,0\n")
    found = {(e.prompt, e.safe): e for e in load_training("pairs", path)}
    assert (found["q1", False].rejected, found["q1", False].chosen) == ("Yes.", "No.")
    assert found["q2", False].chosen == DEFAULT_REFUSAL
    assert found["q1", True].harmful_prompt
    assert not found["q3", True].harmful_prompt
    with pytest.raises(DataError, match="row 1: is_unsafe is missing or empty; name the columns"):
        load_training("pairs", path, options={"unsafe": "is_unsafe"})


def test_pairs_give_as_many_of_each_kind_as_are_asked_for(tmp_path):
    rows = [f"q{i},unsafe{i},1\nq{i},safe{i},0\n" for i in range(6)] + [f"p{i},safe,0\n" for i in range(60)]
    path = tmp_path / "pairs.csv"
    path.write_text("question,answer,label\n" + "".join(rows))
    found = load_training("pairs", path, harmful=6, benign=20)
    assert [sum(e.safe is kind for e in found) for kind in (False, True)] == [6, 20]
    # Whatever rows were drawn, a question that also has an unsafe answer is known as one.
    assert all(e.harmful_prompt == e.prompt.startswith("q") for e in found if e.safe)


def test_vlsafe_s_examination_file_is_only_read_by_name(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "a.png")
    for name in ("harmlessness_alignment", "harmlessness_examine"):
        row = {"image_id": "a.png", "query": f"{name}?", "reference": "x"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    prompts = lambda root: [e.prompt for e in load_training("vlsafe", root, both_kinds=False)]  # noqa: E731
    assert prompts(tmp_path) == ["harmlessness_alignment?"]
    assert prompts(tmp_path / "harmlessness_examine.jsonl") == ["harmlessness_examine?"]


def test_a_named_set_gives_the_authors_mix_by_default_and_a_file_all_its_rows(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("question,answer,label\n" + "".join(f"q{i},a,{i % 3 == 0:d}\n" for i in range(900)))
    kinds = lambda found: [sum(e.safe is kind for e in found) for kind in (False, True)]  # noqa: E731
    assert kinds(load_training("pairs", path)) == [256, 256]
    assert kinds(load_training("pairs", path, harmful=3)) == [3, 256]
    assert kinds(load_training("pairs", path, both_kinds=False)) == [300, 600]
    rows = [{"prompt": f"p{i}", "safe": i > 300, "chosen": "a"} for i in range(700)]
    lines(tmp_path / "rows.jsonl", rows)
    assert kinds(load_training(str(tmp_path / "rows.jsonl"))) == [301, 399]
