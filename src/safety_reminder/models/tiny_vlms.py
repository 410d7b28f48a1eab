"""Tiny checkpoints of the families that see, with a processor of their own kind, as ``from_pretrained`` loads them.

``load_vlm(str(tiny_vlm_checkpoint("qwen2_vl", folder)))`` reads real images through transformers' own code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safety_reminder.errors import ModelError, unknown_name
from safety_reminder.models.families import FAMILIES
from safety_reminder.models.tiny import byte_tokenizer, random_model

_TEMPLATE = (
    "{{% for m in messages %}}[{{{{ m['role'] }}}}]"
    "{{% if m['content'] is string %}}{{{{ m['content'] }}}}{{% else %}}{{% for p in m['content'] %}}"
    "{{% if p['type'] == 'image' %}}{image}{{% else %}}{{{{ p['text'] }}}}{{% endif %}}{{% endfor %}}{{% endif %}}"
    "{{% endfor %}}{{% if add_generation_prompt %}}[assistant]{{% endif %}}"
)


# Those whose images attacks are tried on.
TINY_VLMS = tuple(name for name, family in FAMILIES.items() if family.held_to_all and family.reads_images)


def tiny_vlm_checkpoint(family: str, folder: str | Path, *, seed: int = 0) -> Path:
    """Save a tiny random model of ``family``, a row of ``FAMILIES``, with its kind of processor and a byte tokenizer.

    The global random state is left as it was.
    """
    known = {name: row for name, row in FAMILIES.items() if row.where and row.reads_images}
    if family not in known:
        raise ModelError(unknown_name("tiny family that sees", family, known))
    tiny, folder = known[family].tiny, Path(folder)
    kind = tiny.checkpoint
    if kind is None:
        raise ModelError(f"no tiny processor is written for {family}")
    folder.mkdir(parents=True, exist_ok=True)
    template = _TEMPLATE.format(image=kind.image)
    more: dict[str, Any] = {**kind.options, **({"extra_special_tokens": kind.names} if kind.names else {})}
    tokenizer = byte_tokenizer(kind.special, template, **more)
    tokenizer.save_pretrained(folder)
    config = tiny.config()
    for name, token in kind.ids.items():
        setattr(config, name, tokenizer.convert_tokens_to_ids(token))
    config.get_text_config().vocab_size = len(tokenizer)
    model = random_model(config, seed=seed)
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    kinds = {"image_processor_type": kind.image_processor, "processor_class": kind.processor}
    (folder / "preprocessor_config.json").write_text(json.dumps({**kind.pixels, **kinds}))
    processing = {**kind.processing, "processor_class": kind.processor}
    (folder / "processor_config.json").write_text(json.dumps(processing))
    return folder
