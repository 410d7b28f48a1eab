"""What a model is asked for rows of its own answers, and the rows that they make."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from safety_reminder.data import BENIGN_TWINS, DEMO_REQUESTS, TEXT_REQUESTS, load_dataset
from safety_reminder.data.own_answers import rows
from safety_reminder.data.own_answers.asking import Asked, plan_questions
from safety_reminder.data.own_answers.requests import SHIPPED, RowRequest, load_requests
from safety_reminder.data.own_answers.rows import Answered
from safety_reminder.data.own_answers.wrappers import WRAPPERS, chosen_wrappers, wrap
from safety_reminder.data.training_sets.loading import read_training_file, user
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.training.contamination import refuse_contamination
from safety_reminder.types import Example, TrainingExample

TEXT = tuple(name for name in WRAPPERS if name != "page")
REFUSAL = "I'm sorry, but I can't help with that."
REQUESTS = [RowRequest(f"{kind} {i}?", kind == "harmful", contrast=kind == "contrast") for i in range(30)
            for kind in ("harmful", "contrast", "harmless")]  # fmt: skip


def plan(**changes) -> list[Asked]:
    options = {"hold_out": ["persona"], "test_share": 0.2, "calibration_share": 0.1, "per_request": 2} | changes
    return plan_questions(REQUESTS, options.pop("wrappers", TEXT), **options)


def test_the_requests_that_ship_are_of_three_kinds_and_none_is_evaluated_on():
    requests = load_requests(SHIPPED)
    assert Counter(request.kind for request in requests) == {"harmful": 120, "contrast": 120, "harmless": 120}
    harmful, contrast = ({r.topic for r in requests if r.kind == kind} for kind in ("harmful", "contrast"))
    assert harmful == contrast
    shipped = [load_dataset("text", path) for path in (DEMO_REQUESTS, BENIGN_TWINS, TEXT_REQUESTS)]
    examples = [TrainingExample(user(request.text), True, "a") for request in requests]
    refuse_contamination(examples, {"shipped": [example for examples in shipped for example in examples]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("request,topic\nHello?,x\n", "row 1: harmful is missing"),
        ("request,harmful\nHello?,true\nBye?,\n", "row 2: harmful is missing"),
        ("request,harmful,topik\nHello?,true,x\n", "unknown column 'topik'; did you mean 'topic'"),
        ("words,harmful\nHello?,true\n", "has no column request or prompt"),
        ("request,harmful\nHello?,true\nhello,false\n", r"one request twice \(rows 1 and 2\)"),
        ("request,harmful,contrast\nHello?,true,true\n", "row 1: contrast is a harmless request"),
        ("request,harmful\nHello?,true\n", "has no harmless requests"),
        ("request,harmful\nHello?,false\n", "has no harmful requests"),
        ("request,harmful\n,true\nBye?,false\n", "row 1: request is missing or empty"),
    ],
)
def test_requests_that_do_not_fit_are_named_and_never_shown(tmp_path, text, message):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(DataError, match=message) as raised:
        load_requests(str(tmp_path / "mine.csv"))
    assert "Hello?" not in str(raised.value)


def test_a_limit_is_of_each_kind_and_the_same_on_every_call():
    first = load_requests(SHIPPED, limit=5, seed=3)
    assert Counter(request.kind for request in first) == {"harmful": 5, "contrast": 5, "harmless": 5}
    assert load_requests(SHIPPED, limit=5, seed=3) == first != load_requests(SHIPPED, limit=5, seed=4)


@pytest.mark.parametrize("name", TEXT)
def test_a_wrapper_holds_the_request_and_takes_its_braces_as_they_are(name):
    request = "What is {request} in {}?"
    found = [wrap(f"{request} {i}", name) for i in range(40)]
    assert all(f"{request} {i}" in one.prompt for i, one in enumerate(found))
    assert found == [wrap(f"{request} {i}", name) for i in range(40)]
    wrapper = WRAPPERS[name]
    assert len({(one.prompt.replace(f"{request} {i}", ""), one.begun) for i, one in enumerate(found)}) == max(
        len(wrapper.texts), len(wrapper.begins)
    )  # every wording is used


def test_wrappers_are_chosen_by_name_and_pages_need_eyes():
    assert chosen_wrappers([], reads_images=False) == TEXT
    assert "page" in chosen_wrappers([], reads_images=True)
    with pytest.raises(ConfigError, match="unknown wrappers 'storey'; did you mean 'story'"):
        chosen_wrappers(["storey"], reads_images=True)
    with pytest.raises(ConfigError, match="page, an image, and the model reads text only"):
        chosen_wrappers(["bare", "page"], reads_images=False)
    with pytest.raises(ConfigError, match="wrappers names bare twice"):
        chosen_wrappers(["bare", "bare"], reads_images=False)


def test_held_out_requests_and_wrappers_are_in_no_training_question():
    asked = plan(hold_out=["persona", "story"])
    trained, tested, apart = ([one for one in asked if one.part == p] for p in ("train", "test", "calibration"))
    requests = [{one.request for one in part} for part in (trained, tested, apart)]
    assert sum(map(len, requests)) == len(set.union(*requests)) == len(REQUESTS)
    assert {request.kind for request in requests[2]} == {"contrast", "harmless"}
    assert {one.wrapper for one in tested} == {"bare", "persona", "story"}
    assert not {one.wrapper for one in (*trained, *apart)} & {"persona", "story"}
    assert len({one.id for one in asked}) == len(asked)


def test_a_wrapper_tells_nothing_since_each_kind_of_request_is_in_it_equally_often():
    asked = plan(test_share=0.0, calibration_share=0.0)
    counts = Counter((one.wrapper, one.request.kind) for one in asked if one.part == "train")
    for wrapper in {one.wrapper for one in asked}:
        assert len({counts[wrapper, kind] for kind in ("harmful", "contrast", "harmless")}) == 1
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(counts) == 3 * (len(TEXT) - 1)


def test_plans_that_leave_nothing_are_refused():
    with pytest.raises(ConfigError, match="hold_out names page, which is not among"):
        plan(hold_out=["page"])
    with pytest.raises(ConfigError, match="per_request=2 of 1 wrappers"):
        plan(wrappers=("bare", "persona"))
    with pytest.raises(ConfigError, match="leave none of 30 harmful requests to train on"):
        plan(test_share=0.99)
    with pytest.raises(ConfigError, match="leave none of 30 contrast requests to train on"):
        plan(calibration_share=0.8)


def answered(kind: str, number: int, answer: str, **changes) -> Answered:
    options = {"wrapper": "story", "part": "train", "prefill": "", "refusal": "none", "begins": None} | changes
    request = RowRequest(f"{kind} {number}?", kind == "harmful", "topic", kind == "contrast")
    asked = Asked(f"{kind}-{number}-{options['wrapper']}", request, options["wrapper"], options["part"])
    example = Example(asked.id, f"Tell: {request.text}", harmful=request.harmful, prefill=options["prefill"])
    harmful = changes.get("harmful", request.harmful)
    return Answered(asked, example, answer, options["refusal"], options["begins"], harmful)


def refused(number: int, **changes) -> Answered:
    return answered("harmful", number, REFUSAL, refusal="start", begins=0, **changes)


@pytest.mark.parametrize(
    ("one", "outcome"),
    [
        (answered("harmful", 0, "Filler."), "unsafe"),
        (answered("harmful", 0, "Filler.", harmful=False), "not harmful"),
        (answered("harmful", 0, "Filler.", harmful=None), "in doubt"),
        (answered("harmful", 0, "  \n", prefill="Sure!"), "empty"),
        (refused(0), "refused"),
        (answered("contrast", 0, "Filler."), "safe"),
        (answered("contrast", 0, "Filler.", harmful=True), "in doubt"),
        (answered("contrast", 0, "Filler.", harmful=None), "in doubt"),
        (answered("harmless", 0, REFUSAL, refusal="start", begins=0), "refused although harmless"),
        (answered("harmless", 0, f"Filler. {REFUSAL}", refusal="late", begins=8), "refused although harmless"),
    ],
)
def test_what_an_answer_comes_to(one, outcome):
    assert one.outcome == outcome


def test_rows_are_balanced_under_each_wrapper_and_half_of_the_safe_ones_are_near_harm(tmp_path):
    given = []
    for wrapper, harmful, near, far in (("story", 10, 20, 20), ("bare", 30, 3, 6), ("prefill", 5, 0, 0)):
        for kind, count in (("harmful", harmful), ("contrast", near), ("harmless", far)):
            given += [answered(kind, i, "Filler.", wrapper=wrapper) for i in range(count)]
    given += [answered("harmful", 99, "Filler.", part="test")]
    made = rows.training_rows(given, tmp_path, refusal=REFUSAL)
    counts = Counter((row["attack"], row["safe"]) for row in made)
    assert counts == {("story", False): 10, ("story", True): 10, ("bare", False): 9, ("bare", True): 9}
    near = [row for row in made if row["attack"] == "story" and row["prompt"].startswith("Tell: contrast")]
    assert len(near) == 5
    assert not any("99" in row["prompt"] for row in made)


def test_a_refusal_teaches_the_bare_prompt_and_that_the_text_after_it_is_safe(tmp_path):
    given = [answered("harmless", i, "Filler.") for i in range(12)] + [refused(i) for i in range(10)]
    made = rows.training_rows(given, tmp_path, refusal=REFUSAL)
    unsafe, safe = ([row for row in made if row["safe"] is value] for value in (False, True))
    assert len(unsafe) == len(safe) == 10
    assert all("rejected" not in row and row["chosen"] == REFUSAL for row in unsafe)
    assert [row["chosen"] for row in safe if row.get("harmful_prompt")] == [REFUSAL] * 2


def test_only_what_was_said_before_a_late_refusal_is_to_be_broken_off(tmp_path):
    late = answered("harmful", 0, f"ler. {REFUSAL}", prefill="Fil", refusal="late", begins=8)
    plain = answered("harmful", 1, "ler.", prefill="Fil")
    given = [late, plain, *(answered("harmless", i, "Filler.", prefill="Sure! ") for i in range(2))]
    made = rows.training_rows(given, tmp_path, refusal="No.")
    assert [row["rejected"].strip() for row in made if not row["safe"]] == ["Filler."] * 2
    assert [row["chosen"] for row in made] == ["No.", "No.", "Sure! Filler.", "Sure! Filler."]


def test_a_threshold_is_set_on_safe_answers_to_requests_of_its_own(tmp_path):
    given = [answered("contrast", i, "Filler.", part=part) for i, part in enumerate(("calibration", "train", "test"))]
    given += [answered("harmless", 9, REFUSAL, refusal="start", begins=0, part="calibration")]
    assert [row["prompt"] for row in rows.calibration_rows(given, tmp_path)] == ["Tell: contrast 0?"]


def test_no_rows_are_an_error_that_counts(tmp_path):
    with pytest.raises(DataError, match=r"of 4 answers none .* \(3 refused, 1 empty\)"):
        rows.training_rows([*(refused(i) for i in range(3)), answered("harmless", 0, "")], tmp_path, refusal="No.")


def test_rows_and_held_out_requests_are_read_as_they_were_written(tmp_path):
    given = [answered(kind, i, "Filler.", part="test" if i > 3 else "train", prefill="Sure!\n\n1. ") for i in range(6)
             for kind in ("harmful", "harmless")]  # fmt: skip
    (tmp_path / "images").mkdir()
    for name, lines in (
        ("train.jsonl", rows.training_rows(given, tmp_path, refusal=REFUSAL)),
        ("test.jsonl", rows.test_rows(given, tmp_path, refusal=REFUSAL)),
        (
            "test_requests.jsonl",
            rows.test_requests([one.example for one in given if one.asked.part == "test"], tmp_path),
        ),
    ):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    trained = read_training_file(tmp_path / "train.jsonl")
    assert Counter(example.safe for example in trained) == {True: 4, False: 4}
    assert {example.answer for example in trained} == {"Sure!\n\n1. Filler."}
    assert len(read_training_file(tmp_path / "test.jsonl")) == 4
    asked = load_dataset("text", tmp_path / "test_requests.jsonl")
    assert [(e.prompt, e.prefill, e.harmful) for e in asked] == [
        (one.example.prompt, "Sure!\n\n1. ", one.example.harmful) for one in given if one.asked.part == "test"
    ]


def test_a_page_is_drawn_beside_the_rows_once(tmp_path):
    one = Asked("train-page-harmful-0", RowRequest("Steps to bake bread.", False), "page", "test")
    example = one.example(tmp_path)
    drawn = Path(str(example.image))
    before = drawn.stat().st_mtime_ns
    assert drawn.relative_to(tmp_path) == Path("images/train-page-harmful-0.png")
    assert one.example(tmp_path) == example
    assert drawn.stat().st_mtime_ns == before
    [row] = rows.test_rows([Answered(one, example, "Filler.", "none", None, False)], tmp_path, refusal="No.")
    assert row["image"] == "images/train-page-harmful-0.png"
