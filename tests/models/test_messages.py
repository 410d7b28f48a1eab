"""Every form in which messages and images may come, and what is said of those that cannot be read."""

from __future__ import annotations

import base64
import io
import struct
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps

from checkpoints import tiny_vlm
from safety_reminder.errors import MessageError
from safety_reminder.models import load_image
from safety_reminder.models.messages import normalise
from safety_reminder.models.vlm import VLM

RED = Image.new("RGB", (9, 7), (200, 30, 40))


def png(image: Image.Image = RED) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def data_url(body: bytes = png()) -> str:
    return "data:image/png;base64," + base64.b64encode(body).decode()


@pytest.fixture
def path(tmp_path):
    (tmp_path / "red page.png").write_bytes(png())
    return tmp_path / "red page.png"


@pytest.mark.parametrize(
    "form",
    [
        lambda path: {"type": "image", "image": path},
        lambda path: {"type": "image", "image": str(path)},
        lambda path: {"type": "image", "image": f"file://{path}"},
        lambda path: {"type": "image", "image": RED},
        lambda path: {"type": "image", "image": RED.convert("RGBA")},
        lambda path: {"type": "image", "image": data_url()},
        lambda path: {"type": "image", "path": str(path)},
        lambda path: {"type": "image", "url": str(path)},
        lambda path: {"type": "image", "url": data_url()},
        lambda path: {"type": "image", "base64": base64.b64encode(png()).decode()},
        lambda path: {"type": "image_url", "image_url": {"url": data_url()}},
        lambda path: {"type": "image_url", "image_url": {"url": str(path), "detail": "low"}},
        lambda path: {"type": "image_url", "image_url": data_url()},
    ],
)
def test_every_form_of_an_image_gives_the_same_pixels(path, form):
    messages = [{"role": "user", "content": [form(path), {"type": "text", "text": "What is it?"}]}]
    image, text = normalise(messages, reads_images=True)[0]["content"]
    assert (image["image"].mode, image["image"].size) == ("RGB", (9, 7))
    assert image["image"].tobytes() == RED.tobytes()
    assert text == {"type": "text", "text": "What is it?"}


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA"])
def test_images_of_every_mode_become_rgb(mode):
    assert load_image(RED.convert(mode)).mode == "RGB"


def test_a_photo_is_turned_as_its_exif_orientation_says(tmp_path):
    photo = Image.new("RGB", (40, 20), "red")
    exif = photo.getexif()
    exif[0x0112] = 6  # a quarter turn
    photo.save(tmp_path / "photo.jpg", exif=exif)
    with Image.open(tmp_path / "photo.jpg") as opened:
        assert [load_image(source).size for source in (tmp_path / "photo.jpg", opened)] == [(20, 40), (20, 40)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_pillow_turns_them(orientation):
    photo = Image.effect_noise((6, 4), 90).convert("RGB")
    photo.getexif()[0x0112] = orientation
    assert load_image(photo).tobytes() == ImageOps.exif_transpose(photo).tobytes()


def test_a_photo_with_a_malformed_tag_is_read(tmp_path):
    # Two tags: the orientation, and a resolution that is text.
    turned = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    wrong = struct.pack(">HHI4s", 0x011A, 2, 4, b"dpi\0")
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + turned + wrong + bytes(4)
    Image.new("RGB", (40, 20), "red").save(tmp_path / "photo.jpg", exif=exif)
    assert load_image(tmp_path / "photo.jpg").size == (20, 40)


def test_the_image_that_was_given_stays_as_it_was():
    grey = RED.convert("L")
    load_image(grey)
    assert grey.mode == "L"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gone.png", "no image at gone.png"),
        ("http://example.org/a.png", "images are not fetched from the web: download 'http://example.org/a.png'"),
        ("https://example.org/a.png", "images are not fetched from the web"),
        (".", "cannot read the image ."),
        ("a\0b.png", "cannot read the image"),
        ("data:image/png,abc", "a data URL must be base64"),
        ("data:image/png;base64,?", "the data URL is not valid base64"),
        ("data:image/png;base64,é", "the data URL is not valid base64"),
        ("data:image/png;base64,", "cannot read the image"),
        (data_url(b"no image"), "cannot read the image data:image/png;base64"),
        (data_url(png()[:50]), "cannot read the image data:image/png;base64"),
        (3, "an image is a path, a data URL or a PIL image, got int"),
        (b"bytes", "got bytes"),
        (None, "got NoneType"),
    ],
)
def test_images_that_cannot_be_read_say_why(source, message):
    with pytest.raises(MessageError) as caught:
        load_image(source)
    assert message in str(caught.value)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(png()[:40])
    with pytest.raises(MessageError, match=r"cannot read the image .*broken\.png"):
        load_image(tmp_path / "broken.png")


def test_a_picture_too_large_to_open_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(MessageError, match="cannot read the image"):
        load_image(data_url())


