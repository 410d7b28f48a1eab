"""Images from files, data URLs and PIL → RGB as the models' own processors would see it.

Transparency is laid on white, as a page is; values of more than 8 bits are scaled, so that a ramp stays a ramp. What
comes may be hostile: only regular files of the listed formats are read, and no more pixels than the limit.
"""

from __future__ import annotations

import base64
import functools
import io
import os
import re
import stat
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import ExifTags, Image, ImageFile

from safety_reminder.config.reading import ReadingOptions
from safety_reminder.errors import MessageError

MAX_PIXELS = ReadingOptions().max_image_pixels
# Pillow knows more, some of which start other programs (EPS: Ghostscript) or hold no picture of their own.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")


def load_image(source: Any, *, max_pixels: int | None = MAX_PIXELS) -> Image.Image:
    """A path, ``file://`` or data URL, or PIL image → RGB, turned as its EXIF orientation says. Of an animation, the
    first frame.

    Args:
        max_pixels: larger ones are refused before they are unpacked; None: only those that Pillow refuses.

    Raises:
        MessageError: no such file, not an image, too large, or a kind of source that is not read (web addresses).
    """
    if not isinstance(source, Image.Image | str | os.PathLike):
        raise MessageError(f"an image is a path, a data URL or a PIL image, got {type(source).__name__}")
    name = "that was given" if isinstance(source, Image.Image) else str(os.fspath(source))
    short = name if len(name) <= 200 else f"{name[:60]}..."
    if name.startswith(("http://", "https://")):
        raise MessageError(f"images are not fetched from the web: download {short!r} and give its path")
    try:
        # Pillow warns of damaged tags, which are not looked at, and of large images, of which there is one line here.
        with warnings.catch_warnings(action="ignore"):
            return _read(source, name, short, max_pixels)
    except MessageError:
        raise
    except FileNotFoundError as error:
        raise MessageError(f"no image at {short}") from error
    except Image.UnidentifiedImageError as error:
        formats = ", ".join(name for name in FORMATS if name not in ("MPO", "DIB"))
        raise MessageError(f"cannot read the image {short}: it is none, or of a format other than {formats}") from error
    except Exception as error:  # files from anywhere: what Pillow raises on a damaged one is not a closed list
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__  # the file was named before
        raise MessageError(f"cannot read the image {short}: {reason}") from error


def _read(source: Any, name: str, short: str, max_pixels: int | None) -> Image.Image:
    if isinstance(source, Image.Image):
        _require_readable(source, short, max_pixels)
        return _upright(source)
    stream = _from_data_url(name) if name[:5].lower() == "data:" else _regular_file(_path(source), short)
    with Image.open(stream, formats=_formats()) as image:
        _require_readable(image, short, max_pixels)
        return _upright(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Pillow's image of any mode → RGB. What is transparent shows white behind it.

    Numbers of more than 8 bits are grey levels: of 16 bits, where they do not go beyond 65535; as they are, where they
    do not go beyond 255; between 0 and 1, floating-point ones; and otherwise from the smallest to the largest.
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_grey_levels(image)).convert("RGB")
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    if image.mode in ("RGBA", "LA", "PA") or ("transparency" in image.info and image.mode in ("1", "L", "P", "RGB")):
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def data_url(image: Image.Image) -> str:
    """The image as a PNG in a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _grey_levels(image: Image.Image) -> np.ndarray:
    """(height, width), uint8."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        levels = ((np.arange(65536) + 128) // 257).astype(np.uint8)[values]
    else:
        levels = _scaled(values.astype(np.float64), fractions=image.mode == "F").round().clip(0, 255).astype(np.uint8)
    clear = image.info.get("transparency")
    return np.where(values == clear, np.uint8(255), levels) if isinstance(clear, int) else levels


def _scaled(values: np.ndarray, *, fractions: bool) -> np.ndarray:
    """0 to 255; NaN counts as the smallest. ``fractions``: values up to 1 are shares of white."""
    finite = values[np.isfinite(values)]
    least, most = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    values = np.nan_to_num(values, nan=least, posinf=most, neginf=least)
    if least < 0 or most > 65535:
        half = most / 2 - least / 2  # of the span, which itself may be too large for a number
        return (values / 2 - least / 2) / half * 255 if half else np.zeros_like(values)
    if most > 255:
        return values / 257
    return values * 255 if fractions and most <= 1 else values


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    # Pillow's own exif_transpose writes the EXIF anew, and fails where a tag in it is malformed.
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as above; the picture itself is whole
        orientation = None
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    upright = to_rgb(image)
    return upright if turn is None else upright.transpose(turn)


def _require_readable(image: Image.Image, name: str, max_pixels: int | None) -> None:
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        raise MessageError(
            f"the image {name} has {width} x {height} pixels, more than {max_pixels:,}: make it smaller, or raise "
            "max_image_pixels"
        )
    # Of a picture that somebody else opened, and nobody has unpacked yet, the format is not known to be one of ours.
    if isinstance(image, ImageFile.ImageFile) and image.tile and image.format not in FORMATS:
        raise MessageError(f"cannot read the image {name}: {image.format} is not read; known: {', '.join(FORMATS)}")


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those that this build of Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _path(source: str | os.PathLike[Any]) -> str:
    """A path, or that of a ``file:`` URL."""
    name = os.fsdecode(source)
    if not isinstance(source, str) or not name.startswith("file:/"):
        return name
    return unquote(re.sub(r"^file:(//(localhost(?=/))?)?", "", name), errors="surrogateescape")


def _regular_file(path: str, name: str) -> str:
    """The path. Reading a named pipe waits for its writer, perhaps for ever, and a device may have no end."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise MessageError(f"cannot read the image {name}: it is not a file")
    return path


def _from_data_url(url: str) -> io.BytesIO:
    header, _, body = url.partition(",")
    if not header.lower().endswith(";base64"):
        raise MessageError("a data URL must be base64: 'data:image/png;base64,...'")
    try:
        # Mail and shell tools wrap it; URLs may have + / = percent-encoded.
        return io.BytesIO(base64.b64decode("".join(unquote(body).split()), validate=True))
    except ValueError as error:
        raise MessageError(f"the data URL is not valid base64: {error}") from error
