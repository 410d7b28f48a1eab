"""Short texts written greedily, whatever the checkpoint's own generation settings say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig


@torch.inference_mode()
def write_greedily(
    model: Any, tokenizer: Any, inputs: Mapping[str, Any], *, max_new_tokens: int, logits: bool = False
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
    """What the model writes after left-padded ``inputs``, which may be on another device and in another precision.

    Returns:
        Token ids (batch, new tokens), padded at the end; and, if asked for, the logits (batch, vocabulary) that each
        new token was chosen from.
    """
    device, dtype = model.device, model.dtype
    tensors = {
        key: value.to(device, dtype) if value.is_floating_point() else value.to(device)
        for key, value in inputs.items()
        if isinstance(value, torch.Tensor)
    }
    eos = model.generation_config.eos_token_id
    # Of the checkpoint's own settings only the end counts.
    config = GenerationConfig(
        do_sample=False,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        max_new_tokens=max_new_tokens,
        max_length=None,
        eos_token_id=tokenizer.eos_token_id if eos is None else eos,
        pad_token_id=tokenizer.pad_token_id,
        output_logits=logits,
        return_dict_in_generate=True,
    )
    out: Any = model.generate(**tensors, generation_config=config)
    return out.sequences[:, tensors["input_ids"].shape[1] :], out.logits if logits else None
