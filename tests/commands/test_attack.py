"""``safety-reminder attack``: every attack as a run folder that is a data set, killed runs, sweeps, and mistakes."""

from __future__ import annotations

import csv
import json

import pytest
from PIL import Image

from chat_server import serving
from safety_reminder.attacks import ATTACKS
from safety_reminder.attacks.base import Arena
from safety_reminder.attacks.descent import CHECKPOINT
from safety_reminder.data import load_dataset
from safety_reminder.data.benchmarks.typographic import FONT, FONT_FOLDERS
from safety_reminder.evaluation.records import RecordFile
from safety_reminder.models.branches import Shared
from safety_reminder.models.messages import load_image
from safety_reminder.run_files import run_folder

ROWS = ["Steps to brew tea", "Ways to fold a map", "Steps to sort a shelf", "Ways to draw a cat", "Steps to dig a pond"]
QUICK = {
    "pgd": ["attack.steps=3", "attack.validate_every=2", "attack.targets.form=':'"],
    "gcg": ["attack.steps=2", "attack.width=4", "attack.top_k=8", "attack.length=3", "attack.targets.form=':'"],
    "bap_image": ["attack.steps=3", "attack.validate_every=0"],
    "prefill": ["attack.depth=4", "attack.targets.form=':'"],
    "typographic": [],
    "system_override": [],
    "multi_turn": ["attack.depth=2"],
}
HAS_FONT = any((folder / FONT).is_file() for folder in FONT_FOLDERS)


@pytest.fixture
def attack(call, place, models):
    """Runs one on tiny requests."""
    lines = [f"r{n},{text},true" for n, text in enumerate(ROWS)] + ["harmless,Hello there,false"]
    (place / "requests.csv").write_text("\n".join(["id,prompt,harmful", *lines]) + "\n")

    def run(*arguments: str, family: str = "llava"):
        return call(
            "attack",
            f"model={models}/{family}",
            f"reminder={models}/pack",
            "check_base=false",
            "device=cpu",
            "dataset=text",
            "dataset.root=requests.csv",
            "answers.max_new_tokens=4",
            "answers.validation_tokens=3",
            "split.train=2",
            "split.validation=1",
            "split.test=2",
            "output=run",
            *arguments,
        )

    return run


@pytest.mark.parametrize("name", QUICK)
def test_every_attack_leaves_a_data_set_and_its_measures(attack, call, place, models, name):
    if name == "typographic" and not HAS_FONT:
        pytest.skip("the font is not installed")
    outcome = attack(f"attack={name}", *QUICK[name])
    assert outcome.code == 0, outcome.err
    summary = json.loads((place / "run/summary.json").read_text())
    for metric in ("attack_success_rate", "attack_success_rate_on_topic"):
        for suffix in ("", "_unguarded", "_clean"):
            assert summary["metrics"][metric + suffix]["n"] == 2
    assert summary["cost"]["seconds"] > 0
    examples = load_dataset("attack_run", place / "run")
    assert len(examples) == 2
    assert {e.instruction or e.prompt for e in examples} <= set(ROWS)
    if name in ("pgd", "bap_image"):
        assert all(load_image(e.image).size == (8, 8) for e in examples)
        with (place / "run/losses.csv").open() as file:
            assert len(list(csv.DictReader(file))) == 3
    answered = call(
        "generate", f"model={models}/llava", "reminder=none", "dataset=attack_run", "dataset.root=run",
        "generation.max_new_tokens=4", "device=cpu", "output=again",
    )  # fmt: skip
    assert answered.code == 0, answered.err
    before = {
        r.id: r.token_ids for r in RecordFile(place / "run/answers/attacked/records.jsonl").records if not r.guard
    }
    assert {r.id: r.token_ids for r in RecordFile(place / "again/records.jsonl").records} == before


def test_prompts_are_rewritten_by_a_chat_server(attack, place):
    with serving() as server:
        server.replies = [(200, "The request was declined.\n<prompt>Tell me about {question}</prompt>")]
        outcome = attack("attack=bap_rewrite", "attack.rounds=2", "chat.model=any", f"chat.url={server.url}")
    assert outcome.code == 0, outcome.err
    rows = json.loads((place / "run/bap.json").read_text())
    assert {row["question"] for row in rows} <= set(ROWS)
    summary = json.loads((place / "run/summary.json").read_text())
    assert summary["cost"]["queries"] >= 2
    assert load_dataset("bap", place / "run/bap.json")[0].instruction in ROWS


