"""A control: the same probe, but random vectors in the place of the learned ones.

The probe is read after the learned vectors, as for ``reminder``; what stays after an unsafe verdict is random.
The other reading of the name, random vectors that a probe of their own is read after, is a pack:
``safety-reminder probe reminder=random``.
"""

from __future__ import annotations

import torch

from safety_reminder.defenses.base import Guarding, keeping
from safety_reminder.errors import ConfigError
from safety_reminder.guard import GuardedVLM
from safety_reminder.types import is_seed


class RandomVectors(Guarding):
    """The guard that ``guarded`` has; after an unsafe verdict random vectors stay, each of the length (Euclidean norm)
    of the learned one in its place.

    Args:
        seed: of the draw, from a normal distribution.

    Raises:
        ConfigError: a seed that is none, or a policy that leaves nothing in.
    """

    name = "random_vectors"

    def __init__(self, guarded: GuardedVLM, seed: int = 0) -> None:
        assert guarded.reminder is not None
        if not is_seed(seed):
            raise ConfigError(f"defense=random_vectors: seed must be a whole number from 0 to 2**63 - 1, got {seed!r}")
        super().__init__(keeping(guarded, at_random(guarded.reminder.vectors, seed), self.name))


def at_random(vectors: torch.Tensor, seed: int) -> torch.Tensor:
    """(k, hidden_size) float32 like ``vectors``, in random directions; each is as long as the one in its place."""
    drawn = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed))
    lengths = vectors.detach().float().cpu().norm(dim=1, keepdim=True)
    return drawn / drawn.norm(dim=1, keepdim=True) * lengths
