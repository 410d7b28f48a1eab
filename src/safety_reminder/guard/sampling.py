"""Choosing the next token: greedy, or sampled from torch's global generator or from one of each row's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from safety_reminder.errors import ConfigError
from safety_reminder.types import row_seeds


class Sampler:
    """Args: ``batch``, rows of the whole batch; ``seed``, one for each row, or one for all (row i: ``seed + i``)."""

    def __init__(self, do_sample: bool, batch: int, seed: int | Sequence[int] | None, device: torch.device) -> None:
        self.do_sample, self.batch = do_sample, batch
        self.generators = None
        if seed is not None:
            seeds = row_seeds(seed, batch) if isinstance(seed, int) else seed
            if len(seeds) != batch:
                raise ConfigError(f"{len(seeds)} seeds were given for {batch} rows")
            self.generators = [torch.Generator(device).manual_seed(s) for s in seeds]

    def broken(self, scores: Float[Tensor, "rows vocabulary"]) -> Bool[Tensor, " rows"]:
        """Rows for which no token can be chosen: NaN among the scores, or nothing but minus infinity. An infinite score
        can be the highest one, but has no probability."""
        highest = scores.amax(dim=-1)  # NaN if there is one
        return ~highest.isfinite() if self.do_sample else highest.isnan() | highest.isneginf()

    def __call__(
        self, scores: Float[Tensor, "rows vocabulary"], rows: Sequence[int], *, whole: bool
    ) -> Int[Tensor, " rows"]:
        """Processed scores → a token for each of ``rows``, which are numbers in the whole batch."""
        if not self.do_sample:
            return scores.argmax(dim=-1)
        probabilities = scores.softmax(dim=-1)
        if self.generators is not None:
            draws = [
                torch.multinomial(probabilities[i], 1, generator=self.generators[row]) for i, row in enumerate(rows)
            ]
            return torch.cat(draws)
        if whole and len(rows) < self.batch:
            # transformers draws for finished rows too. Doing the same keeps the others' random numbers in step.
            everyone = probabilities.new_full((self.batch, probabilities.shape[1]), 1.0)
            index = torch.tensor(rows, device=probabilities.device)
            everyone[index] = probabilities
            return torch.multinomial(everyone, 1).squeeze(1)[index]
        return torch.multinomial(probabilities, 1).squeeze(1)
