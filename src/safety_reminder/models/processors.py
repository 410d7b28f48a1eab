"""Processors for text and images, also where what a family needs for videos is not installed."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    ProcessorMixin,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

from safety_reminder.errors import ModelError


def load_processor(folder: str, config: PreTrainedConfig) -> Any:
    """The processor of a vision-language model. A family that also takes videos (Qwen2-VL, InternVL, Gemma 4) gets one
    for images alone where torchvision is missing, which transformers' video processors cannot do without.

    Raises:
        ModelError: it needs a package that is not installed: some families have no processor without torchvision.
    """
    try:
        return _loaded(folder, config)
    except (ImportError, ValueError) as error:
        if not is_torchvision_available() and "torchvision" in str(error).lower():
            raise ModelError(
                f"the image processor of model type {config.model_type!r} needs torchvision, which is not installed; "
                f"install the torchvision that fits torch {torch.__version__}"
            ) from error
        raise


def limit_pixels(processor: Any, fewest: int | None, most: int | None, name: str) -> None:
    """Set between how many pixels images are scaled, in a processor that keeps to such limits (Qwen2-VL and its kin).
    None leaves a limit as it is. ``name``: of the model, for messages.

    Raises:
        ModelError: a processor without such limits, or the lower one above the upper one.
    """
    given = {"shortest_edge": fewest, "longest_edge": most}
    given = {edge: pixels for edge, pixels in given.items() if pixels is not None}
    if not given:
        return
    images: Any = getattr(processor, "image_processor", None)
    known = getattr(getattr(images, "valid_kwargs", None), "__annotations__", {})
    size = dict(getattr(images, "size", None) or {})
    # Elsewhere these two names are lengths of edges.
    if "min_pixels" not in known or not set(size) >= {"shortest_edge", "longest_edge"}:
        raise ModelError(f"the processor of {name} has no limits of pixels; leave min_pixels and max_pixels out")
    size = size | given
    if size["shortest_edge"] > size["longest_edge"]:
        raise ModelError(f"{name}: min_pixels={size['shortest_edge']} is above max_pixels={size['longest_edge']}")
    images.size = type(images.size)(**size)


def _loaded(folder: str, config: PreTrainedConfig) -> Any:
    family: Any = PROCESSOR_MAPPING.get(type(config), None)
    parts = set() if family is None else set(family.get_attributes())
    if is_torchvision_available() or not {"image_processor", "tokenizer", "video_processor"} <= parts:
        return AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    return _images_alone(family).from_pretrained(folder, trust_remote_code=False)


def _images_alone(family: Any) -> Any:
    class ImagesAlone(family):
        @classmethod
        def _get_arguments_from_pretrained(cls, name: str, processor_dict: Any = None, **options: Any) -> list[Any]:
            loaders: dict[str, Any] = {"image_processor": AutoImageProcessor, "tokenizer": AutoTokenizer}
            return [
                loaders[part].from_pretrained(name, **options) if part in loaders else None
                for part in cls.get_attributes()
            ]

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name in ("video_processor", "feature_extractor"):
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

        def apply_chat_template(self, *arguments: Any, **options: Any) -> Any:
            # SmolVLM's own asks its video processor for defaults, whether or not there is a video.
            return ProcessorMixin.apply_chat_template(self, *arguments, **options)

    ImagesAlone.__name__ = family.__name__  # as processor_config.json says
    return ImagesAlone