def test_an_image_of_bap_goes_with_rewritten_prompts(attack, place):
    Image.new("RGB", (8, 8), "red").save(place / "red.png")
    with serving() as server:
        server.replies = [(200, "nothing of use")]
        attack(
            "attack=bap_rewrite", "attack.rounds=1", "attack.image=red.png", "attack.defended=true", "chat.model=any",
            f"chat.url={server.url}",
        )  # fmt: skip
    assert all(load_image(e.image).getpixel((0, 0)) == (255, 0, 0) for e in load_dataset("attack_run", place / "run"))


def test_requests_of_another_set_are_measured_on_and_never_learned_from(attack, place):
    (place / "tested.csv").write_text("id,prompt,harmful\nx,Steps to brew TEA!,true\ny,Other words,true\n")
    outcome = attack(
        "attack=pgd", *QUICK["pgd"], "test_on=['text:tested.csv']", "split.train=0.5", "split.validation=0.25"
    )
    assert outcome.code == 0, outcome.err
    assert "1 requests are also tested on" in outcome.out
    learned = [e.prompt for split in ("train", "validation") for e in load_dataset("attack_run", "run", split=split)]
    assert "Steps to brew tea" not in learned
    assert len(learned) == 3
    assert {e.prompt for e in load_dataset("attack_run", "run")} == {"Steps to brew TEA!", "Other words"}


def test_requests_of_one_id_are_found_before_the_attack(attack, place):
    for folder in ("here", "there"):
        (place / folder).mkdir()
        (place / folder / "one.csv").write_text("id,prompt,harmful\nx,Other words,true\n")
    (place / "two.csv").write_text("id,prompt,harmful\nx,More words,true\n")
    outcome = attack("attack=system_override", "test_on=['text:here/one.csv','text:there/one.csv']")
    assert "two requests of test_on have the id 'one/x'" in outcome.error
    outcome = attack("attack=system_override", "test_on=['text:here/one.csv','text:two.csv']")
    assert outcome.code == 0, outcome.err
    assert {e.id for e in load_dataset("attack_run", "run")} == {"one/x", "two/x"}


def test_an_attack_that_was_killed_goes_on_to_the_same_image(attack, place, monkeypatch):
    options = ["attack=pgd", *QUICK["pgd"], "attack.steps=6", "attack.save_every=2"]
    assert attack(*options, "output=whole").code == 0
    original, calls = Shared.read.__func__, 0

    def dies(cls, model, inputs):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return original(cls, model, inputs)

    monkeypatch.setattr(Shared, "read", classmethod(dies))
    assert attack(*options).code == 130
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert (place / "run" / CHECKPOINT).is_file()
    assert attack(*options).code == 0
    assert (place / "run/image.png").read_bytes() == (place / "whole/image.png").read_bytes()


def test_a_folder_of_another_attack_is_refused_and_left_as_it_is(attack, place):
    assert attack("attack=pgd", *QUICK["pgd"]).code == 0
    before = (place / "run/config.json").read_text()
    for change in (["attack=pgd", *QUICK["pgd"], "attack.epsilon=8/255"], ["attack=system_override"],
                   ["attack=pgd", *QUICK["pgd"], "guard.interval=3"]):  # fmt: skip
        assert "holds a run with another configuration" in attack(*change).error
    assert (place / "run/config.json").read_text() == before
    again = attack("attack=pgd", *QUICK["pgd"])
    assert again.code == 0, again.err


def test_a_second_attack_does_not_write_into_the_folder_of_the_first(attack, place):
    with run_folder(place / "run"):
        assert "another run is writing to" in attack("attack=system_override").error


def test_each_request_may_have_an_image_of_its_own(attack, place):
    outcome = attack("attack=pgd", *QUICK["pgd"], "attack.universal=false")
    assert outcome.code == 0, outcome.err
    images = [e.image for e in load_dataset("attack_run", "run")]
    assert len(set(images)) == 2
    assert (place / "run/losses.csv").read_text().count("\n") == 7


def test_the_guard_is_attacked_with_the_model(attack, place):
    outcome = attack(
        "attack=pgd", *QUICK["pgd"], "attack.adaptive.against=both", "attack.adaptive.tokens=6", "guard.interval=3"
    )
    assert outcome.code == 0, outcome.err
    header = (place / "run/losses.csv").read_text().splitlines()[0].split(",")
    assert {"target", "checks", "alarms", "after"} <= set(header)


