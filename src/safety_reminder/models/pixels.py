"""From an image's pixels to what the model takes, differentiably, and as its own processor does it.

A processor cuts, resamples, normalises and reorders an image, in code that has no gradient. What it does is *read off*
it. At a size at which it resamples nothing, every number that it gives is one channel of one pixel, scaled and shifted:
six probe images tell which, and by how much. Where it also gives an overview, that is the whole image resampled, by
Pillow's kernels: those are two matrices. Whatever was read off is checked on an image of noise.

The values are always those of the image as it will be saved, in eight bits a channel; the gradient passes the rounding
straight through. So the loss that an attack reports is the loss of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from safety_reminder.errors import ConfigError, ModelError
from safety_reminder.models.images import to_rgb
from safety_reminder.models.vlm import VLM

LEVELS = 255  # grey levels above black
_EXACT = 1e-3  # of the span from black to white; a grey level is 3.9e-3
_NEAR = 4.0  # grey levels by which a resampled overview may differ from Pillow's: torchvision rounds otherwise
_LARGEST = 4096  # pixels a side that are tried
_COMMON = 336  # about as wide as models are shown pictures that they take in any size


@dataclass(frozen=True)
class _Overview:
    """A part of the values that holds the whole image, resampled. ``begin``: its first place; ``shape``: (channels,
    height, width) of the part; ``top``, ``left``: where the picture begins in it; ``rows`` (h, height) and ``columns``
    (w, width): Pillow's kernels."""

    begin: int
    shape: tuple[int, int, int]
    top: int
    left: int
    rows: Tensor
    columns: Tensor


@dataclass(frozen=True)
class _Map:
    """How one of the processor's outputs comes from the image: ``offset + scale * image.flatten()[source]``, each (n,);
    ``scale`` is 0 where the image has no part. ``overviews`` give the other places."""

    shape: tuple[int, ...]
    source: Tensor
    scale: Tensor
    offset: Tensor
    overviews: tuple[_Overview, ...]


class Pixels:
    """An image of one size, in front of one model.

    Args:
        vlm: a model that reads images.
        size: (height, width) in pixels. By default one at which the processor resamples as little as possible.

    Raises:
        ModelError: the model reads no images, or its processor does something else to them than is described above.
        ConfigError: a size at which it resamples; says which size it takes as it is.
    """

    def __init__(self, vlm: VLM, size: tuple[int, int] | None = None) -> None:
        if not vlm.family.reads_images:
            raise ModelError(f"{vlm.name} reads no images; an attack on pixels has nothing to change")
        self.vlm = vlm
        if size is not None:
            maps = _read_off(vlm, *size)
            if maps is None:
                native = _native(vlm)[0]
                raise ConfigError(
                    f"the processor of {vlm.name} cuts and resamples images of {size[0]} × {size[1]} pixels "
                    f"(height × width) in a way that has no gradient here; it takes {native[0]} × {native[1]}"
                )
            self.size, self._maps = size, maps
        else:
            self.size, self._maps = _native(vlm)

    @property
    def exact(self) -> bool:
        """Whether nothing is resampled, so that values and gradient are exactly the processor's."""
        return not any(of.overviews for of in self._maps.values())

    def __call__(self, image: Float[Tensor, "3 height width"], *, rounded: bool = True) -> dict[str, Tensor]:
        """What the processor makes of the image, by the names of the model's inputs, on the model's device and in its
        precision.

        Args:
            image: RGB in [0, 1]; the gradient reaches it.
            rounded: False: of the image as it is, not as it will be saved. Only where nothing is resampled.

        Raises:
            ValueError: an image of another shape.
        """
        if tuple(image.shape) != (3, *self.size):
            raise ValueError(
                f"expected an image of shape (3, {self.size[0]}, {self.size[1]}), got {tuple(image.shape)}"
            )
        image = image.cpu().float()
        if rounded:
            image = _straight_through(image, (image.detach() * LEVELS).round() / LEVELS)
        elif not self.exact:
            raise ValueError("where the processor resamples, it takes eight bits a channel; use rounded=True")
        values = {name: _apply(image, of) for name, of in self._maps.items()}
        if not self.exact:
            real = _processed(self.vlm, to_pil(image.detach()))
            values = {name: _straight_through(value, real[name]) for name, value in values.items()}
        model = self.vlm.model
        return {name: value.to(model.device, model.dtype) for name, value in values.items()}


def to_pil(image: Float[Tensor, "3 height width"]) -> Image.Image:
    """RGB in [0, 1] → eight bits a channel."""
    levels = (image.detach().cpu().clamp(0, 1) * LEVELS).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy(), "RGB")


