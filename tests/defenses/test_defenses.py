"""Defences on their seam: what they send to the model, and that they leave everything else alone."""

from __future__ import annotations

import base64
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from asked import BATCH, IMAGE, OPTIONS, Recorder, asking, options_of
from checkpoints import tiny_guarded, tiny_vlm
from safety_reminder.defenses import DEFENSES, adashield_s, ecso, load_defense
from safety_reminder.defenses.dro import SoftPrompt, in_front, system_tokens
from safety_reminder.defenses.self_reminder import AFTER, BEFORE
from safety_reminder.errors import ConfigError, ModelError, PackError
from safety_reminder.guard import GuardedVLM, SafetyReminder
from safety_reminder.models import fingerprint, load_image, token_vectors
from safety_reminder.types import Response


def timeless(responses):
    return [replace(response, seconds=0.0) for response in responses]


@pytest.mark.parametrize("name", DEFENSES)
def test_a_row_of_a_batch_is_answered_as_alone_and_messages_stay_as_they_are(name, header, soft_prompt):
    defense = load_defense(name, tiny_guarded(), **options_of(name, header, soft_prompt))
    before = copy.deepcopy(BATCH[:1] + BATCH[2:])
    batch = BATCH[:1] + BATCH[2:]
    together = defense.respond(asking(*batch))
    alone = [defense.respond(asking(messages))[0] for messages in batch]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert batch == before
    assert defense.name == name


@pytest.mark.parametrize(("name", "guard"), [("none", False), ("reminder", True)])
def test_the_ends_of_every_comparison_are_the_guarded_model_s_own_answers(name, guard):
    found = load_defense(name, tiny_guarded()).respond(asking(*BATCH[:1]))
    assert timeless(found) == timeless(tiny_guarded().generate_batch(BATCH[:1], guard=guard, **OPTIONS))


def test_the_system_prompt_comes_first_and_keeps_one_that_is_there():
    model = Recorder()
    load_defense("system_prompt", model, text="Be good.").respond(asking(BATCH[0]))
    load_defense("system_prompt", model, text="Be good.").respond(asking(BATCH[2]))
    assert model.asked[0] == [{"role": "system", "content": "Be good."}, *BATCH[0]]
    assert model.asked[1] == [{"role": "system", "content": "Be good.\n\nBe brief."}, *BATCH[2][1:]]


def test_self_reminder_stands_around_the_last_request_and_leaves_images_in_place():
    model = Recorder()
    load_defense("self_reminder", model).respond(asking(BATCH[1]))
    load_defense("self_reminder", model).respond(asking(BATCH[2]))
    system, user = model.asked[0]
    assert system == {"role": "system", "content": BEFORE}
    assert [part["type"] for part in user["content"]] == ["image", "text"]
    assert user["content"][1]["text"] == "What is this?" + AFTER
    assert [m["content"] for m in model.asked[1]] == [
        BEFORE + "\n\nBe brief.",
        "Hello.",
        "Good day.",
        "Name a lake." + AFTER,
    ]


def test_a_request_that_is_only_an_image_gets_its_text_after_it():
    model = Recorder()
    only = [{"role": "user", "content": [{"type": "image", "image": IMAGE}]}]
    load_defense("self_reminder", model).respond(asking(only))
    assert model.asked[0][1]["content"][1] == {"type": "text", "text": AFTER}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("self_remindr", {}, "did you mean 'self_reminder'"),
        ("system_prompt", {"txt": "x"}, "unknown option of defense=system_prompt 'txt'; did you mean 'text'"),
        ("system_prompt", {"text": " "}, "needs a text"),
        ("system_prompt", {"text": 5}, "defense=system_prompt: text must be a text, got 5"),
        ("dro", {"prompt": 5}, "defense=dro: prompt must be a text, got 5"),
        ("reminder", {}, "needs a reminder"),
        ("prompt_tuning", {}, "needs a reminder"),
        ("post_hoc", {}, "needs the option 'judge'"),
    ],
)
def test_what_cannot_be_loaded_says_why(name, options, message):
    with pytest.raises(ConfigError, match=message):
        load_defense(name, GuardedVLM(tiny_vlm()), **options)


