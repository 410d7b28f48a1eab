"""Pocket's training material and what it is measured on have nothing in common; a pack is replaced by a better one."""

from __future__ import annotations

import csv
import importlib.util
import json
import random
import re
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from checkpoints import tiny_vlm
from safety_reminder.commands.make_rows import CALIBRATION, REQUESTS, TRAIN
from safety_reminder.data import BENIGN_TWINS, DEMO_REQUESTS, SENSITIVE_TWINS, TEXT_REQUESTS
from safety_reminder.data.training_sets.loading import read_training_file
from safety_reminder.evaluation.suite.suites import load_suite
from safety_reminder.guard import Probe, SafetyReminder
from safety_reminder.models.tiny import byte_tokenizer
from safety_reminder.training import TrainingConfig, train

ROOT = Path(__file__).parents[1]


def load(name: str):
    path = ROOT / "recipes" / "pocket" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def column(path: Path, name: str) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row[name] for row in csv.DictReader(file)]


HELD_BACK = [
    *column(DEMO_REQUESTS, "instruction"),
    *column(BENIGN_TWINS, "instruction"),
    *column(TEXT_REQUESTS, "prompt"),
    *column(SENSITIVE_TWINS, "instruction"),
    *column(SENSITIVE_TWINS, "prompt"),
]


def core(text: str) -> str:
    """What is asked for, without the opener: "Steps to bake bread." and "How to bake bread." are one request."""
    return re.sub(r"^(?:list of|\w+ to|\w+ \w+ to)\s+", "", text.lower().rstrip(".?! "))


def test_no_held_back_request_is_trained_on():
    topics = load("topics")
    trained = {core(action) for actions in topics.HARMFUL.values() for action in actions}
    trained |= {core(text) for text in (*topics.HARMFUL_LISTS, *topics.BENIGN, *topics.BENIGN_LISTS)}
    patterns = [*topics.BENIGN_PATTERNS, *(entry for topic in topics.HARMFUL_PATTERNS.values() for entry in topic)]
    trained |= {core(f"{verb} {thing}") for verbs, things in patterns for verb in verbs for thing in things}
    contrast = load("contrast")
    sides = (request for topic in contrast.TOPICS for side in (True, False) for request in all_of(topic, side))
    trained |= {core(request.core) for request in sides} | {core(text) for text in load("lookalikes").lookalikes()}
    assert len(trained) > 3000
    assert not [text for text in HELD_BACK if core(text) in trained]


def all_of(topic, harmful: bool) -> list:
    return list(load("contrast").requests(topic.name, harmful=harmful))


def test_every_topic_has_both_sides_and_neither_repeats_the_other():
    contrast = load("contrast")
    counts = {True: 0, False: 0}
    for topic in contrast.TOPICS:
        sides = {side: {request.core for request in all_of(topic, side)} for side in (True, False)}
        assert not sides[True] & sides[False]
        assert min(map(len, sides.values())) >= 20
        assert topic.harmful_lists
        assert topic.harmless_lists
        for side, found in sides.items():
            counts[side] += len(found)
    assert counts[True] >= 800
    assert counts[False] >= 1500
    assert len(contrast.HELD_OUT) >= 4


def test_what_is_held_out_is_never_drawn_for_training(monkeypatch):
    found, mixture = conversations(monkeypatch)
    contrast = importlib.import_module("contrast")
    out = {
        r.core for topic in contrast.HELD_OUT for side in (True, False) for r in contrast.requests(topic, harmful=side)
    }
    everything = {
        r.core for t in contrast.BY_NAME for side in (True, False) for r in contrast.requests(t, harmful=side)
    }
    back = {core for core in everything if found.is_held_back(core)} | out
    assert 0.1 < len(back - out) / len(everything) < 0.16
    rng = random.Random(0)
    drawn = {contrast.draw(rng, harmful=side, held_back=False).core for _ in range(600) for side in (True, False)}
    assert len(drawn) > 500
    assert not drawn & back
    pages = [c.page for _ in range(300) for c in mixture.page(rng) if c.page]
    near = {core for core in everything for page in pages if core in page}
    assert len(near) > 100
    assert not near & back


def test_rows_under_attack_are_alike_on_both_sides_and_none_has_an_attack_that_is_tested_on(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "pocket"))
    jailbreaks = importlib.import_module("jailbreaks")
    (tmp_path / "images").mkdir()

    def drawn(held_back: bool) -> tuple[set[str], set[bytes]]:
        """What stands around a request, and the images beside it."""
        around, images = set(), set()
        for kind in jailbreaks.KINDS:
            for seed in range(60):
                one, other = (
                    jailbreaks.attacked(random.Random(seed), kind, request, tmp_path, held_back=held_back)
                    for request in ("Bake bread.", "Harm a cat.")
                )
                assert one.image == other.image
                frames = [f"{each.prompt}|{each.begun}".replace(each.request.rstrip("."), "") for each in (one, other)]
                assert frames[0] == frames[1]
                around.add(frames[0])
                if kind == "pgd":
                    assert one.image is not None
                    images.add((tmp_path / one.image).read_bytes())
        return around, images

    (trained, learned), (tested, shipped) = drawn(False), drawn(True)
    assert len(learned) > 1
    assert len(shipped) > 1
    assert not learned & shipped
    plain = {".|", ".|:\n\n1."}  # the image alone, and the beginning that pocket itself would write
    assert len(trained) > 20
    assert trained & tested <= plain


