"""Images of every mode and from every source: what is read, how it looks, and what is refused."""

from __future__ import annotations

import base64
import io
import os
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from checkpoints import tiny_vlm
from safety_reminder.config.reading import ReadingOptions
from safety_reminder.errors import MessageError
from safety_reminder.models import VLM, load_image
from safety_reminder.models.images import FORMATS, to_rgb

RAMP = np.arange(256, dtype=np.uint8)[None].repeat(2, axis=0)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> Image.Image:
    """As Pillow opens it from a file."""
    return Image.open(io.BytesIO(encoded(image, kind, **options)))


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(load_image(image).convert("L"), dtype=int)[0]


def page(mode: str) -> Image.Image:
    """Black text on nothing."""
    image = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((10, 5, 20, 15), fill=(0, 0, 0, 255))
    if mode == "P":
        return saved(image.quantize(4))
    return image.convert(mode)


def palette_with_alpha() -> Image.Image:
    image = page("RGBA").convert("L").convert("P").convert("PA")
    image.putalpha(page("RGBA").getchannel("A"))
    return image


def with_clear(image: Image.Image, clear: Any) -> Image.Image:
    return saved(image, transparency=clear)


DARK = Image.fromarray(np.where(RAMP < 128, 7, 200).astype(np.uint8))


@pytest.mark.parametrize(
    "image",
    [
        page("RGBA"),
        page("LA"),
        page("RGBa"),
        page("P"),
        palette_with_alpha(),
        with_clear(DARK.convert("P"), 200),  # one entry of the palette
        with_clear(DARK.convert("P"), bytes([255] * 200 + [0])),  # each of them
        with_clear(DARK, 200),
        with_clear(DARK.convert("RGB"), (200, 200, 200)),
        with_clear(Image.fromarray(np.where(RAMP < 128, 7 * 257, 300).astype(np.uint16)), 300),
        saved(page("RGBA"), "GIF"),
        saved(page("RGBA"), "WEBP", lossless=True),
    ],
    ids=lambda image: f"{image.mode} {image.format}",
)
def test_what_is_transparent_is_white_as_a_page_is(image):
    colours: set[Any] = {colour for _, colour in load_image(image).getcolors() or []}
    assert (255, 255, 255) in colours
    assert len(colours) == 2
    assert min(colours) < (10, 10, 10)  # and the text is still there


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RAMP),
        Image.fromarray(RAMP).convert("RGB"),
        Image.fromarray(RAMP).convert("P"),
        Image.fromarray(RAMP).convert("LA"),
        Image.fromarray(RAMP).convert("I"),
        Image.fromarray(RAMP).convert("F"),
        Image.fromarray(RAMP).convert("YCbCr"),
        Image.fromarray(RAMP).convert("RGB").convert("CMYK"),
        Image.fromarray(RAMP).convert("RGB").convert("HSV"),
        Image.merge("LAB", [Image.fromarray(RAMP), *[Image.new("L", (256, 2), 128)] * 2]),
        Image.fromarray(RAMP.astype(np.uint16) * 257),
        saved(Image.fromarray(RAMP.astype(np.uint16) * 257)),
        saved(Image.fromarray(RAMP.astype(np.uint16) * 257), "TIFF"),
        saved(Image.fromarray(RAMP.astype(np.int32) * 257), "TIFF"),
        Image.fromarray(RAMP.astype(np.int32) * 8_000_000),
        Image.fromarray(RAMP.astype(np.int32) * 1000 - 90_000),
        Image.fromarray((RAMP / 255).astype(np.float32)),
        Image.fromarray((RAMP / 255 * 65535).astype(np.float32)),
        saved(Image.fromarray((RAMP / 255 - 0.5).astype(np.float32)), "TIFF"),
        Image.fromarray(((RAMP / 255 - 0.5) * 6e38).astype(np.float32)),
    ],
    ids=lambda image: f"{image.mode} {image.format}",
)
def test_a_ramp_stays_a_ramp(image):
    levels = grey(image)
    assert (np.diff(levels) >= -1).all()
    assert levels[0] <= 3
    assert levels[-1] >= 252
    assert len(set(levels.tolist())) >= 100  # CMYK, HSV and LAB round


def test_the_byte_order_of_16_bits_does_not_matter():
    big = Image.frombytes("I;16B", (256, 2), (RAMP.astype(">u2") * 257).tobytes())
    assert grey(big).tolist() == list(range(256))