def test_adashield_says_the_request_twice_around_its_prompt():
    model = Recorder()
    load_defense("adashield_s", model).respond(asking(BATCH[1]))
    image, text = model.asked[0][0]["content"]
    assert image["type"] == "image"
    assert text["text"] == f"What is this?{adashield_s.PROMPT}What is this?"


class Scripted(GuardedVLM):
    """Gives the texts it was given, one list a round, and keeps what it was asked."""

    def __init__(self, *rounds):
        super().__init__(tiny_vlm())
        self.rounds, self.asked, self.seeds = list(rounds), [], []

    def respond(self, requests, watch=None):
        if not requests:
            return []
        self.asked.append(([list(r.messages) for r in requests], requests[0].sampling.max_new_tokens))
        self.seeds.append([r.seed for r in requests])
        texts = self.rounds.pop(0)
        return [Response(text, (1,), text, (), (), 0, "stop") for text in texts]


def test_ecso_closes_its_eyes_where_its_own_answer_was_harmful_and_nowhere_else():
    model = Scripted(["first", "second", "third"], ["Yes, it is.", "no"], ["a red square"], ["I cannot."])
    batch = [BATCH[1], BATCH[1], BATCH[0]]
    found = load_defense("ecso", model).respond(asking(*batch))
    assert [response.text for response in found] == ["I cannot.", "second", "third"]
    assert [response.extra_tokens for response in found] == [
        3,
        1,
        0,
    ]  # first answer, verdict, caption; verdict; none
    (_, full), (tell, short), (caption, _), (answer, _) = model.asked
    assert (full, short) == (9, 8)
    assert len(tell) == 2  # a request in text has no image to leave out
    query = "What is this?"
    assert tell[0][0]["content"] == [
        {"type": "image", "image": IMAGE}, {"type": "text", "text": ecso.TELL.format(query=query, response="first")},
    ]  # fmt: skip
    assert caption[0][0]["content"][1]["text"] == ecso.CAPTION.format(query=query)
    assert answer[0][0]["content"] == [
        {"type": "text", "text": ecso.ANSWER.format(caption="a red square", query=query)}
    ]


def test_ecso_s_questions_draw_as_the_rows_that_they_are_about():
    model = Scripted(["first", "second", "third"], ["no", "Yes."], ["a red square"], ["I cannot."])
    load_defense("ecso", model).respond(
        [replace(request, seed=5 + i) for i, request in enumerate(asking(BATCH[1], BATCH[0], BATCH[1]))]
    )
    assert model.seeds == [[5, 6, 7], [5, 7], [7], [7]]


def as_part(form: str, path: Path) -> dict:
    data = base64.b64encode(path.read_bytes()).decode()
    return {
        "image": {"type": "image", "image": str(path)},
        "path": {"type": "image", "path": str(path)},
        "null and path": {"type": "image", "image": None, "path": str(path)},
        "url": {"type": "image", "url": f"data:image/png;base64,{data}"},
        "base64": {"type": "image", "base64": data},
        "image_url": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        "image_url, plain": {"type": "image_url", "image_url": f"data:image/png;base64,{data}"},
    }[form]


@pytest.mark.parametrize("form", ["image", "path", "null and path", "url", "base64", "image_url", "image_url, plain"])
def test_defences_know_an_image_in_every_form_that_models_read(form, tmp_path):
    IMAGE.save(tmp_path / "red.png")
    messages = [{"role": "user", "content": [as_part(form, tmp_path / "red.png"), {"type": "text", "text": "What?"}]}]
    model = Scripted(["first"], ["Yes."], ["a red square"], ["I cannot."])
    [found] = load_defense("ecso", model).respond(asking(messages))
    assert found.text == "I cannot."
    assert all(part["type"] == "text" for part in model.asked[-1][0][0][0]["content"])
    judged = []
    judge = lambda items: [judged.extend(items), [False] * len(items)][1]  # noqa: E731
    load_defense("post_hoc", Scripted(["fine"]), judge=judge).respond(asking(messages))
    assert load_image(judged[0][1]).size == IMAGE.size
    purified = []
    purify = lambda image: [purified.append(image.size), image][1]  # noqa: E731
    load_defense("bluesuffix", Recorder(), purifier=purify).respond(asking(messages))
    assert purified == [IMAGE.size]


