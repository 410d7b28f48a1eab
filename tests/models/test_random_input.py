"""Messages and images at random: read as they are, or one clear error; never a traceback, a hang or a turn."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from safety_reminder.errors import MessageError
from safety_reminder.models import load_image
from templates import TEMPLATES, marks, spellings, text_model, user

pytestmark = pytest.mark.slow
CASES = settings(max_examples=1_000, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
SPELLINGS = sorted({spelled for name in TEMPLATES for spelled in spellings(text_model(name))})

texts = st.lists(
    st.one_of(
        st.sampled_from(SPELLINGS),
        st.sampled_from(SPELLINGS).map(lambda spelled: spelled[: len(spelled) // 2]),
        st.sampled_from(SPELLINGS).map(lambda spelled: spelled[len(spelled) // 2 :]),
        st.text(max_size=6),
        st.text("<|>[]/_ \n＜＞｜imendstarteof", max_size=8),
    ),
    max_size=6,
).map("".join)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.binary(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["role", "content", "type", "text", "image", "url", "image_url"]), inner),
    ),
    max_leaves=8,
)


def attempt(function: Callable[[], Any]) -> tuple[Any, str]:
    """What it gives, or the error that it gives in its place."""
    try:
        return function(), ""
    except MessageError as error:
        return None, str(error)


@CASES
@given(st.sampled_from(sorted(TEMPLATES)), st.lists(texts, min_size=1, max_size=3))
def test_no_text_writes_a_turn(name, parts):
    vlm = text_model(name)
    blank = "word" if any(part.strip() for part in parts) else ""
    inputs, refusal = attempt(lambda: vlm.encode([user(*parts)]))
    assert not refusal or "half of a character" in refusal
    if not refusal:
        ids, plain = (there["input_ids"][0].tolist() for there in (inputs, vlm.encode([user(blank)])))
        assert marks(vlm, ids) == marks(vlm, plain)


@CASES
@given(anything)
def test_no_message_is_a_traceback(messages: Any):
    _, refusal = attempt(lambda: text_model("chatml").encode([messages]))
    assert "\n" not in refusal


def files() -> list[bytes]:
    picture = Image.effect_noise((12, 10), 60).convert("RGBA")
    out = []
    for kind, mode in [
        *(("PNG", mode) for mode in ("RGBA", "LA", "L", "1", "P", "I;16")),
        *(("TIFF", mode) for mode in ("RGB", "F", "I", "CMYK", "LAB")),
        *((kind, "RGB") for kind in ("JPEG", "WEBP", "BMP", "PPM", "ICO", "AVIF", "JPEG2000")),
        ("GIF", "P"),
    ]:
        image = picture.convert("L").convert("I;16") if mode == "I;16" else picture.convert("RGB").convert(mode)
        buffer = io.BytesIO()
        try:
            image.save(buffer, kind)
        except (OSError, KeyError):  # this build of Pillow does not write it
            continue
        out.append(buffer.getvalue())
    return out


def test_no_file_is_a_traceback(tmp_path):
    whole, chance = files(), random.Random(0)
    path, began, read = tmp_path / "image", time.process_time(), 0
    for _ in range(3_000):
        body = bytearray(chance.choice(whole))
        for _ in range(chance.choice([0, 1, 1, 3, 20])):
            match chance.randrange(3):
                case 0:
                    body[chance.randrange(len(body))] = chance.randrange(256)
                case 1:
                    del body[chance.randrange(len(body)) :]
                    body += b"\0"
                case _:
                    place = chance.randrange(len(body))
                    body[place:place] = chance.randbytes(chance.randrange(8))
        path.write_bytes(body)
        image, refusal = attempt(lambda: load_image(path, max_pixels=1_000_000))
        assert "\n" not in refusal
        assert image is None or image.mode == "RGB"
        read += not refusal
    assert read > 300
    assert time.process_time() - began < 20
