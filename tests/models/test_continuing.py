"""Conversations that end with an assistant message: what the model reads is what it would have written itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from PIL import Image

from checkpoints import tiny_guarded, tiny_vlm
from safety_reminder.errors import MessageError
from safety_reminder.models import VLM, load_vlm
from safety_reminder.models.tiny import byte_tokenizer

USER = {"role": "user", "content": "Name a river."}
SEEN = {
    "role": "user",
    "content": [{"type": "image", "image": Image.new("RGB", (28, 28), "red")}, {"type": "text", "text": "What is it?"}],
}
TEXTS = ["Sure", "Sure, here are the steps:\n\n1.", " spaced ", "\nbroken\n", "é日😀", "x" * 40]
OPTIONS: dict[str, Any] = {"max_new_tokens": 9, "do_sample": False}


def begun(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def ids(vlm: VLM, *messages: dict[str, Any]) -> list[int]:
    return vlm.encode([list(messages)])["input_ids"][0].tolist()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("family", ["llava", "llama"])
def test_the_answer_s_own_tokens_follow_those_of_the_header(family, text):
    vlm = tiny_vlm(family)
    written = vlm.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids(vlm, USER, begun(text)) == ids(vlm, USER) + written
    if family == "llava":
        assert ids(vlm, SEEN, begun(text)) == ids(vlm, SEEN) + written


def test_a_list_of_parts_says_the_same_as_a_string_and_an_empty_beginning_is_none():
    vlm = tiny_vlm()
    parts = {"role": "assistant", "content": [{"type": "text", "text": "Sure, "}, {"type": "text", "text": "here"}]}
    assert ids(vlm, USER, parts) == ids(vlm, USER, begun("Sure, here"))
    assert ids(vlm, USER, begun("")) == ids(vlm, USER)


def test_earlier_turns_and_a_system_message_stay_before_it():
    vlm = tiny_vlm()
    earlier = [{"role": "system", "content": "Be brief."}, USER, begun("The Po."), USER]
    assert ids(vlm, *earlier, begun("The")) == ids(vlm, *earlier) + ids(vlm, USER, begun("The"))[len(ids(vlm, USER)) :]


def test_a_closed_turn_is_not_continued():
    vlm = tiny_vlm()
    closed = vlm.encode([[USER, begun("The Po.")]], add_generation_prompt=False)["input_ids"][0].tolist()
    assert closed[: len(ids(vlm, USER))] == ids(vlm, USER)


BATCH: list[list[dict[str, Any]]] = [
    [USER],
    [USER, begun("Sure, here is one: the")],
    [SEEN],
    [SEEN, begun("A")],
    [{"role": "system", "content": "Be brief."}, USER, begun("The Po."), USER, begun("")],
]


def test_a_batch_of_both_kinds_gives_every_row_what_it_gets_alone():
    vlm = tiny_vlm()
    before = copy.deepcopy([BATCH[i] for i in (0, 1, 4)])
    together = vlm.encode(BATCH)
    for row, mask, messages in zip(together["input_ids"], together["attention_mask"], BATCH, strict=True):
        alone = vlm.encode([messages])["input_ids"][0]
        width = len(row) - len(alone)
        assert torch.equal(row[width:], alone)
        assert mask.tolist() == [0] * width + [1] * len(alone)
        assert (row[:width] == vlm.tokenizer.pad_token_id).all()
    assert len(together["pixel_values"]) == 2
    assert [BATCH[i] for i in (0, 1, 4)] == before


@pytest.mark.parametrize("options", [{"guard": False}, {"policy": "rewind"}, {"policy": "restart"}])
def test_answers_of_a_mixed_batch_are_those_of_the_rows_alone(options):
    guarded = tiny_guarded()
    together = guarded.generate_batch(BATCH, **OPTIONS, **options)
    alone = [guarded.generate(messages, **OPTIONS, **options) for messages in BATCH]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert [r.prompt_tokens for r in together] == [r.prompt_tokens for r in alone]


def test_what_the_model_wrote_itself_is_continued_as_it_went_on():
    guarded = tiny_guarded()
    vlm = guarded.vlm
    plain = [t for t in range(len(vlm.tokenizer)) if not vlm.tokenizer.decode([t]).isascii() or t < 4]
    options: dict[str, Any] = OPTIONS | {
        "suppress_tokens": plain,
        "guard": False,
    }  # ASCII, so that the text is its tokens
    whole = guarded.generate([SEEN], **options)
    head = vlm.tokenizer.decode(list(whole.token_ids[:4]))
    options["max_new_tokens"] = 5
    rest = guarded.generate([SEEN, begun(head)], **options)
    assert rest.token_ids == whole.token_ids[4:]
    assert not rest.text.startswith(head)


def test_an_answer_that_nobody_asked_for_or_with_an_image_is_refused():
    with pytest.raises(MessageError, match=r"messages\[0\] begins an answer, but there is nothing to answer"):
        tiny_vlm().encode([[begun("Sure")]])
    with pytest.raises(MessageError, match=r"messages\[1\] begins an answer, which is text; put images into a user"):
        tiny_vlm().encode([[USER, {**SEEN, "role": "assistant"}]])


def template(header: str, after: str = "") -> str:
    """User turns, and assistant turns after ``header`` whose text is stripped, as many published templates do it."""
    return (
        "{% for m in messages %}{% if m['role'] == 'user' %}User: {{ m['content'] }}\n"
        f"{{% else %}}{header}{after}{{{{ m['content'] | trim }}}}<|end|>{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{header}{{% endif %}}"
    )


def with_template(text: str) -> VLM:
    llama = tiny_vlm("llama")
    return VLM(llama.model, byte_tokenizer(["<s>"], text, padding_side="left"), "templated")


@pytest.mark.parametrize(("after", "gap"), [("", ""), (" ", " "), ("<think></think>", "")])
def test_the_space_that_a_template_puts_after_its_header_is_put_there(after, gap):
    vlm = with_template(template("Assistant:", after))
    for text in ("Sure, ", "é"):
        assert vlm.tokenizer.decode(ids(vlm, USER, begun(text))) == f"User: Name a river.\nAssistant:{gap}{text}"
    # A beginning that has a space of its own needs none.
    assert vlm.tokenizer.decode(ids(vlm, USER, begun(" Sure"))).endswith("Assistant: Sure")


def test_a_template_that_strips_texts_leaves_the_end_of_the_beginning_alone():
    vlm = with_template(template("Assistant:\n"))
    assert vlm.tokenizer.decode(ids(vlm, USER, begun("\nSure: \n"))).endswith("Assistant:\n\nSure: \n")


def transformers_own(vlm: VLM, *messages: dict[str, Any]) -> list[int]:
    found: Any = vlm.tokenizer.apply_chat_template(
        [vlm.conversation(list(messages))], continue_final_message=True, tokenize=True, return_dict=True
    )
    return found["input_ids"][0]


@pytest.mark.parametrize("text", ["Sure", "Sure, here are the steps:\n\n1.", "é日😀"])
def test_it_is_what_transformers_continues_where_texts_have_no_space_at_their_ends(text):
    vlms = [tiny_vlm("llama"), with_template(template("Assistant:", " ")), with_template(template("Assistant:\n"))]
    for vlm in vlms:
        assert ids(vlm, USER, begun(text)) == transformers_own(vlm, USER, begun(text))


@pytest.mark.pocket
def test_pocket_reads_the_header_and_then_the_beginning():
    vlm = load_vlm("pocket", device="cpu")
    for text in TEXTS:
        found = ids(vlm, USER, begun(text))
        assert found == ids(vlm, USER) + vlm.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert found == transformers_own(vlm, USER, begun(text))
