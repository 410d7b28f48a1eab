"""The token embedding of any model: the space that reminders live in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def embedding_weight(model: Any) -> Float[Tensor, "vocabulary hidden_size"]:
    """(vocabulary, hidden_size), in the model's dtype and on its device."""
    return model.get_input_embeddings().weight


def hidden_size(model: Any) -> int:
    return embedding_weight(model).shape[1]


@torch.no_grad()
def token_vectors(model: Any, ids: Sequence[int]) -> Float[Tensor, "tokens hidden_size"]:
    """(len(ids), hidden_size) float32: what the model embeds these tokens as. Some families scale the table's rows."""
    embedding = model.get_input_embeddings()
    return embedding(torch.tensor(list(ids), device=embedding.weight.device)).float().clone()
