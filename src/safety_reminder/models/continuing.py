"""Answers that somebody else began: a conversation whose last message is the assistant's is continued, not answered.

transformers' own ``continue_final_message`` renders such a conversation with the chat template and cuts it off after
the last message. What stands there may not be what the model would have read after writing the same words: many
templates strip texts, and a tokenizer may join the header's last line break with the answer's first one. Here the
answer's own tokens follow those of the header, as they do when the model writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from safety_reminder.errors import MessageError

# Tensors with a column for each token, and what stands for padding and for text there.
_COLUMNS = {"attention_mask": (0, 1), "token_type_ids": (0, 0), "mm_token_type_ids": (0, 0)}


def split_begun(conversation: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """A normalised conversation without the answer that was begun at its end, and that beginning; empty if there is
    none.

    Raises:
        MessageError: nothing comes before it, or it holds an image.
    """
    last = conversation[-1]
    if last["role"] != "assistant":
        return conversation, ""
    where = f"messages[{len(conversation) - 1}]"
    if len(conversation) == 1:
        raise MessageError(f"{where} begins an answer, but there is nothing to answer before it")
    content = last["content"]
    if isinstance(content, str):
        return conversation[:-1], content
    if any(part["type"] != "text" for part in content):
        raise MessageError(f"{where} begins an answer, which is text; put images into a user message")
    return conversation[:-1], "".join(part["text"] for part in content)


def append_begun(inputs: Mapping[str, Any], begun: Sequence[Sequence[int]], pad: int) -> dict[str, Any]:
    """Model inputs in which row i goes on with the token ids ``begun[i]``; (batch, length) tensors are left-padded
    anew."""
    mask = inputs["attention_mask"].bool()
    width = max(int(row.sum()) + len(ids) for row, ids in zip(mask, begun, strict=True))

    def padded(name: str, values: torch.Tensor) -> torch.Tensor:
        padding, text = _COLUMNS.get(name, (pad, 0))
        rows = []
        for row, there, ids in zip(values, mask, begun, strict=True):
            more = list(ids) if name == "input_ids" else [text] * len(ids)
            whole = torch.cat([row[there], row.new_tensor(more)])
            rows.append(torch.cat([row.new_full((width - len(whole),), padding), whole]))
        return torch.stack(rows)

    changed = dict(inputs)
    for name in ("input_ids", *_COLUMNS):
        if name in inputs:
            changed[name] = padded(name, inputs[name])
    return changed