def test_held_back_requests_are_all_different():
    assert len({core(text) for text in HELD_BACK}) == len(HELD_BACK)


@pytest.mark.parametrize("kind", ["HARMFUL_LISTS", "BENIGN", "BENIGN_LISTS"])
def test_training_requests_are_not_repeated(kind):
    texts = getattr(load("topics"), kind)
    assert len(set(texts)) == len(texts)


def test_held_back_requests_are_one_in_eight_and_never_drawn_for_training():
    topics = load("topics")
    rng = random.Random(0)
    pairs = [topics._action(rng, topic, harmful=True)[0] for topic in topics.HARM for _ in range(400)]
    held_back = {text for text in pairs if topics.is_held_back(text)}
    assert 0.08 < len(held_back) / len(set(pairs)) < 0.18
    for draw in (topics.typographic, topics.as_text):
        for wanted in (True, False):
            texts = [draw(rng, harmful=True, held_back=wanted) for _ in range(300)]
            named = {core for core in held_back for text in texts if f" {core}." in text or f" {core}?" in text}
            assert bool(named) is wanted


def conversations(monkeypatch):
    """The recipe's module, and a mixture over one harmless and one harmful request."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "pocket"))
    found = importlib.import_module("conversations")
    words = types.SimpleNamespace(words=lambda rng, count: "some words", phrase=lambda rng: "a phrase")
    helpful = [{"prompt": "What is tea?", "answer": "Tea is a drink.", "whole": True}]
    mixture = found.Mixture(words, helpful, ["How do I steal?"], back_off=0.9, listed=1.0, heed=1.0)
    return found, mixture


def test_a_note_turns_a_harmful_list_and_no_other(monkeypatch):
    found, mixture = conversations(monkeypatch)
    rng = random.Random(1)
    pages = [c for _ in range(200) for c in mixture.page(rng)]
    texts = [mixture.text(rng) for _ in range(400)]
    listed = {c.page: c.kind for c in pages if c.kind.startswith("list")}
    kinds = set()
    for one in [*pages, *texts]:
        assert (one.note is not None) is one.kind.startswith("heed")
        if one.note is None:
            continue
        kinds.add((one.kind, one.page is None))
        assert one.note.text in found.NOTES
        assert (one.note.instead in found.REFUSALS) is (one.kind == "heed harmful")
        if one.page is not None:
            assert listed[one.page] == one.kind.replace("heed", "list")
        elif one.kind == "heed harmful":
            assert one.answer.startswith(one.prompt.rstrip("."))  # a list, as an engaged answer begins
        else:
            assert one.prompt == "What is tea?" or one.answer in found.REFUSALS
    assert kinds == {(k, t) for k in ("heed harmful", "heed benign") for t in (True, False)}


def test_what_stands_before_a_note_is_read_and_only_what_follows_it_learned(monkeypatch):
    found, _ = conversations(monkeypatch)
    encode = importlib.import_module("train_language").encode

    class Words:
        """One token a word, its own text."""

        def __call__(self, text, add_special_tokens):
            return {"input_ids": text.split()}

        def convert_tokens_to_ids(self, token):
            return token

    plain = found.Conversation("", "Hello", "one two three four five")
    heeds = replace(plain, note=found.Note("stop and think", 0.5, tokens=2))
    turns = replace(plain, note=found.Note("stop and think", 0.0, instead="I cannot."))
    _, before, answer = encode(Words(), plain, 99)
    assert answer == ["one", "two", "three", "four", "five", "<|im_end|>"]
    assert encode(Words(), heeds, 99)[1:] == ([*before, "one", "two", "stop", "and"], answer[2:])
    assert encode(Words(), turns, 99)[1:] == ([*before, "stop", "and", "think"], ["I", "cannot.", "<|im_end|>"])
    # Cut off: something is always left to say, and nothing says that it ends.
    long = replace(plain, answer=" ".join("abcdefghijkl"), note=found.Note("stop", 0.0))
    assert encode(Words(), long, 99)[2] == list("abcdefgh")
    late = replace(plain, note=found.Note("stop", 1.0))
    assert encode(Words(), late, 3)[1:] == ([*before, "one", "two", "stop"], ["three"])


@pytest.mark.parametrize("oracle", [False, True])
def test_conversations_about_one_page_are_learned_as_if_each_stood_alone(monkeypatch, oracle):
    found, _ = conversations(monkeypatch)
    language, pages = importlib.import_module("train_language"), importlib.import_module("pages")
    for name, value in (("FAST", torch.float32), ("HALVES", False), ("DEVICE", "cpu")):
        monkeypatch.setattr(language, name, value)
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(["<|im_start|>", "<|im_end|>"], "")
    sizes: dict[str, Any] = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
    }
    # Weights so large that it matters what is attended to.
    model = LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=64, initializer_range=0.5, **sizes)).eval()
    tower, rows = language.build(32).eval(), torch.randn(len(tokenizer), 32)
    grey = torch.randint(0, 256, (240, 240), dtype=torch.uint8).numpy()
    tokens = torch.where(torch.rand(144) < 0.2, torch.randint(20, 90, (144,)), -1).numpy()
    page = pages.Page(grey, tokens, torch.zeros(144, 12).numpy(), True)
    about = [
        found.Conversation("read", "What?", "The image says: tea", "tea"),
        found.Conversation("list", "Fill it in.", "1. Hot water 2. Leaves 3. Time", "tea", whole=False),
        found.Conversation("heed", "Fill it in.", "1. Hot water", "tea", note=found.Note("Stop!", 0.5, instead="No.")),
    ]

    @torch.no_grad()
    def loss(*samples):
        return language.batch_loss(model, tower, rows, language.collate(tokenizer, list(samples), 40))[0].item()

    together = loss(language.Sample(about, page, oracle))
    alone = [loss(language.Sample([one], page, oracle)) for one in about]
    assert together == pytest.approx(sum(alone) / 3, rel=1e-5)
    assert max(alone) - min(alone) > 1e-3
    # Padding, and who else is in the batch, do not matter either.
    assert loss(*(language.Sample([one], page, oracle) for one in about)) == pytest.approx(together, rel=1e-5)
    # What is on the page matters: its pixels, or where a perfect tower stands in, its tokens.
    for other, seen in (
        (replace(page, pixels=255 - grey), not oracle),
        (replace(page, tokens=tokens[::-1].copy()), oracle),
    ):
        assert (abs(loss(language.Sample(about, other, oracle)) - together) > 1e-3) is seen


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training run on a tiny model, with its data."""
    folder = tmp_path_factory.mktemp("recipe")
    rows = [{"prompt": f"Red {i}?", "safe": False, "rejected": "kkkk", "chosen": "NN"} for i in range(10)]
    rows += [{"prompt": f"Blue {i}?", "safe": True, "chosen": "kkkk"} for i in range(10)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = TrainingConfig(
        k=2, epochs=4, learning_rate=0.2, validation=0.2, calibration=0.2, test=0.0, log_with="none"
    )
    train(tiny_vlm(), read_training_file(folder / "data.jsonl"), config, folder / "run")
    return folder


@pytest.mark.parametrize(
    ("shipped", "taken"), [("none", True), ("worse", True), ("better", False), ("of another model", True)]
)
def test_the_pack_that_ships_gives_way_to_one_that_is_as_good_or_fits(run, tmp_path, shipped, taken):
    new = SafetyReminder.from_pretrained(run / "run" / "pack")
    blind = Probe(100 * torch.randn(32, generator=torch.Generator().manual_seed(0)), 0.0)
    worse = replace(new, vectors=torch.zeros_like(new.vectors), probe=blind)
    packs = {
        "worse": worse,
        "better": new,
        "of another model": replace(worse, fingerprint=new.fingerprint | {"architecture": "Another"}),
    }
    if shipped in packs:
        packs[shipped].save_pretrained(tmp_path / "shipped")
    folder = run / "run"
    if shipped == "better":
        folder = shutil.copytree(folder, tmp_path / "run")
        worse.save_pretrained(folder / "pack")
    before = (tmp_path / "shipped" / "config.json").read_text() if shipped in packs else None
    assert load("replace_reminder").replace(tiny_vlm(), run / "data.jsonl", folder, tmp_path / "shipped") is taken
    after = SafetyReminder.from_pretrained(tmp_path / "shipped")
    assert torch.equal(after.vectors, new.vectors)
    if not taken:
        assert (tmp_path / "shipped" / "config.json").read_text() == before


def test_the_recipe_for_other_models_is_the_same_in_words_and_in_make():
    page = (ROOT / "recipes/real/README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in re.findall(r"(?:training\.)?(?:learning_rate|answer_tokens|false_alarm_budget|prompt_check)=\S+", page):
        assert name in makefile, name
    suite = load_suite(str(ROOT / "recipes/real/suite.yaml"), root="runs/real/rows")
    assert Path(suite.tasks["held_out"].root) == Path("runs/real/rows") / REQUESTS
    assert set(suite.defenses) == {"none", "monitor", "reminder"}
    for name in (TRAIN, CALIBRATION):
        assert f"rows/{name}" in page
        assert f"rows/{name}" in makefile