def test_grey_levels_stay_where_they_are():
    # A dark page of 16 bits is dark; one of 32 bits that holds 8 is as bright as it was.
    assert grey(Image.fromarray(np.full((2, 2), 2570, np.uint16))).tolist() == [10, 10]
    assert grey(Image.fromarray(RAMP).convert("I")).tolist() == list(range(256))
    assert grey(Image.new("F", (2, 2), 1.0)).tolist() == [255, 255]
    assert grey(Image.new("I", (2, 2), -5)).tolist() == [0, 0]


def test_values_that_are_none_do_not_spoil_the_others():
    values = (RAMP / 255).astype(np.float32)
    values[1, :3] = np.nan, np.inf, -np.inf
    assert grey(Image.fromarray(values)).tolist() == list(range(256))


def test_the_first_frame_of_an_animation_is_read():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        image = saved(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert load_image(image).getpixel((0, 0)) == (255, 0, 0), kind


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.mark.parametrize("exif", [b"junk", b"MM\0*", b"", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_a_picture_with_broken_exif_is_still_a_picture(exif, tmp_path):
    content = encoded(Image.new("RGB", (4, 2), "red"))
    (tmp_path / "a.png").write_bytes(content[:33] + chunk(b"eXIf", exif) + content[33:])
    assert load_image(tmp_path / "a.png").getcolors() == [(8, (255, 0, 0))]


def test_too_many_pixels_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(bomb + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(MessageError, match=r"bomb\.png has 9000 x 9000 pixels, more than 40,000,000: make it smaller"):
        load_image(tmp_path / "bomb.png")
    large = Image.new("L", (100, 100))
    with pytest.raises(MessageError, match="that was given has 100 x 100 pixels, more than 9,999"):
        load_image(large, max_pixels=9_999)
    # Pillow's own warning is no second line beside ours, and no obstacle where the limit is higher.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        url = "data:image/png;base64," + base64.b64encode(encoded(large)).decode()
        assert load_image(url, max_pixels=10_000).size == (100, 100)


def test_the_limit_is_an_option_of_the_model():
    vlm = VLM(tiny_vlm().model, tiny_vlm().processor, "tiny", ReadingOptions(max_image_pixels=50))
    picture = {"type": "image", "image": Image.new("RGB", (8, 8))}
    with pytest.raises(MessageError, match=r"messages\[0\]\.content\[0\]: the image that was given has 8 x 8 pixels"):
        vlm.encode([[{"role": "user", "content": [picture]}]])


@pytest.mark.parametrize("kind", ["EPS", "PCX", "PDF"])
def test_formats_that_are_not_listed_are_not_opened(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    path = tmp_path / "picture.png"
    Image.new("RGB", (4, 4)).save(path, kind)
    with pytest.raises(MessageError, match=r"picture\.png: it is none, or of a format other than PNG, JPEG"):
        load_image(path)
    if kind != "PDF":  # which Pillow only writes
        with Image.open(path) as opened, pytest.raises(MessageError, match=f"{kind} is not read; known: PNG"):
            load_image(opened)


def test_the_formats_that_are_listed_are_known_to_pillow():
    Image.init()
    assert set(FORMATS) <= {*Image.OPEN, "MPO"}  # which is a JPEG that goes on


def test_what_is_not_a_file_is_refused_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, "/dev/zero"):
        with pytest.raises(MessageError, match="it is not a file"):
            load_image(path)


def test_file_urls_are_percent_decoded(tmp_path):
    path = tmp_path / "100 % é#?.png"
    Image.new("RGB", (4, 2)).save(path)
    quoted = str(path).replace("%", "%25").replace(" ", "%20").replace("é", "%C3%A9").replace("#", "%23")
    for url in (path.as_uri(), f"file://{quoted}", f"file://localhost{quoted}", f"file:{quoted}"):
        assert load_image(url).size == (4, 2), url
    assert load_image(str(path)).size == (4, 2)  # a plain path is taken as it is


def test_base64_may_be_wrapped():
    wrapped = base64.encodebytes(encoded(Image.effect_noise((30, 30), 50))).decode().replace("\n", "\r\n ")
    quoted = wrapped.replace("+", "%2B").replace("=", "%3D")
    for url in (f"data:image/png;base64,{wrapped}", f"DATA:image/png;charset=utf-8;BASE64,{quoted}"):
        assert load_image(url).size == (30, 30)


def test_what_is_rgb_already_keeps_its_pixels():
    noise = Image.effect_noise((9, 9), 90).convert("RGB")
    assert to_rgb(noise).tobytes() == noise.tobytes() == load_image(noise).tobytes()