def test_prompt_tuning_is_the_reminder_after_the_prompt_and_no_alarm():
    [found] = load_defense("prompt_tuning", tiny_guarded()).respond(asking(BATCH[0]))
    always = {"threshold": 1e-9, "policy": "continue", "prompt_check": True, "final_check": False, "interval": 99}
    expected = tiny_guarded().generate(BATCH[0], **always, **OPTIONS)
    assert [check.kind for check in expected.checks] == ["prompt"]
    assert found.token_ids == expected.token_ids
    assert found.token_ids != tiny_guarded().generate(BATCH[0], guard=False, **OPTIONS).token_ids
    assert (found.checks, found.interventions, found.leaked_tokens) == ((), (), 0)


def test_the_header_probe_reads_after_the_header_and_its_policy_is_its_own(header):
    guarded = GuardedVLM(tiny_vlm())
    [stopped] = load_defense("header_probe", guarded, probe=header).respond(asking(BATCH[0]))
    assert (stopped.finish_reason, stopped.checks[0].p_unsafe) == ("guard", 0.5)
    [left_in] = load_defense("header_probe", guarded, probe=header, policy="rewind").respond(asking(BATCH[0]))
    assert left_in.interventions[0].policy == "rewind"
    vectors = SafetyReminder.from_pretrained(header).vectors
    ids = guarded.vlm.assistant_header()
    assert (vectors == guarded.vlm.model.get_input_embeddings().weight[ids]).all()


@pytest.mark.parametrize(("verdict", "withheld"), [(True, True), (None, True), (False, False)])
def test_a_judge_after_the_fact_withholds_what_is_unsafe_or_unread(verdict, withheld):
    asked = []

    def judge(items):
        asked.extend(items)
        return [verdict] * len(items)

    [plain] = load_defense("none", GuardedVLM(tiny_vlm())).respond(asking(BATCH[1]))
    [found] = load_defense("post_hoc", GuardedVLM(tiny_vlm()), judge=judge).respond(asking(BATCH[1]))
    assert asked == [("What is this?", IMAGE, plain.text)]
    assert found.seen_text == ("I'm sorry, but I can't help with that." if withheld else plain.seen_text)
    assert found.finish_reason == ("guard" if withheld else plain.finish_reason)


def test_bluesuffix_purifies_rewrites_and_appends_in_that_order():
    model = Recorder()
    options = {
        "purifier": lambda image: image.resize((14, 14)),
        "rewriter": lambda texts: ["Describe it." if "What" in text else "" for text in texts],
        "suffix": lambda request: f" [{request}]",
    }
    load_defense("bluesuffix", model, **options).respond(asking(*BATCH[:2]))
    # What the rewriter left empty stays as it was asked.
    assert model.asked[0] == [{"role": "user", "content": "Name a river. [Name a river.]"}]
    image, text = model.asked[1][0]["content"]
    assert image["image"].size == (14, 14)
    assert text["text"] == "Describe it. [Describe it.]"


def test_bluesuffix_by_itself_is_its_suffix_and_plug_ins_can_be_named():
    model = Recorder()
    load_defense("bluesuffix", model, suffix=" Be careful.").respond(asking(BATCH[0]))
    load_defense("bluesuffix", model, suffix="textwrap:dedent").respond(asking(BATCH[0]))
    asked = [messages[0]["content"] for messages in model.asked]
    assert asked == ["Name a river. Be careful.", "Name a river.Name a river."]
    with pytest.raises(ConfigError, match="no function 'nowhere:nothing'"):
        load_defense("bluesuffix", model, purifier="nowhere:nothing")


def test_no_line_break_that_a_tokenizer_could_join_stands_after_a_soft_prompt():
    assert in_front(BATCH[2], "Be good.")[0]["content"] == "Be good. Be brief."
    assert in_front(BATCH[0], "Be good.")[0]["content"] == "Be good."


def with_vectors_of_its_text(folder, vlm, text="Be good."):
    own = token_vectors(vlm.model, system_tokens(vlm, text))
    prompt = SoftPrompt(text, own, fingerprint=fingerprint(vlm.model))
    return str(prompt.save_pretrained(folder))


