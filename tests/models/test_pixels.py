"""What a processor does to an image, read off it: the same values, and a gradient that is theirs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from attacks.families import tiny_vlm
from safety_reminder.errors import ConfigError, ModelError
from safety_reminder.models import load_vlm
from safety_reminder.models.pixels import Pixels, from_pil, to_pil
from safety_reminder.models.tiny import tiny_checkpoint
from safety_reminder.models.tiny_vlms import TINY_VLMS

RESAMPLED = {"idefics3"}  # whose overview is


def encoded(vlm, image):
    content = [{"type": "image", "image": to_pil(image)}, {"type": "text", "text": "What is it?"}]
    return vlm.encode([[{"role": "user", "content": content}]])


def noise(size, seed=0):
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", TINY_VLMS)
def test_values_are_those_of_the_processor_for_the_saved_image(family):
    vlm = tiny_vlm(family)
    pixels = Pixels(vlm)
    assert pixels.exact == (family not in RESAMPLED)
    for seed in range(3):
        image = noise(pixels.size, seed)
        real = encoded(vlm, image)
        for name, values in pixels(image).items():
            torch.testing.assert_close(values, real[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", TINY_VLMS)
def test_the_gradient_of_each_value_is_what_it_changes_by(family):
    pixels = Pixels(tiny_vlm(family))
    weights = {name: torch.randn(v.shape, generator=torch.Generator().manual_seed(1)) for name, v in
               pixels(noise(pixels.size)).items()}  # fmt: skip

    def total(image):
        return torch.stack([(v * weights[name]).sum() for name, v in pixels(image).items()]).sum()

    image = ((noise(pixels.size) * 0.5 + 0.25) * 255).round().div(255).requires_grad_()
    (gradient,) = torch.autograd.grad(total(image), [image])
    # Steps of whole grey levels, large ones, so that an overview's rounding does not count.
    direction = torch.randint(-20, 21, image.shape, generator=torch.Generator().manual_seed(2)) / 255
    with torch.no_grad():
        change = total(image + direction) - total(image - direction)
    expected = 2 * (gradient * direction).sum()
    scale = 2 * (gradient * direction).abs().sum()
    assert abs(float(change - expected)) < (1e-2 if family in RESAMPLED else 1e-4) * float(scale)


@pytest.mark.parametrize("resample", list(Image.Resampling))
@pytest.mark.parametrize("size", [(24, 31), (5, 9)])
def test_a_whole_image_that_is_resampled_is_known_too(resample, size, tmp_path):
    tiny_checkpoint("llava", tmp_path)
    vlm = load_vlm(str(tmp_path), device="cpu")
    vlm.processor.image_processor.resample = resample
    vlm.processor.image_processor.size = {"height": 8, "width": 8}
    vlm.processor.image_processor.do_center_crop = False
    pixels = Pixels(vlm, size)
    image = noise(size).requires_grad_()
    [values] = pixels(image).values()
    torch.testing.assert_close(values.detach(), encoded(vlm, image)["pixel_values"], atol=1e-6, rtol=1e-6)
    assert torch.autograd.grad(values.sum(), [image])[0].any()


def test_what_is_cut_and_resampled_at_once_is_refused_with_a_size_that_is_not(tmp_path):
    tiny_checkpoint("llava", tmp_path)
    vlm = load_vlm(str(tmp_path), device="cpu")  # the short edge to 8, then the middle 8 × 8
    with pytest.raises(ConfigError, match=r"of 20 × 31 pixels .*; it takes 8 × 8"):
        Pixels(vlm, (20, 31))


def test_a_model_without_eyes_is_refused(tmp_path):
    tiny_checkpoint("llama", tmp_path)
    with pytest.raises(ModelError, match="reads no images"):
        Pixels(load_vlm(str(tmp_path), device="cpu"))


def test_images_go_to_eight_bits_and_back():
    levels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = from_pil(Image.fromarray(levels))
    assert image.shape == (3, 5, 7)
    assert (np.asarray(to_pil(image)) == levels).all()
    assert (np.asarray(to_pil(image + 0.4 / 255)) == levels).all()


def test_an_image_of_another_shape_is_refused():
    pixels = Pixels(tiny_vlm("llava"))
    with pytest.raises(ValueError, match=r"\(3, 8, 8\)"):
        pixels(torch.rand(3, 8, 9))
