"""Checkpoints of every family that sees, as `from_pretrained` loads them, with the processors of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText
from transformers.utils import is_torchvision_available

from checkpoints import random_reminder
from safety_reminder.config.reading import ReadingOptions
from safety_reminder.errors import DataError, ModelError
from safety_reminder.guard import GuardedVLM
from safety_reminder.models import VLM, load_vlm, open_vlm
from safety_reminder.models.families import FAMILIES as ROWS
from safety_reminder.models.processors import limit_pixels
from safety_reminder.models.tiny import TINY, byte_tokenizer
from safety_reminder.models.tiny_vlms import tiny_vlm_checkpoint
from safety_reminder.training import TrainingConfig
from safety_reminder.training.samples import make_samples
from safety_reminder.types import TrainingExample

# Of each family: image processor, processor, tokens of its own, and how its tokenizer calls them.
FAMILIES = {
    "llava": ("CLIPImageProcessor", "LlavaProcessor", ["<image>"], {}),
    "qwen2_vl": ("Qwen2VLImageProcessor", "Qwen2VLProcessor", ["<|image_pad|>", "<|video_pad|>"], {}),
    "qwen2_5_vl": ("Qwen2VLImageProcessor", "Qwen2_5_VLProcessor", ["<|image_pad|>", "<|video_pad|>"], {}),
    "deepseek_vl": (
        "DeepseekVLImageProcessor", "DeepseekVLProcessor", ["<image_placeholder>"],
        {"image_token": "<image_placeholder>"},
    ),
    "internvl": (
        "GotOcr2ImageProcessor", "InternVLProcessor", ["<IMG_CONTEXT>", "<img>", "</img>", "<video>"],
        {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
         "video_token": "<video>"},
    ),
    "idefics3": (
        "Idefics3ImageProcessor", "Idefics3Processor",
        ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"], {},
    ),
    "smolvlm": (
        "SmolVLMImageProcessor", "SmolVLMProcessor",
        ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"], {},
    ),
    "gemma3": (
        "Gemma3ImageProcessor", "Gemma3Processor", ["<start_of_image>", "<end_of_image>", "<image_soft_token>"],
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
    ),
}  # fmt: skip
QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_of_the_family_loads_with_its_own_processor(family, tmp_path):
    image_processor, processor, special, names = FAMILIES[family]
    byte_tokenizer(special, "x", **({"extra_special_tokens": names} if names else {})).save_pretrained(tmp_path)
    AutoModelForImageTextToText.from_config(TINY[family]()).save_pretrained(tmp_path)
    kinds = {"image_processor_type": image_processor, "processor_class": processor}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(kinds))
    vlm = load_vlm(str(tmp_path), device="cpu")
    assert type(vlm.processor).__name__ == processor
    assert type(vlm.processor.image_processor).__name__.startswith(image_processor)
    assert vlm.model.config.model_type == family


def picture(width: int, height: int) -> dict:
    return {"type": "image", "image": Image.new("RGB", (width, height), (width, height, 99))}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


CONVERSATIONS = [
    [{"role": "user", "content": [picture(16, 8), text("hello")]}],
    [{"role": "user", "content": "no image"}],
    [{"role": "user", "content": [picture(32, 8), text("two"), picture(8, 24), text("images, and more text")]}],
]


QWEN_SPECIAL = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def qwen(family: str, folder: Path) -> VLM:
    tokenizer = byte_tokenizer(QWEN_SPECIAL, QWEN_TEMPLATE)
    tokenizer.save_pretrained(folder)
    vocabulary = tokenizer.get_vocab()
    config = TINY[family]()
    config.text_config.vocab_size = len(vocabulary)
    config.image_token_id, config.video_token_id = vocabulary["<|image_pad|>"], vocabulary["<|video_pad|>"]
    config.vision_start_token_id = vocabulary["<|vision_start|>"]
    config.vision_end_token_id = vocabulary["<|vision_end|>"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
    model.generation_config.update(eos_token_id=1, pad_token_id=0)
    model.save_pretrained(folder)
    sizes = {"min_pixels": 64, "max_pixels": 1024, "patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    kinds = {"image_processor_type": FAMILIES[family][0], "processor_class": FAMILIES[family][1]}
    (folder / "preprocessor_config.json").write_text(json.dumps(sizes | kinds))
    return load_vlm(str(folder), device="cpu")


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_images_of_any_size_and_number_answer_in_a_batch_as_they_do_alone(family, tmp_path):
    vlm = qwen(family, tmp_path)
    guarded = GuardedVLM(vlm, random_reminder(), interval=4, threshold=0.5)
    # A random model would now and then say that an image follows.
    suppressed = vlm.tokenizer.convert_tokens_to_ids(QWEN_SPECIAL)
    options = {"max_new_tokens": 12, "do_sample": False, "suppress_tokens": suppressed}
    for policy in ("rewind", "continue"):
        together = guarded.generate_batch(CONVERSATIONS, policy=policy, **options)
        alone = [guarded.generate(messages, policy=policy, **options) for messages in CONVERSATIONS]
        assert [r.token_ids for r in together] == [r.token_ids for r in alone]
        assert any(r.interventions for r in alone)
    for messages in CONVERSATIONS:
        inputs = vlm.encode([messages])
        expected = vlm.model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :].tolist()
        assert list(guarded.generate(messages, guard=False, **options).token_ids) == expected


def test_a_training_row_whose_image_the_processor_refuses_is_found_before_training_or_left_out(tmp_path, caplog):
    vlm = qwen("qwen2_vl", tmp_path)
    rows = [
        TrainingExample(({"role": "user", "content": [picture(2400, 8)]},), True, "a"),
        TrainingExample(({"role": "user", "content": "p"},), True, "a"),
    ]
    with pytest.raises(DataError, match=r"training row 1, .*does not take this conversation: .*aspect ratio"):
        make_samples(vlm, rows, TrainingConfig())
    [left] = make_samples(vlm, rows, TrainingConfig().with_changes(on_error="skip"))
    assert left.example is rows[1]
    assert "left out: training row 1" in caplog.text


@pytest.mark.skipif(is_torchvision_available(), reason="about an installation without torchvision")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("mistral3", "Pixtral"), ("llama4", "Llama4"), ("phi4_multimodal", "Phi4Multimodal"), ("lfm2_vl", "Lfm2Vl")],
)
def test_an_image_processor_that_needs_torchvision_says_so_before_weights_are_read(name, kind, tmp_path):
    ROWS[name].tiny.config().save_pretrained(tmp_path)
    byte_tokenizer([], "x").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    kinds = {"image_processor_type": f"{kind}ImageProcessor", "processor_class": f"{kind}Processor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(kinds))
    with pytest.raises(ModelError, match=f"model type '{name}' needs torchvision, which is not installed; install the"):
        load_vlm(str(tmp_path), device="cpu")


@pytest.mark.parametrize("name", ["llava_onevision", "gemma4"])
def test_a_family_with_videos_or_sound_reads_images_without_what_those_need(name, tmp_path):
    vlm = load_vlm(str(tiny_vlm_checkpoint(name, tmp_path)), device="cpu")
    with_image, without = (vlm.encode([conversation]) for conversation in CONVERSATIONS[:2])
    assert "pixel_values" in with_image
    assert "pixel_values" not in without


def test_images_are_scaled_between_limits_of_pixels_where_the_processor_has_them(tmp_path):
    folder = str(tiny_vlm_checkpoint("qwen2_vl", tmp_path))
    image = Image.new("RGB", (64, 64))
    messages: list[Any] = [[{"role": "user", "content": [{"type": "image", "image": image}]}]]

    def pixels(**limits: Any) -> int:
        vlm = open_vlm(folder, device="cpu", reading=ReadingOptions.parse(limits))
        return int(vlm.encode(messages)["image_grid_thw"].prod()) * vlm.processor.image_processor.patch_size**2

    own = pixels()
    assert pixels(max_pixels=own // 2) <= own // 2 < own
    assert own < pixels(min_pixels=2 * own, max_pixels=4 * own) <= 4 * own
    with pytest.raises(ModelError, match="min_pixels=100000000 is above max_pixels="):
        pixels(min_pixels=10**8)
    edges = SimpleNamespace(size={"shortest_edge": 8, "longest_edge": 9})  # which are no pixels, though called alike
    with pytest.raises(ModelError, match="has no limits of pixels"):
        limit_pixels(SimpleNamespace(image_processor=edges), 5, None, "x")
