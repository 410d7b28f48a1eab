"""JailBreakV, MOSSBench, SIUO, MME and the visual adversarial examples, laid out as upstream lays them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark_files import picture, write_csv, write_json
from safety_reminder.data import load_dataset
from safety_reminder.errors import ConfigError, DataError


def attack(number: int, kind: str, policy: str, image: str) -> dict[str, object]:
    return {
        "id": number,
        "jailbreak_query": f"Long filler {number}, with\nlines.",
        "redteam_query": f"Filler {number}.",
        "format": kind,
        "policy": policy,
        "image_path": image,
        "from": "Handcraft",
        "selected_mini": number == 0,
        "transfer_from_llm": kind == "Template",
    }


ATTACKS = [
    attack(0, "Template", "Fraud", "llm_transfer_attack/blank_0.png"),
    attack(1, "Template", "Malware", "llm_transfer_attack/blank_0.png"),
    attack(2, "figstep", "Fraud", "figstep/figstep_2.png"),
]


def jailbreakv(root: Path) -> Path:
    write_csv(root / "JailBreakV_28K.csv", ATTACKS)
    write_csv(root / "mini_JailBreakV_28K.csv", ATTACKS[:1])
    for row in ATTACKS:
        picture(root / str(row["image_path"]))
    return root


def test_jailbreakv_pairs_its_queries_with_their_images(tmp_path):
    root = jailbreakv(tmp_path / "JailBreakV_28K")
    examples = load_dataset("jailbreakv", tmp_path)
    assert [e.id for e in examples] == [f"JailBreakV_28K/{i}" for i in range(3)]
    assert (examples[1].prompt, examples[1].instruction) == ("Long filler 1, with\nlines.", "Filler 1.")
    assert (examples[1].category, examples[1].harmful) == ("Malware", True)
    assert [e.image for e in examples] == [root / str(row["image_path"]) for row in ATTACKS]
    assert load_dataset("jailbreakv", root, formats="FIGSTEP") == [examples[2]]
    assert load_dataset("jailbreakv", root, policies=["Fraud"]) == [examples[0], examples[2]]
    (mini,) = load_dataset("jailbreakv", root, subset="mini_JailBreakV_28K")
    assert (mini.id, mini.prompt) == ("mini_JailBreakV_28K/0", examples[0].prompt)
    (root / "JailBreakV_28K.csv").unlink()
    assert load_dataset("jailbreakv", tmp_path) == [mini]


def test_jailbreakv_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"expected .*/JailBreakV_28K\.csv, or .*, or .*mini_JailBreakV_28K\.csv"):
        load_dataset("jailbreakv", tmp_path)
    (jailbreakv(tmp_path) / "figstep" / "figstep_2.png").unlink()
    with pytest.raises(DataError, match=r"JailBreakV_28K\.csv, row 3: no image at .*figstep/figstep_2\.png"):
        load_dataset("jailbreakv", tmp_path)
    assert len(load_dataset("jailbreakv", tmp_path, formats=["Template"])) == 2
    with pytest.raises(ConfigError, match="unknown JailBreakV format 'Templates'; did you mean 'Template'"):
        load_dataset("jailbreakv", tmp_path, formats="Templates")
    with pytest.raises(ConfigError, match="unknown JailBreakV policy 'Frauds'; did you mean 'Fraud'"):
        load_dataset("jailbreakv", tmp_path, policies="Frauds")
    with pytest.raises(ConfigError, match="unknown JailBreakV subset 'mini'"):
        load_dataset("jailbreakv", tmp_path, subset="mini")
    write_csv(tmp_path / "JailBreakV_28K.csv", [{"id": 1}])
    with pytest.raises(DataError, match="the columns id, jailbreak_query, redteam_query, format, policy, image_path"):
        load_dataset("jailbreakv", tmp_path)


def request(number: int, over: str) -> dict[str, object]:
    return {
        "image": f"images/{number}.png",
        "short description": "A room.",
        "question": f"Filler {number}?",
        "metadata": {"over": over, "human": 0, "child": 0, "syn": 1, "ocr": 0, "harm": [7]},
        "pid": str(number),
        "description": "A room.",
    }


def mossbench(root: Path) -> Path:
    rows = {str(i): request(i, over) for i, over in ((1, "type 1"), (2, "type 2"), (30, "type 3"))}
    write_json(root / "data" / "images_information" / "information.json", rows)
    for row in rows.values():
        picture(root / "data" / str(row["image"]))
    return root


def test_mossbenchs_requests_are_harmless(tmp_path):
    examples = load_dataset("mossbench", mossbench(tmp_path))
    assert [(e.id, e.category, e.harmful) for e in examples] == [
        ("mossbench/1", "Exaggerated Risk", False),
        ("mossbench/2", "Negated Harm", False),
        ("mossbench/30", "Counterintuitive Interpretation", False),
    ]
    assert examples[2].prompt == "Filler 30?"
    assert examples[2].image == tmp_path / "data" / "images" / "30.png"
    assert load_dataset("mossbench", tmp_path / "data", kinds="negated harm") == [examples[1]]


def test_mossbench_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"expected .*/images_information/information\.json, or .*/data/images_info"):
        load_dataset("mossbench", tmp_path)
    (mossbench(tmp_path) / "data" / "images" / "2.png").unlink()
    with pytest.raises(DataError, match=r"request 2: no image at .*data/images/2\.png"):
        load_dataset("mossbench", tmp_path)
    with pytest.raises(ConfigError, match="unknown kind of MOSSBench stimulus 'Negated'"):
        load_dataset("mossbench", tmp_path, kinds="Negated")
    path = tmp_path / "data" / "images_information" / "information.json"
    for wrong in (request(1, "type 4"), request(1, "type 1") | {"metadata": "x"}):
        write_json(path, {"1": wrong})
        with pytest.raises(DataError, match=r"request 1: metadata\.over must be one of type 1, type 2, type 3, got"):
            load_dataset("mossbench", tmp_path)


QUESTIONS = [
    {
        "question_id": number,
        "image": image,
        "question": f"Filler {number}?",
        "category": category,
        "safety_warning": "A warning.",
        "reference_answer": "An answer.",
    }
    for number, image, category in ((1008, "S-08.png", "self-harm"), (9009, "P-09.jpg", "privacy violation"))
]


def siuo(root: Path) -> Path:
    path = write_json(root / "siuo_gen.json", QUESTIONS)
    for row in QUESTIONS:
        picture(root / "images" / str(row["image"]))
    return path


def test_siuos_questions_go_with_their_images(tmp_path):
    path = siuo(tmp_path / "data")
    for root in (path, tmp_path / "data", tmp_path):
        first, second = load_dataset("siuo", root)
        assert (first.id, first.prompt, first.category, first.harmful) == (
            "siuo/1008",
            "Filler 1008?",
            "self-harm",
            True,
        )
        assert (second.image, second.target) == (tmp_path / "data" / "images" / "P-09.jpg", "")
    assert load_dataset("siuo", tmp_path, categories="Privacy violation") == [second]


def test_siuo_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"expected .*/siuo_gen\.json, or .*/data/siuo_gen\.json"):
        load_dataset("siuo", tmp_path)
    siuo(tmp_path)
    (tmp_path / "images" / "S-08.png").write_text("no")
    with pytest.raises(DataError, match=r"row 1: .*images/S-08\.png is not an image that can be read"):
        load_dataset("siuo", tmp_path)
    with pytest.raises(ConfigError, match="unknown SIUO category 'selfharm'; did you mean 'self-harm'"):
        load_dataset("siuo", tmp_path, categories="selfharm")
    write_json(tmp_path / "siuo_gen.json", [{"question": "x"}])
    with pytest.raises(DataError, match="the columns question_id, image, question, category"):
        load_dataset("siuo", tmp_path)


def mme(root: Path) -> Path:
    side_by_side, apart = root / "existence", root / "artwork"
    picture(side_by_side / "0001.jpg")
    text = "Is it a cat? Please answer yes or no.\tYes\nIs it a dog? Please answer yes or no.\tNo\n\n"
    (side_by_side / "0001.txt").write_text(text)
    picture(apart / "images" / "10.png")
    (apart / "questions_answers_YN").mkdir(parents=True)
    (apart / "questions_answers_YN" / "10.txt").write_text("Is it a painting? Please answer yes or no.\tNo")
    return root


def test_mmes_two_layouts_are_read(tmp_path):
    root = mme(tmp_path / "MME_Benchmark")
    examples = load_dataset("mme", tmp_path)
    assert [(e.id, e.target, e.category) for e in examples] == [
        ("mme/existence/0001/1", "Yes", "existence"),
        ("mme/existence/0001/2", "No", "existence"),
        ("mme/artwork/10/1", "No", "artwork"),
    ]
    assert examples[1].prompt == "Is it a dog? Please answer yes or no."
    assert [e.image for e in examples[1:]] == [root / "existence" / "0001.jpg", root / "artwork" / "images" / "10.png"]
    assert not any(e.harmful for e in examples)
    assert load_dataset("mme", root, tasks="ARTWORK") == examples[2:]
    (tmp_path / "MME_Benchmark_release_version").mkdir()
    moved = root.rename(tmp_path / "MME_Benchmark_release_version" / "MME_Benchmark")
    assert load_dataset("mme", tmp_path) == load_dataset("mme", moved)


def test_mme_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"has no task; expected .*/existence and others"):
        load_dataset("mme", tmp_path)
    mme(tmp_path)
    with pytest.raises(DataError, match=r"dataset=mme: expected .*/OCR/\*\.txt"):
        load_dataset("mme", tmp_path, tasks=["existence", "OCR"])
    with pytest.raises(ConfigError, match="unknown MME task 'exist'; did you mean 'existence'"):
        load_dataset("mme", tmp_path, tasks="exist")
    text = tmp_path / "existence" / "0001.txt"
    for line in ("Is it?", "Is it?\tPerhaps", "\tYes"):
        text.write_text(line + "\n")
        with pytest.raises(DataError, match=r"0001\.txt, line 1: expected a question, a tab, and Yes or No"):
            load_dataset("mme", tmp_path)
    text.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"0001\.txt is not UTF-8 text"):
        load_dataset("mme", tmp_path)
    (tmp_path / "existence" / "0001.jpg").unlink()
    text.write_text("Is it?\tYes\n")
    with pytest.raises(DataError, match=r"no image at .*existence/0001 \(\.jpg, "):
        load_dataset("mme", tmp_path)


def visual_adv(root: Path) -> Path:
    picture(root / "adversarial_images" / "clean.jpeg")
    picture(root / "adversarial_images" / "prompt_constrained_16.bmp")
    (root / "harmful_corpus").mkdir()
    (root / "harmful_corpus" / "manual_harmful_instructions.csv").write_text('Filler one.\n"Filler two, more."\n\n')
    return root


def test_every_instruction_goes_with_the_adversarial_image(tmp_path):
    first, second = load_dataset("visual_adv", visual_adv(tmp_path))
    assert first.id == "prompt_constrained_16/manual_harmful_instructions-0000"
    assert (first.prompt, second.prompt, second.harmful) == ("Filler one.", "Filler two, more.", True)
    assert first.image == second.image == tmp_path / "adversarial_images" / "prompt_constrained_16.bmp"
    assert load_dataset("visual_adv", tmp_path / "adversarial_images") == [first, second]
    clean = load_dataset("visual_adv", tmp_path, image="clean.jpeg")
    assert {e.image for e in clean} == {tmp_path / "adversarial_images" / "clean.jpeg"}


def test_other_instructions_may_be_given(tmp_path):
    goals = write_csv(tmp_path / "goals.csv", [{"goal": "Filler three.", "target": "x"}])
    (example,) = load_dataset("visual_adv", visual_adv(tmp_path / "a"), instructions=goals)
    assert (example.id, example.prompt) == ("prompt_constrained_16/goals-0000", "Filler three.")
    (example,) = load_dataset("visual_adv", tmp_path / "a", instructions=goals, column="target")
    assert example.prompt == "x"
    corpus = tmp_path / "a" / "harmful_corpus" / "manual_harmful_instructions.csv"
    moved = corpus.rename(tmp_path / corpus.name)
    assert len(load_dataset("visual_adv", tmp_path / "a", instructions=moved)) == 2


def test_visual_adv_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"expected images in .*/adversarial_images"):
        load_dataset("visual_adv", tmp_path)
    visual_adv(tmp_path)
    with pytest.raises(ConfigError, match="unknown adversarial image 'prompt_constrained_32'; did you mean"):
        load_dataset("visual_adv", tmp_path, image="prompt_constrained_32")
    with pytest.raises(DataError, match=r"no file at .*gone\.csv"):
        load_dataset("visual_adv", tmp_path, instructions=tmp_path / "gone.csv")
    corpus = tmp_path / "harmful_corpus" / "manual_harmful_instructions.csv"
    corpus.write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match=r"manual_harmful_instructions\.csv is not UTF-8 text"):
        load_dataset("visual_adv", tmp_path)
    corpus.unlink()
    with pytest.raises(DataError, match=r"expected .*harmful_corpus/manual_harmful_instructions\.csv, or "):
        load_dataset("visual_adv", tmp_path)
    (tmp_path / "adversarial_images" / "clean.jpeg").write_bytes(b"no")
    with pytest.raises(DataError, match=r"dataset\.image=clean: .*clean\.jpeg is not an image that can be read"):
        load_dataset("visual_adv", tmp_path, image="clean")
