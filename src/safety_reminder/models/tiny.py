"""Tiny random-weight models of the real classes, for tests and benchmarks: no download, milliseconds a call.

``tiny_model("qwen2_vl")`` builds one, ``tiny_inputs(model, ...)`` a left-padded batch for it, images included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    CLIPImageProcessorPil,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from safety_reminder.errors import ModelError, unknown_name
from safety_reminder.models.families import FAMILIES, Family
from safety_reminder.models.loading import LOADERS
from safety_reminder.models.tiny_families.base import BOS, EOS, PAD

_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}]"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
_NAMED = "tiny/"  # what a tiny model says it was loaded from: its row in the table

# The families that the tests hold to every invariant.
TINY: dict[str, Callable[[], PreTrainedConfig]] = {
    name: lambda family=family: family.tiny.config() for name, family in FAMILIES.items() if family.held_to_all
}


def tiny_model(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A random model of ``family`` (a row of ``FAMILIES``), hidden size 32, 128 token ids, in eval mode.

    The global random state is left as it was.
    """
    model = random_model(_row(family).tiny.config(), seed=seed, dtype=dtype)
    model.config.name_or_path = model.name_or_path = f"{_NAMED}{family}"
    model.generation_config.eos_token_id = EOS
    model.generation_config.pad_token_id = PAD
    model.generation_config.bos_token_id = BOS
    return model


def random_model(config: PreTrainedConfig, *, seed: int, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """In eval mode; the global random state is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _, loader = LOADERS[type(config) in MODEL_FOR_MULTIMODAL_LM_MAPPING]
        model = loader.from_config(config, dtype=dtype)
        open_gates(model)
    return model.eval()


def _row(family: str) -> Family:
    if family not in FAMILIES:
        raise ModelError(unknown_name("tiny family", family, FAMILIES))
    return FAMILIES[family]


@torch.no_grad()
def open_gates(model: PreTrainedModel) -> None:
    """Some families begin with a projection or a gate of zeros, behind which a random model would not see its
    images."""
    for name, parameter in model.named_parameters():
        if (parameter.ndim > 1 or name.endswith("gate")) and not parameter.any():
            parameter.normal_(std=0.2 if parameter.ndim > 1 else 1.0)


def tiny_inputs(model: PreTrainedModel, lengths: Sequence[int] = (9,), *, seed: int = 0) -> dict[str, torch.Tensor]:
    """A left-padded batch: row i has an image of its own (where the model sees) and ``lengths[i]`` text tokens.

    Row i depends on ``seed + i`` and its length alone, so a row can be had by itself.
    """
    named = str(model.config.name_or_path)
    name = named.removeprefix(_NAMED) if named.startswith(_NAMED) else model.config.model_type
    tiny = _row(name).tiny
    rows, pixels = [], []
    for i, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(seed + i)
        text = torch.randint(3, 110, (length,), generator=generator).tolist()
        rows.append([*text[: length // 2], *tiny.image, *text[length // 2 :]])
        pixels.append(torch.randn(tiny.noise, generator=generator))
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask}
    return inputs if tiny.tensors is None else inputs | tiny.tensors(ids, torch.stack(pixels).to(model.dtype))


def byte_tokenizer(special: Sequence[str], template: str, **options: Any) -> PreTrainedTokenizerFast:
    """One token for each byte, after ``<pad>`` (0), ``<|end|>`` (1, the end of sequence) and ``special``."""
    ours = ["<pad>", "<|end|>", *special]
    vocabulary = {token: i for i, token in enumerate([*ours, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<|end|>",
        additional_special_tokens=list(special),
        chat_template=template,
        **options,
    )


def tiny_checkpoint(family: str, folder: str | Path, *, seed: int = 0) -> Path:
    """Save a tiny model with a byte-level tokenizer, and for ``llava`` a processor, as ``from_pretrained`` loads them.

    Args:
        family: ``llava`` or ``llama``.
    """
    if family not in ("llava", "llama"):
        raise ModelError(unknown_name("tiny checkpoint", family, ("llava", "llama")))
    tokenizer = byte_tokenizer(["<s>", "<image>"], _TEMPLATE, bos_token="<s>", padding_side="left")
    tokenizer.image_token = "<image>"
    tokenizer.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    config = FAMILIES[family].tiny.config()
    config.get_text_config().vocab_size = len(tokenizer)
    if family == "llava":
        config.image_token_index = tokenizer.image_token_id
    model = random_model(config, seed=seed)
    model.generation_config.update(eos_token_id=1, pad_token_id=0, bos_token_id=2)
    model.save_pretrained(folder)
    if family == "llava":
        processor = LlavaProcessor(
            image_processor=CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}),
            tokenizer=tokenizer,
            patch_size=4,
            vision_feature_select_strategy="default",
            image_token="<image>",
            num_additional_image_tokens=1,
            chat_template=_TEMPLATE,
        )
        processor.save_pretrained(folder)
    else:
        tokenizer.save_pretrained(folder)
    return Path(folder)
