"""The probe: an affine map from one hidden state to the log-odds that the text so far is unsafe."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safety_reminder.errors import GuardFailure, PackError


@dataclass(frozen=True)
class Probe:
    """``p_unsafe = sigmoid(weight · hidden + bias)``, computed in float32.

    Args:
        weight: (hidden_size,) float32.
        bias: a float.
    """

    weight: Tensor
    bias: float = 0.0

    def __post_init__(self) -> None:
        if self.weight.ndim != 1:
            raise PackError(f"a probe's weight has one axis (hidden_size,), got shape {tuple(self.weight.shape)}")
        if not (torch.isfinite(self.weight).all() and torch.isfinite(torch.tensor(self.bias))):
            raise PackError("the probe holds values that are not finite; it cannot guard anything")

    def logit(self, hidden: Float[Tensor, "*rows hidden_size"]) -> Float[Tensor, "*rows"]:
        """Hidden states (..., hidden_size) after the final norm → log-odds (...) in float32.

        Raises:
            GuardFailure: the last axis is not ``hidden_size``.
        """
        if hidden.shape[-1] != self.weight.shape[0]:
            raise GuardFailure(
                f"the probe expects hidden states of size {self.weight.shape[0]}, the model gave {hidden.shape[-1]}"
            )
        return hidden.float() @ self.weight.to(hidden.device) + self.bias

    def __call__(self, hidden: Float[Tensor, "*rows hidden_size"]) -> Float[Tensor, "*rows"]:
        """Hidden states (..., hidden_size) → ``p_unsafe`` (...) in [0, 1]; NaN where the state is not finite."""
        p_unsafe = torch.sigmoid(self.logit(hidden))
        # An infinite entry would saturate the sigmoid, as likely towards "safe" as towards "unsafe".
        return p_unsafe.masked_fill(~torch.isfinite(hidden).all(-1).to(p_unsafe.device), torch.nan)
