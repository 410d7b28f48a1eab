"""Low-rank deltas for frozen linear layers, with as few passes over memory as a CPU allows.

``y = x Wᵀ + scale · (x downᵀ) upᵀ``. Adapter libraries compute the second term in float32 and add it in passes of their
own, which on a CPU costs as much as the matrix products; here it is accumulated into the first by ``addmm``.
"""

from __future__ import annotations

import torch
from torch import nn

from precision import FAST


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, down, up):
        flat = x.flatten(0, -2)
        low = flat @ down.to(x.dtype).T
        ctx.save_for_backward(flat, weight, down, up, low)
        ctx.shape = x.shape
        return torch.addmm(flat @ weight.T, low, up.to(x.dtype).T).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, grad):
        flat, weight, down, up, low = ctx.saved_tensors
        grad = grad.flatten(0, -2)
        grad_low = grad @ up.to(grad.dtype)
        grad_x = torch.addmm(grad @ weight, grad_low, down.to(grad.dtype))
        return grad_x.view(ctx.shape), None, (grad_low.T @ flat).float(), (grad.T @ low).float()


class LowRankLinear(nn.Module):
    """A frozen linear layer with a trainable float32 delta ``up @ down``; ``up`` starts at zero."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        assert linear.bias is None
        self.weight = nn.Parameter(linear.weight.data.to(FAST), requires_grad=False)
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _LowRank.apply(x, self.weight, self.down, self.up)


def add_low_rank(model: nn.Module, rank: int) -> dict[str, LowRankLinear]:
    """Replace every linear layer of the decoder layers; returns the new ones by name. The rest is frozen."""
    model.to(FAST).requires_grad_(False)
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and ".layers." in n}
    made = {}
    for name, linear in linears.items():
        parent, _, last = name.rpartition(".")
        made[name] = LowRankLinear(linear, rank)
        setattr(model.get_submodule(parent), last, made[name])
    return made


def delta_of(layers: dict[str, LowRankLinear]) -> dict[str, torch.Tensor]:
    """The trained weights of ``layers``, by name and part, on the CPU."""
    parts = {f"{name}.{part}": getattr(layer, part) for name, layer in layers.items() for part in ("down", "up")}
    return {name: part.detach().cpu().clone() for name, part in parts.items()}


def take_over(layers: dict[str, LowRankLinear], delta: dict[str, torch.Tensor]) -> None:
    """Set ``layers`` to what :func:`delta_of` gave for others."""
    for name, layer in layers.items():
        layer.down.data.copy_(delta[f"{name}.down"])
        layer.up.data.copy_(delta[f"{name}.up"])
