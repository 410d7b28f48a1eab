"""Conversations that all show the same image, made ready to be scored: what they share, and what each goes on with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from safety_reminder.errors import ModelError
from safety_reminder.models import VLM
from safety_reminder.models.branches import Branch, Row, Scored, Shared, score_rows, write_rows
from safety_reminder.models.context import image_token
from safety_reminder.models.pixels import replaced
from safety_reminder.types import Example

Heads = dict[int, Shared]  # of groups of prompts, by their places, what they share
Around = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Continuing:
    """What follows one prompt: ``tokens``, of which the first ``scored`` are looked at, and ``branches``, each after
    the first so many of them (0: after the bare prompt)."""

    tokens: Sequence[int]
    scored: int
    branches: Sequence[Branch] = ()


@dataclass(frozen=True)
class _Group:
    """Prompts whose tokens are the same up to and with the image. ``head``: inputs of what they share, a row;
    ``tails``: by the prompt's number, the tokens that each goes on with, one at least."""

    head: Mapping[str, Tensor]
    tails: Mapping[int, list[int]]


class Prompts:
    """Prompts with an image of one size.

    Where the image comes before the text, under the same system prompt, header and image are run once for all of them.
    Prompts that share less are run in groups, in the worst case each by itself, with the same result.

    Args:
        vlm: what they are put to.
        examples: their own images are not looked at.
        size: (height, width) of the image.
        around: is open while what a group of prompts shares is run, for a defence that changes what is embedded there.

    Raises:
        MessageError: what the model's template does not take.
        ModelError: a prompt without a token that stands for the image.
    """

    def __init__(
        self, vlm: VLM, examples: Sequence[Example], size: tuple[int, int], around: Around = nullcontext
    ) -> None:
        blank = Image.new("RGB", (size[1], size[0]), (128, 128, 128))
        self.vlm, self.around = vlm, around
        groups: dict[tuple[int, ...], list[tuple[int, dict[str, Tensor]]]] = {}
        self.ids: list[list[int]] = []
        for number, example in enumerate(examples):
            inputs = vlm.encode([replace(example, image=blank).messages()])
            ids = inputs["input_ids"][0].tolist()
            self.ids.append(ids)
            groups.setdefault(tuple(ids[: _after_image(vlm, ids)]), []).append((number, inputs))
        self._groups = [_group(rows) for rows in groups.values()]

    def read(self, values: Mapping[str, Tensor], numbers: Collection[int]) -> Heads:
        """Run what these prompts share, with the gradient of ``values``.

        Args:
            values: of the image, as :class:`~safety_reminder.models.pixels.Pixels` gives them.
        """
        heads: Heads = {}
        for place, group in enumerate(self._groups):
            if any(number in group.tails for number in numbers):
                with self.around():
                    heads[place] = Shared.read(self.vlm.model, replaced(group.head, values))
        return heads

    def score(self, heads: Heads, following: Mapping[int, Continuing], vectors: Tensor) -> dict[int, Scored]:
        """What the model makes of what follows each of these prompts, by their numbers.

        Args:
            heads: as :meth:`read` gives them.
            vectors: (k, hidden_size), of the reminder, for branches.
        """
        scored: dict[int, Scored] = {}
        for place, shared in heads.items():
            tails = self._groups[place].tails
            numbers = [number for number in tails if number in following]
            rows = [_row(tails[number], following[number]) for number in numbers]
            scored |= dict(zip(numbers, score_rows(self.vlm.model, shared, rows, vectors), strict=True))
        return scored

    @torch.no_grad()
    def write(self, heads: Heads, begun: Mapping[int, Sequence[int]], count: int) -> dict[int, list[int]]:
        """``count`` greedy tokens after the beginnings of these prompts' answers, end-of-sequence tokens included."""
        written: dict[int, list[int]] = {}
        for place, shared in heads.items():
            tails = self._groups[place].tails
            numbers = [number for number in tails if number in begun]
            if numbers:
                rows = [[*tails[number], *begun[number]] for number in numbers]
                texts = write_rows(self.vlm.model, shared.detach(), rows, count)
                written |= dict(zip(numbers, texts, strict=True))
        return written

    @property
    def shared(self) -> bool:
        """Whether all prompts share header and image."""
        return len(self._groups) == 1


def _after_image(vlm: VLM, ids: Sequence[int]) -> int:
    """Tokens up to and with the last that stands for the image."""
    token = image_token(vlm.model)
    places = [place for place, id_ in enumerate(ids) if id_ == token]
    if not places:
        raise ModelError(f"no token in the prompts of {vlm.name} stands for the image; its pixels cannot be attacked")
    return places[-1] + 1


def _group(rows: Sequence[tuple[int, Mapping[str, Tensor]]]) -> _Group:
    all_ids = [inputs["input_ids"][0].tolist() for _, inputs in rows]
    most = min(map(len, all_ids)) - 1  # a row goes on with one token at least
    first = all_ids[0]
    common = next((n for n in range(most) if any(ids[n] != first[n] for ids in all_ids)), most)
    head = {
        name: value[:, :common] if value.shape == rows[0][1]["input_ids"].shape else value
        for name, value in rows[0][1].items()
    }
    return _Group(head, {number: ids[common:] for (number, _), ids in zip(rows, all_ids, strict=True)})


def _row(tail: Sequence[int], following: Continuing) -> Row:
    branches = [(len(tail) + after, script) for after, script in following.branches]
    scored = len(tail), len(tail) + following.scored
    return Row([*tail, *following.tokens], scored, branches)


def no_vectors(vlm: VLM) -> Tensor:
    """In place of a reminder where there are no branches."""
    return torch.zeros(0, vlm.hidden_size, device=vlm.model.device)