def from_pil(image: Image.Image) -> Float[Tensor, "3 height width"]:
    """RGB in [0, 1]."""
    return torch.from_numpy(np.asarray(to_rgb(image), dtype=np.float32).copy()).permute(2, 0, 1) / LEVELS


def _straight_through(value: Tensor, real: Tensor) -> Tensor:
    """``real``, with the gradient of ``value``."""
    return value + (real - value).detach()


def _processed(vlm: VLM, image: Image.Image) -> dict[str, Tensor]:
    """What the processor gives for one conversation with this image, as floating point."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": "."}]
    inputs = vlm.process([[{"role": "user", "content": content}]])
    return {name: value.float() for name, value in inputs.items() if value.is_floating_point()}


def _apply(image: Tensor, of: _Map) -> Tensor:
    values = of.offset + of.scale * image.flatten()[of.source]
    for overview in of.overviews:
        channels, height, width = overview.shape
        small = _resampled(image, overview)
        h, w = small.shape[1:]
        within = torch.zeros(channels, height, width)
        place = (slice(None), slice(overview.top, overview.top + h), slice(overview.left, overview.left + w))
        within[place] = small
        span = slice(overview.begin, overview.begin + channels * height * width)
        # The places of an overview have a scale and an offset like all others.
        values = values.index_put(
            (torch.arange(span.start, span.stop),), of.offset[span] + of.scale[span] * within.flatten()
        )
    return values.reshape(of.shape)


def _resampled(image: Tensor, overview: _Overview) -> Tensor:
    """As Pillow resamples eight bits: across, then down, rounded and clamped after each. (3, h, w) in [0, 1]."""

    def levels(value: Tensor) -> Tensor:
        return _straight_through(value, (value.detach() * LEVELS).round().clamp(0, LEVELS) / LEVELS)

    return levels(overview.rows @ levels(image @ overview.columns.T))


def _native(vlm: VLM) -> tuple[tuple[int, int], dict[str, _Map]]:
    """The size at which the processor resamples least, of those that its settings and the model's name."""
    best: tuple[tuple[int, int], dict[str, _Map]] | None = None
    for size in _candidates(vlm):
        maps = _read_off(vlm, *size)
        if maps is None:
            continue
        if not any(of.overviews for of in maps.values()):
            return size, maps
        best = best or (size, maps)
    if best is None:
        raise ModelError(
            f"the processor of {vlm.name} resamples images of every size that was tried; attacks on its pixels are not "
            "supported"
        )
    return best