def test_the_message_does_not_repeat_a_whole_image():
    with pytest.raises(MessageError) as caught:
        load_image(base64.b64encode(bytes(50_000)).decode())
    assert len(str(caught.value)) < 400


USER = {"role": "user", "content": "Hello"}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("Hello", "messages must be a list like"),
        (USER, "messages must be a list like"),
        (None, "messages must be a list like"),
        ([], "there are no messages"),
        (["Hello"], "messages[0] needs 'role' and 'content'"),
        ([USER, {"role": "user"}], "messages[1] needs 'role' and 'content'"),
        ([{"role": "robot", "content": "x"}], "messages[0]: unknown role 'robot'; known: system, user, assistant"),
        ([{"role": "user", "content": None}], "messages[0]: content must be a string or a list of parts"),
        ([{"role": "user", "content": 3}], "messages[0]: content must be a string or a list of parts"),
        ([USER, {"role": "user", "content": ["x"]}], "messages[1].content[0] must be a mapping with a 'type'"),
        ([{"role": "user", "content": [{"text": "x"}]}], "messages[0].content[0]: expected {'type': 'text'"),
        ([{"role": "user", "content": [{"type": "text", "text": 3}]}], "messages[0].content[0]: expected"),
        ([{"role": "user", "content": [{"type": "image"}]}], "messages[0].content[0]: expected"),
        ([{"role": "user", "content": [{"type": "image", "base64": b"x"}]}], "messages[0].content[0]: expected"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "messages[0].content[0]: expected"),
        ([{"role": "user", "content": [{"type": "audio", "audio": "x"}]}], "messages[0].content[0]: expected"),
    ],
)
def test_messages_that_do_not_fit_say_where(messages, message):
    with pytest.raises(MessageError) as caught:
        normalise(messages, reads_images=True)
    assert message in str(caught.value)


def test_a_string_is_one_text_part():
    assert normalise([USER], reads_images=True) == [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]


def test_without_vision_text_parts_become_one_string_and_images_are_refused():
    parts: list[dict[str, Any]] = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert normalise([{"role": "user", "content": parts}], reads_images=False)[0]["content"] == "one\ntwo"
    parts.append({"type": "image", "image": RED})
    with pytest.raises(MessageError, match="has an image, but this model reads text only"):
        normalise([{"role": "user", "content": parts}], reads_images=False)


def test_a_system_message_cannot_stand_for_an_image():
    with pytest.raises(MessageError, match=r"the text has '<image>', which stands for an image"):
        tiny_vlm().encode([[{"role": "system", "content": "<image>"}, USER]])


@pytest.mark.parametrize(
    ("messages", "images"),
    [
        ([{"role": "user", "content": "What does <image> mean?"}], 0),
        (
            [{"role": "user", "content": [{"type": "image", "image": RED}, {"type": "text", "text": "This? <image>"}]}],
            1,
        ),
        ([USER, {"role": "assistant", "content": "It is <image>."}, USER], 0),
    ],
)
def test_text_does_not_stand_for_an_image(messages, images):
    vlm = tiny_vlm()
    ids = vlm.encode([messages])["input_ids"][0].tolist()
    assert ids.count(vlm.tokenizer.convert_tokens_to_ids("<image>")) == 4 * images
    assert "<image>" in vlm.tokenizer.decode(ids).replace("<image>" * 4, "")


def test_text_that_only_looks_like_the_placeholder_is_text():
    vlm = tiny_vlm()
    ids = vlm.encode([[{"role": "user", "content": "<images> < image > image"}]])["input_ids"]
    assert vlm.tokenizer.convert_tokens_to_ids("<image>") not in ids[0].tolist()


def test_a_model_that_reads_text_only_takes_the_placeholder_as_text():
    inputs = tiny_vlm("llama").encode([[{"role": "user", "content": "What does <image> mean?"}]])
    assert isinstance(inputs["input_ids"], torch.Tensor)


def test_the_placeholders_of_other_families_are_found_too():
    holder = SimpleNamespace(boi_token="<start_of_image>", image_token=None)
    tokenizer = SimpleNamespace(image_token="<image_soft_token>", video_token="<video>")
    fake: Any = SimpleNamespace(processor=holder, tokenizer=tokenizer)
    assert VLM._image_placeholders(fake) == ["<image_soft_token>", "<start_of_image>", "<video>"]


def test_a_batch_has_as_many_image_tokens_as_images():
    vlm = tiny_vlm()
    with_image = [{"role": "user", "content": [{"type": "image", "image": RED}, {"type": "text", "text": "a"}]}]
    inputs = vlm.encode([with_image, [USER], with_image])
    image_token = vlm.tokenizer.convert_tokens_to_ids("<image>")
    assert (inputs["input_ids"] == image_token).sum(dim=1).tolist() == [4, 0, 4]
    assert inputs["pixel_values"].shape[0] == 2
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1, 1]
