"""Loading a model, or one clear line that says why not; and telling one base model from another."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import T5Config

from checkpoints import tiny_vlm
from safety_reminder.errors import ConfigError, MessageError, ModelError
from safety_reminder.models import fingerprint, fingerprint_mismatch, load_vlm
from safety_reminder.models.tiny import tiny_checkpoint, tiny_model

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def refusal(name: str, **options) -> str:
    with pytest.raises(ModelError) as caught:
        load_vlm(str(name), **{"device": "cpu", **options})
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize("name", ["/no/such/folder", "./gone", "~/gone-model", "a/b/c"])
def test_a_folder_that_is_not_there(name):
    assert refusal(name).startswith(f"no model at {name!r}: expected 'pocket', a folder, or a hub id")


def test_a_name_that_is_not_known():
    assert refusal("pockett").startswith("unknown model 'pockett': expected 'pocket'")


def test_a_folder_without_a_model(tmp_path):
    assert refusal(tmp_path) == f"{tmp_path} is not a model folder: it has no config.json"


def test_a_file_in_place_of_a_folder(tmp_path):
    (tmp_path / "model").write_text("")
    assert refusal(tmp_path / "model").startswith("no model at")


def test_a_hub_id_that_cannot_be_had_offline():
    assert refusal("nobody/nothing-of-this-name").startswith("cannot load the model 'nobody/nothing-of-this-name'")


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", json.dumps({"model_type": "no-such-family"}), json.dumps({"model_type": "clip"})]
)
def test_a_config_that_cannot_be_used(copy, text):
    (copy / "config.json").write_text(text)
    assert refusal(copy).startswith(f"cannot load the model {str(copy)!r}")


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"vocab_size": "many"}),
        ("config.json", {"num_attention_heads": 0}),
        ("tokenizer_config.json", None),
        ("generation_config.json", None),
    ],
)
def test_files_of_a_checkpoint_that_hold_something_else(copy, file, changes):
    known = json.loads((copy / file).read_text())
    text = known.get("text_config", known)
    (copy / file).write_text(json.dumps([] if changes is None else known | {"text_config": text | changes} | changes))
    assert refusal(copy).startswith("cannot load the model")


def test_code_that_a_checkpoint_brings_along_is_not_run(copy, monkeypatch):
    (copy / "code.py").write_text("raise SystemExit('run')\n")
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}
    (copy / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    assert "needs code of its own, which is not run" in refusal(copy)


@pytest.mark.parametrize("keep", [0, 100])
def test_weights_that_are_damaged(copy, keep):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert refusal(copy).startswith("cannot load the model")


def test_weights_or_tokenizer_that_are_missing(copy):
    (copy / "model.safetensors").unlink()
    assert refusal(copy) == f"{copy} is not a model folder: it has no weights (model.safetensors)"


def test_weights_of_another_shape(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    assert refusal(copy).startswith("cannot load the model")


def test_an_encoder_decoder_model(copy):
    T5Config(d_model=8, num_layers=1).save_pretrained(copy)
    assert refusal(copy).endswith("is an encoder-decoder model; only decoder-only models can be guarded")


def test_a_device_that_does_not_exist(folder):
    assert refusal(folder, device="abacus").startswith("cannot load the model")


def test_a_precision_that_does_not_exist(folder):
    with pytest.raises(ConfigError, match="unknown dtype 'bfloat'; did you mean 'bfloat16'"):
        load_vlm(str(folder), dtype="bfloat")


def test_a_model_from_a_folder_answers_to_its_name(folder):
    vlm = load_vlm(str(folder), device="cpu", dtype="bfloat16")
    assert (vlm.name, vlm.family.title, vlm.hidden_size) == (str(folder), "Llama", 32)
    assert vlm.model.dtype == torch.bfloat16
    assert not vlm.model.training
    assert vlm.eos_ids == frozenset([1])


def test_images_come_in_the_precision_of_the_model():
    vlm = tiny_vlm()
    content = [{"type": "image", "image": Image.new("RGB", (8, 8))}, {"type": "text", "text": "Hello"}]
    inputs = vlm.encode([[{"role": "user", "content": content}]])
    assert inputs["pixel_values"].dtype == vlm.model.dtype
    assert inputs["input_ids"].dtype == torch.long


def test_a_model_that_reads_text_only_refuses_an_image():
    content = [{"type": "image", "image": Image.new("RGB", (8, 8))}]
    with pytest.raises(MessageError, match=r"messages\[0\] has an image, but this model reads text only"):
        tiny_vlm("llama").encode([[{"role": "user", "content": content}]])


def test_shorter_conversations_of_a_batch_are_padded_on_the_left():
    vlm = tiny_vlm("llama")
    short, long = vlm.encode([HELLO])["input_ids"], [{"role": "user", "content": "Hello, hello, hello"}]
    inputs = vlm.encode([HELLO, long])
    assert inputs["attention_mask"][0].sum() == short.shape[1] < inputs["input_ids"].shape[1]
    assert torch.equal(inputs["input_ids"][0, -short.shape[1] :], short[0])


@pytest.mark.parametrize("family", ["llava", "llama", "gemma3"])
def test_a_copy_in_lower_precision_is_the_same_base(family):
    stored = fingerprint(tiny_model(family))
    assert fingerprint_mismatch(stored, tiny_model(family)) is None
    rounded: Any = tiny_model(family)
    rounded.to(torch.bfloat16)
    assert fingerprint_mismatch(stored, rounded) is None
    assert fingerprint_mismatch(fingerprint(rounded), tiny_model(family)) is None


def test_a_fingerprint_survives_json():
    stored = json.loads(json.dumps(fingerprint(tiny_model("llava"))))
    assert fingerprint_mismatch(stored, tiny_model("llava")) is None


def test_other_weights_are_another_base():
    stored = fingerprint(tiny_model("llava"))
    assert "its weights differ" in str(fingerprint_mismatch(stored, tiny_model("llava", seed=1)))


@pytest.mark.parametrize("part", ["embed_tokens", "layers.1.self_attn.v_proj", "layers.1.mlp", "layers.2.self_attn"])
@pytest.mark.parametrize("family", ["llama", "llava", "qwen2_vl"])
def test_a_fine_tuned_decoder_is_another_base(family, part):
    stored = fingerprint(tiny_model(family))
    model = tiny_model(family)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if part in name and weight.ndim == 2 and "vision" not in name and "visual" not in name:
                weight += 0.01 * weight.std() * torch.randn(weight.shape, generator=generator)
    assert "its weights differ" in str(fingerprint_mismatch(stored, model))


def test_another_architecture_and_another_size_are_named():
    stored = fingerprint(tiny_model("llava"))
    assert "its architecture should be LlavaForConditionalGeneration" in str(
        fingerprint_mismatch(stored, tiny_model("llama"))
    )
    assert "its parameters should be" in str(fingerprint_mismatch(stored | {"parameters": 1}, tiny_model("llava")))
    projections = {**stored["projections"], "gone.weight": [1.0] * 9}
    assert "it has no weight gone.weight" in str(
        fingerprint_mismatch(stored | {"projections": projections}, tiny_model("llava"))
    )


def test_a_pack_without_a_fingerprint_fits_any_base():
    assert fingerprint_mismatch({}, tiny_model("llama")) is None
