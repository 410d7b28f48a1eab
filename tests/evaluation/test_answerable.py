"""Rows that a model cannot be asked are found before the first one is answered."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from checkpoints import tiny_guarded, tiny_vlm
from safety_reminder.config.reading import ReadingOptions
from safety_reminder.errors import ConfigError, MessageError, SafetyReminderError
from safety_reminder.evaluation import records
from safety_reminder.evaluation.answerable import identities, require_answerable
from safety_reminder.evaluation.runner import open_run, run
from safety_reminder.models import VLM
from safety_reminder.types import Example, Sampling

GOOD = Example("a", "Name a river.", harmful=False, category="rivers")
SHORT = Sampling(max_new_tokens=4, do_sample=False)
BAD = [
    ({"system": "<image>"}, r"row 2 \('b'\): system: the text has '<image>'"),
    ({"image": "/gone.png"}, r"row 2 \('b'\): image: no image at /gone.png"),
    ({"prompt": "half \ud800"}, r"row 2 \('b'\): prompt has half of a character"),
    ({"category": "\udfff"}, r"row 2 \('b'\): category has half of a character"),
    ({"target": 5}, r"row 2 \('b'\): target must be a text, got 5"),
    ({"id": "\ud800"}, r"row 2 \('\\ud800'\): id has half of a character"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_bad_row_is_named_with_its_column_before_the_first_answer(tmp_path, change, message):
    records = open_run(tmp_path, {"model": "tiny"})
    bad = replace(Example("b", "Bake bread."), **change)
    with pytest.raises(SafetyReminderError, match=message) as caught:
        run(tiny_guarded(), [GOOD, bad], records, guard=True, sampling=SHORT)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "records.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"prompt": "What is <image>?"}, "prompt"),
        ({"prefill": "<|end|>"}, "prefill"),
        ({"turns": (("user", "<s>"),)}, "turns"),
    ],
)
def test_special_tokens_are_refused_by_row_and_column_where_they_are_to_be(change, column):
    vlm = tiny_vlm("llava")
    row = replace(GOOD, id="b", **change)
    require_answerable(vlm, [GOOD, row])
    strict = VLM(vlm.model, vlm.processor, vlm.name, ReadingOptions(special_text="refuse"))
    with pytest.raises(MessageError, match=rf"row 2 \('b'\): {column}: the text has '<"):
        require_answerable(strict, [GOOD, row])


def test_an_image_for_a_model_that_reads_text_only_is_named():
    with pytest.raises(MessageError, match=r"quick, row 2 \('b'\): has an image, but .* reads text only"):
        require_answerable(tiny_vlm("llama"), [GOOD, Example("b", "?", image=Image.new("RGB", (4, 4)))], of="quick, ")


def test_a_conversation_that_the_template_does_not_take_is_named():
    strange = replace(GOOD, id="b", turns=(("user", "Hi."), ("user", "Hello.")))
    strict = "{% for m in messages %}{% if loop.index0 % 2 != (m.role != 'user') %}{{ raise_exception('in turns') }}"
    vlm = tiny_vlm("llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vlm.processor, "chat_template", strict + "{% endif %}{{ m.content }}{% endfor %}")
        require_answerable(vlm, [GOOD])
        with pytest.raises(MessageError, match=r"row 2 \('b'\): .* does not take this conversation: in turns"):
            require_answerable(vlm, [GOOD, strange])


def test_ids_that_are_there_twice_are_named_with_their_rows():
    with pytest.raises(ConfigError, match=r"two examples have the id 'a'; ids must be unique \(rows 1 and 3\)"):
        identities([GOOD, Example("b", "y"), Example("a", "z")])


@pytest.mark.parametrize(
    ("change", "named"), [({"category": "lakes"}, "category"), ({"instruction": "Name a lake."}, "instruction")]
)
def test_what_a_record_says_of_its_example_may_not_change(tmp_path, change, named):
    records = open_run(tmp_path, {"model": "tiny"})
    [record] = run(tiny_guarded(), [GOOD], records, guard=True, sampling=SHORT)
    with pytest.raises(ConfigError, match=rf"example 'a' is not the one that was recorded under this id \({named}\)"):
        run(tiny_guarded(), [replace(GOOD, **change)], records, guard=True, sampling=SHORT)
    records.records[0] = replace(record, instruction="")  # as earlier versions wrote it
    assert run(tiny_guarded(), [replace(GOOD, instruction="x")], records, guard=True, sampling=SHORT)


def test_a_file_that_many_rows_show_is_hashed_once(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    rows = [Example(str(n), "?", image=tmp_path / "red.png") for n in range(3)]
    read, original = [], records.image_hash
    monkeypatch.setattr(records, "image_hash", lambda image: read.append(image) or original(image))
    found = identities([*rows, Example("none", "?")])
    assert len({found[str(n)]["image_sha256"] for n in range(3)} - {None}) == 1
    assert found["none"]["image_sha256"] is None
    assert [image for image in read if image is not None] == [tmp_path / "red.png"]
