"""Vectors in the place of some tokens' embeddings: what a soft prompt in front of a request needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from safety_reminder.errors import ModelError


@contextmanager
def replaced_embeddings(model: Any, ids: Sequence[int], vectors: torch.Tensor) -> Iterator[None]:
    """While this is open, the first tokens that the model embeds, a prompt's, have ``vectors`` where the tokens ``ids``
    first stand in each row. What it embeds after that is left alone, and its weights are at no time changed. No other
    thread may run the model meanwhile.

    Args:
        ids: (n,) token ids.
        vectors: (n, hidden_size); a gradient reaches them.

    Raises:
        ModelError: a row without these tokens; nothing was embedded at all.
    """
    done = False

    def replace(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
        nonlocal done
        if done:
            return None
        done = True
        rows, count = inputs[0].shape[0], len(ids)
        prompt = torch.tensor(list(ids), device=inputs[0].device)
        if inputs[0].shape[1] < count:
            raise ModelError("a prompt is shorter than the soft prompt that belongs in it")
        matches = (inputs[0].unfold(1, count, 1) == prompt).all(-1)
        if not matches.any(1).all():
            raise ModelError(
                "a prompt does not hold the soft prompt's text as it was trained; is it the same template?"
            )
        at = matches.int().argmax(1, keepdim=True) + torch.arange(count, device=matches.device)
        row = torch.arange(rows, device=matches.device)[:, None].expand_as(at)
        return output.index_put((row, at), vectors.to(output).expand(rows, -1, -1))

    handle = model.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
        if not done:
            raise ModelError(f"{type(model).__name__} did not embed its prompt; a soft prompt has no place there")
    finally:
        handle.remove()
