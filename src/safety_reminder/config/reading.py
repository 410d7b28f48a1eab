"""How messages are read: what special tokens in their texts become, and how large their images may be."""

from __future__ import annotations

from typing import Annotated, Literal

from safety_reminder.config.options import Field, Options

SpecialText = Literal["inert", "refuse"]


class ReadingOptions(Options):
    """How messages are read."""

    special_text: Annotated[
        SpecialText,
        Field(
            description="special tokens in a user's or assistant's text, such as <|im_end|>: inert reads them as the "
            "plain text that they are, refuse stops and names them"
        ),
    ] = "inert"
    max_image_pixels: Annotated[int, Field(ge=1, description="a larger image is refused")] = 40_000_000
    min_pixels: Annotated[
        int | None,
        Field(
            ge=1,
            description="a smaller image is enlarged to about so many pixels, by models that take any size (Qwen2-VL); "
            "null: as the checkpoint says",
        ),
    ] = None
    max_pixels: Annotated[int | None, Field(ge=1, description="and a larger one reduced to about so many")] = None