def _candidates(vlm: VLM) -> Iterator[tuple[int, int]]:
    """Sizes (height, width) that may need no resampling: those that settings name, smaller ones first."""
    processor = getattr(vlm.processor, "image_processor", vlm.processor)
    vision = getattr(vlm.model.config, "vision_config", None)
    sizes: set[tuple[int, int]] = set()
    for name in ("crop_size", "size", "max_image_size"):
        sizes |= _sizes_in(getattr(processor, name, None))
    sizes |= _sizes_in(getattr(vision, "image_size", None))
    patch, merged = getattr(processor, "patch_size", None), getattr(processor, "merge_size", None)
    if isinstance(patch, int) and isinstance(merged, int):
        # What is cut into patches, which are merged into tokens, is taken in any size that they fill; limits are of
        # its area.
        least, most = (
            _area(processor, *names) for names in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge"))
        )
        side = min(max(_COMMON, math.isqrt(least or 0)), math.isqrt(most or _COMMON**2))
        side = max(side // (patch * merged), 1) * patch * merged
        sizes.add((side, side))
    yield from sorted(size for size in sizes if min(size) > 0 and max(size) <= _LARGEST)


def _area(processor: Any, name: str, edge: str) -> int | None:
    """A limit on pixels, under its old name or, in later versions of transformers, as an edge."""
    size: Any = getattr(processor, "size", None)
    return getattr(processor, name, None) or (size.get(edge) if hasattr(size, "get") else None)


def _sizes_in(value: Any) -> set[tuple[int, int]]:
    if isinstance(value, int) and not isinstance(value, bool):
        return {(value, value)}
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return {(value[0], value[1])}
    get: Any = getattr(value, "get", None)
    if get is None:
        return set()
    named = {name: get(name) for name in ("height", "width", "shortest_edge", "longest_edge")}
    sizes = {(side, side) for name in ("shortest_edge", "longest_edge") if (side := named[name])}
    return sizes | ({(named["height"], named["width"])} if named["height"] and named["width"] else set())


def _read_off(vlm: VLM, height: int, width: int) -> dict[str, _Map] | None:
    """How each output comes from an image of this size; None where it is resampled otherwise than as an overview."""

    def processed(levels: np.ndarray) -> dict[str, Tensor]:
        return _processed(vlm, Image.fromarray(levels.astype(np.uint8), "RGB"))

    def grey(levels: np.ndarray | int) -> np.ndarray:
        return np.broadcast_to(np.asarray(levels)[..., None], (height, width, 3))

    number = np.arange(height * width).reshape(height, width)
    black, white = processed(grey(np.zeros((height, width)))), processed(grey(np.full((height, width), LEVELS)))
    digits = [processed(grey(number // 256**place % 256)) for place in range(3)]
    channels = processed(np.broadcast_to(np.array([0, 128, LEVELS]), (height, width, 3)))
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    tried = processed(noise)
    image = torch.from_numpy(noise.astype(np.float32)).permute(2, 0, 1) / LEVELS
    maps: dict[str, _Map] = {}
    for name, offset in black.items():
        outputs = [white[name], *(digit[name] for digit in digits), channels[name], tried[name]]
        if any(output.shape != offset.shape for output in outputs):
            return None
        found = _one_map(vlm, offset, outputs, image)
        if found is None:
            return None
        maps[name] = found
    if not any(of.scale.any() for of in maps.values()):
        raise ModelError(f"the processor of {vlm.name} gives the same for a black and for a white image")
    return maps


def _one_map(vlm: VLM, black: Tensor, outputs: list[Tensor], image: Tensor) -> _Map | None:
    """The map of one output, from what it was for the probe images; checked on ``image``, the last of them."""
    offset = black.flatten()
    white, *digits, channels, tried = (output.flatten() for output in outputs)
    scale = white - offset
    seen = scale.abs() > 1e-6 * scale.abs().max().clamp(min=1e-6)
    scale = torch.where(seen, scale, torch.zeros_like(scale))

    def levels(output: Tensor) -> Tensor:
        return torch.where(seen, (output - offset) / scale * LEVELS, torch.zeros_like(offset))

    pixel = sum((levels(digit).round().long() * 256**place for place, digit in enumerate(digits)), torch.tensor(0))
    channel = torch.bucketize(levels(channels), torch.tensor([64.0, 192.0]))
    pixels = image[0].numel()
    source = torch.where((pixel >= 0) & (pixel < pixels), channel * pixels + pixel, torch.zeros_like(pixel))
    wrong = (offset + scale * image.flatten()[source] - tried).abs() > _EXACT * scale.abs()
    of = _Map(tuple(black.shape), source, scale, offset, ())
    if not wrong.any():
        return of
    overviews = _overviews(vlm, of, wrong, tried, image)
    return None if overviews is None else _Map(of.shape, of.source, of.scale, of.offset, overviews)


def _overviews(vlm: VLM, of: _Map, wrong: Tensor, tried: Tensor, image: Tensor) -> tuple[_Overview, ...] | None:
    """The tiles with ``wrong`` places in them, as overviews of the whole image; None if they are something else."""
    if len(of.shape) < 4 or of.shape[-3] != 3:
        return None
    height, width = of.shape[-2:]
    length = 3 * height * width
    filters = [getattr(getattr(vlm.processor, "image_processor", None), "resample", None), *Image.Resampling]
    found = []
    for begin in range(0, wrong.numel(), length):
        span = slice(begin, begin + length)
        if not wrong[span].any():
            continue
        shown = (of.scale[span].reshape(3, height, width) != 0).all(0)
        rows, columns = shown.any(1).nonzero().flatten(), shown.any(0).nonzero().flatten()
        top, left = int(rows[0]), int(columns[0])
        h, w = int(rows[-1]) - top + 1, int(columns[-1]) - left + 1
        for resample in dict.fromkeys(Image.Resampling(f) for f in filters if f is not None):
            kernels = _kernel(image.shape[1], h, resample), _kernel(image.shape[2], w, resample)
            overview = _Overview(begin, (3, height, width), top, left, *kernels)
            got = _apply(image, _Map(of.shape, of.source, of.scale, of.offset, (overview,))).flatten()[span]
            if ((got - tried[span]).abs() <= _NEAR / LEVELS * of.scale[span].abs() + 1e-6).all():
                found.append(overview)
                break
        else:
            return None
    return tuple(found)


def _kernel(before: int, after: int, resample: Image.Resampling) -> Float[Tensor, "after before"]:
    """Pillow's weights for resampling one axis: what it makes of the rows of an identity matrix."""
    identity = Image.fromarray(np.eye(before, dtype=np.float32), "F")
    return torch.from_numpy(np.asarray(identity.resize((before, after), resample)).copy())


def replaced(inputs: Mapping[str, Tensor], values: Mapping[str, Tensor], rows: int = 1) -> dict[str, Tensor]:
    """``inputs`` of so many conversations, all with the image that ``values`` are of."""
    return {**inputs, **{name: torch.cat([value] * rows) if rows > 1 else value for name, value in values.items()}}
