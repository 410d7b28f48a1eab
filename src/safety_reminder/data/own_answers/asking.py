"""Which request is put into which wrapper, and what is held out; decided before anything is answered."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safety_reminder.data.own_answers.requests import RowRequest
from safety_reminder.data.own_answers.wrappers import wrap
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.run_files import write_bytes
from safety_reminder.types import Example

KINDS = ("harmful", "contrast", "harmless")
BARE = "bare"
# What the answer is for: training rows; safe rows that set the threshold; rows and requests to test on.
Part = Literal["train", "calibration", "test"]


@dataclass(frozen=True)
class Asked:
    """One question to the model."""

    id: str
    request: RowRequest
    wrapper: str
    part: Part

    def example(self, folder: Path) -> Example:
        """As it is asked. A page is drawn into ``folder/images``.

        Raises:
            DataError: a page that cannot be drawn.
        """
        try:
            wrapped = wrap(self.request.text, self.wrapper)
        except DataError as error:
            raise DataError(f"{self.id}: {error}") from error
        image = None
        if wrapped.page is not None:
            image = folder / "images" / f"{self.id}.png"
            if not image.is_file():
                png = io.BytesIO()
                wrapped.page.save(png, format="PNG")
                write_bytes(image, png.getvalue())
        return Example(
            id=self.id,
            prompt=wrapped.prompt,
            image=image,
            harmful=self.request.harmful,
            category=self.wrapper,
            instruction=self.request.text,
            prefill=wrapped.begun,
        )


def plan_questions(
    requests: Sequence[RowRequest],
    wrappers: Sequence[str],
    *,
    hold_out: Sequence[str],
    test_share: float,
    calibration_share: float,
    per_request: int,
    seed: int = 0,
) -> list[Asked]:
    """Every request in some wrappers, the same wrappers equally often for each kind of request.

    Of each kind, ``test_share`` of the requests are held out, and so are the wrappers ``hold_out``: training rows have
    neither, test rows are held-out requests, bare and in every wrapper that is held out. Of the harmless requests,
    ``calibration_share`` are kept apart too, in the wrappers that are trained on: there are more of them than harmful
    ones, and a threshold is set on safe answers to what was not trained on.

    Args:
        per_request: so many wrappers for each request that is trained on.

    Raises:
        ConfigError: no wrapper is left to train on, or more are asked for than there are; or nothing is left of a kind.
    """
    known = [name for name in wrappers if name not in hold_out]
    if missing := [name for name in hold_out if name not in wrappers]:
        raise ConfigError(f"hold_out names {missing[0]}, which is not among the wrappers: {', '.join(wrappers)}")
    if per_request > len(known):
        raise ConfigError(
            f"per_request={per_request} of {len(known)} wrappers to train on; give fewer, or more wrappers"
        )
    unseen = list(dict.fromkeys([*(name for name in (BARE,) if name in wrappers), *hold_out]))
    asked: list[Asked] = []
    for kind in KINDS:
        own = sorted((r for r in requests if r.kind == kind), key=lambda request: _place(request.text, seed))
        tested = round(len(own) * test_share)
        apart = tested + (round(len(own) * calibration_share) if kind != "harmful" else 0)
        if own and apart >= len(own):
            raise ConfigError(
                f"test_share={test_share} and calibration_share={calibration_share} leave none of {len(own)} {kind} "
                "requests to train on; give more of them"
            )
        for number, request in enumerate(own):
            part: Part = "test" if number < tested else "calibration" if number < apart else "train"
            # From the end, so that the wrappers of training rows are those that they would be without the others.
            turn = (len(own) - 1 - number) * per_request
            names = unseen if part == "test" else [known[(turn + i) % len(known)] for i in range(per_request)]
            asked += [Asked(_id(request, name, part), request, name, part) for name in names]
    # Kinds and wrappers are mixed, so that a run that is looked at half-way shows all of them; pages are together.
    return sorted(asked, key=lambda one: (one.wrapper == "page", _place(one.id, seed)))


def _place(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{text}".encode()).hexdigest()


def _id(request: RowRequest, wrapper: str, part: str) -> str:
    digest = hashlib.sha256(request.text.encode()).hexdigest()[:10]
    return f"{part}-{wrapper}-{request.kind}-{digest}"
