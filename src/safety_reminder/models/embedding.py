"""The token embedding of any model: the space that reminders live in."""

from __future__ import annotations

from typing import Any

import torch


def embedding_weight(model: Any) -> torch.Tensor:
    """(vocabulary, hidden_size), in the model's dtype and on its device."""
    return model.get_input_embeddings().weight


def hidden_size(model: Any) -> int:
    return embedding_weight(model).shape[1]