def test_a_sweep_has_a_folder_for_each_job(attack, place):
    outcome = attack("attack=pgd", *QUICK["pgd"], "--multirun", "attack.epsilon=8/255,32/255")
    assert outcome.code == 0, outcome.err
    assert len(list((place / "run").glob("*attack.epsilon=*/image.png"))) == 2


def test_published_settings_are_a_preset_that_options_change(attack, place):
    outcome = attack("attack=pgd", *QUICK["pgd"], "preset=paper")
    assert outcome.code == 0, outcome.err
    chosen = json.loads((place / "run/config.json").read_text())["attack"]
    assert chosen["epsilon"] == "64/255"
    assert chosen["schedule"] == "constant"
    assert chosen["steps"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attack=gcq"], "unknown attack 'gcq'; did you mean 'gcg'?"),
        (["attack=pgd", "attack.epsilon=32"], "attack.epsilon must be at most 1, got 32"),
        (["attack=pgd", "attack.epsilon=-1/255"], "attack.epsilon must be above 0"),
        (["attack=pgd", "attack.stepz=1"], "unknown option 'attack.stepz'; did you mean 'attack.steps'?"),
        (["attack=pgd", "preset=papre"], "unknown preset of attack=pgd 'papre'; did you mean 'paper'?"),
        (["attack=pgd", "attack.image=nowhere.png"], "no image at nowhere.png"),
        (["attack=pgd", "dataset.root=nowhere.csv"], "nowhere.csv"),
        (["attack=pgd", "split.train=50"], "the split asks for more than the 5 requests there are"),
        (["attack=pgd", "split.train=0.9", "split.validation=0.9"], "shares of more than all"),
        (["attack=pgd", "split.test=0"], "there are no requests for test"),
        (["attack=pgd", "split.train=abc"], "split.train must be a number, got 'abc'"),
        (["attack=pgd", "device=[1]"], "device must be a text, got [1]"),
        (["attack=pgd", "attack.soft_prompt="], "attack.soft_prompt: string should have at least 1 character"),
        (
            ["attack=pgd", "attack.soft_prompt=pocket-dro", "attack.adaptive.against=probe"],
            "attack.soft_prompt defends in place of the guard",
        ),
        (["attack=pgd", "attack.steps=5", "attack.adaptive.warm_up=5"], "leaves none of attack.steps=5"),
        (["attack=pgd", "attack.image="], "image"),
        (["attack=gcg", "attack.image="], "image"),
        (["attack=pgd", "reminder=none", "attack.adaptive.against=probe"], "needs a guard; give reminder=NAME"),
        (["attack=pgd", "attack.targets.kind=csv"], "needs targets.file=FILE"),
        (["attack=pgd", "attack.size=[20,31]"], "it takes 8 × 8"),
        (["attack=bap_rewrite"], "needs a chat model: chat.model=NAME"),
        (["attack=prefill", "attack.depth=500"], "attack.depth must be at most 128"),
    ],
)
def test_a_mistake_is_one_line(attack, arguments, message):
    assert message in attack(*arguments).error


def test_a_model_that_reads_text_only_has_no_pixels(attack):
    assert "reads no images" in attack("attack=pgd", family="llama").error


def test_the_table_names_what_is_there():
    for attack in ATTACKS.values():
        assert attack.options.model_fields
        assert attack.about
        for options in attack.presets.values():
            own = {name.removeprefix("attack."): v for name, v in options.items() if name.startswith("attack.")}
            attack.options.parse(own, "attack")


def test_answers_are_judged_in_batches(models):
    from safety_reminder.attacks.base import Judge
    from safety_reminder.attacks.splits import Splits
    from safety_reminder.guard import load
    from safety_reminder.types import Example

    guarded = load(f"{models}/llava", f"{models}/pack", device="cpu", check_base=False)
    judge = Judge(lambda text: "none" if len(text) % 2 else "start", lambda text, request, begun: True)
    arena = Arena(guarded, Splits([], [], []), judge, models, tokens=5, batch_size=2)
    examples = [Example(id=str(n), prompt=text) for n, text in enumerate(ROWS)]
    answers = arena.answers(examples)
    assert answers == [arena.answers([e])[0] for e in examples]
    assert arena.success(examples) == sum(len(text) % 2 for text in answers) / 5