@pytest.mark.parametrize("family", ["llava", "llama"])
def test_a_soft_prompt_of_its_text_s_own_embeddings_is_that_system_prompt(tmp_path, family):
    guarded = GuardedVLM(tiny_vlm(family))
    batch = BATCH[:1] if family == "llama" else [BATCH[0], BATCH[1]]
    soft = load_defense("dro", guarded, prompt=with_vectors_of_its_text(tmp_path / "soft", guarded.vlm))
    plain = load_defense("system_prompt", guarded, text="Be good.")
    for messages in batch:
        assert timeless(soft.respond(asking(messages))) == timeless(plain.respond(asking(messages)))


def test_a_soft_prompt_s_vectors_change_the_answer_and_the_model_s_own_message_stays(soft_prompt):
    guarded = GuardedVLM(tiny_vlm())
    soft = load_defense("dro", guarded, prompt=soft_prompt)
    plain = load_defense("system_prompt", guarded, text="Be good.")
    for messages in (BATCH[0], BATCH[2]):
        [found], [other] = (d.respond(asking(messages)) for d in (soft, plain))
        assert found.token_ids != other.token_ids
    loud = [{"role": "system", "content": "Be loud."}, *BATCH[2][1:]]
    [one], [other] = (soft.respond(asking(messages)) for messages in (BATCH[2], loud))
    assert one.token_ids != other.token_ids


def test_a_soft_prompt_of_another_model_is_refused(tmp_path):
    folder = with_vectors_of_its_text(tmp_path / "soft", tiny_vlm())
    with pytest.raises(ModelError, match="not that model"):
        load_defense("dro", GuardedVLM(tiny_vlm("llama")), prompt=folder)
    short = SoftPrompt("Be good.", torch.zeros(1, 32)).save_pretrained(tmp_path / "short")
    with pytest.raises(ModelError, match="has 1 vectors"):
        load_defense("dro", GuardedVLM(tiny_vlm()), prompt=str(short))


def test_packs_of_another_model_are_taken_where_the_caller_says_so(tmp_path):
    other = {**fingerprint(tiny_vlm("llama").model), "architecture": "Another"}
    header = replace(SafetyReminder.of_header(tiny_vlm()), fingerprint=other).save_pretrained(tmp_path / "header")
    size = len(system_tokens(tiny_vlm(), "Be good."))
    soft = SoftPrompt("Be good.", torch.zeros(size, 32), fingerprint=other).save_pretrained(tmp_path / "soft")
    options: list[tuple[str, dict[str, Any]]] = [
        ("header_probe", {"probe": str(header)}),
        ("dro", {"prompt": str(soft)}),
    ]
    for name, given in options:
        with pytest.raises(ModelError, match="not that model"):
            load_defense(name, GuardedVLM(tiny_vlm()), **given)
        assert load_defense(name, GuardedVLM(tiny_vlm(), check_base=False), **given).digest


def test_a_template_without_system_messages_has_no_place_for_a_soft_prompt(monkeypatch):
    vlm = tiny_vlm()
    template = "{% for m in messages %}{% if m.role != 'system' %}{{ m.role }}: x\n{% endif %}{% endfor %}"
    monkeypatch.setattr(vlm.processor, "chat_template", template)
    with pytest.raises(ModelError, match="leaves system messages out"):
        system_tokens(vlm, "Be good.")


def test_a_soft_prompt_of_another_size_is_refused(tmp_path):
    soft = SoftPrompt("Be good.", torch.zeros(8, 16)).save_pretrained(tmp_path / "soft")
    with pytest.raises(ModelError, match="vectors have size 16"):
        load_defense("dro", GuardedVLM(tiny_vlm(), check_base=False), prompt=str(soft))


@pytest.mark.parametrize("damage", ["missing", "json", "format", "vectors", "text"])
def test_a_damaged_soft_prompt_says_so(soft_prompt, damage):
    folder = Path(soft_prompt)
    config = folder / "config.json"
    if damage == "missing":
        (folder / "prompt.safetensors").unlink()
    elif damage == "json":
        config.write_text("{")
    elif damage == "format":
        config.write_text(config.read_text().replace('"format": 1', '"format": 9'))
    elif damage == "text":
        config.write_text(config.read_text().replace('"Be good."', "3"))
    else:
        (folder / "prompt.safetensors").write_bytes(b"xx")
    with pytest.raises(PackError, match=r"no soft prompt at|damaged|format 9|text is a string"):
        load_defense("dro", GuardedVLM(tiny_vlm()), prompt=soft_prompt)
