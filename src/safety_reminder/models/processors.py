"""Processors for text and images, also where what a family needs for videos is not installed."""

from __future__ import annotations

from typing import Any

from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, PreTrainedConfig, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available


def load_processor(folder: str, config: PreTrainedConfig) -> Any:
    """The processor of a vision-language model. A family that also takes videos (Qwen2-VL, InternVL, SmolVLM) gets one
    for images alone where torchvision is missing, which transformers' video processors cannot do without."""
    family: Any = PROCESSOR_MAPPING.get(type(config), None)
    parts = set() if family is None else set(family.get_attributes())
    if is_torchvision_available() or parts != {"image_processor", "tokenizer", "video_processor"}:
        return AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    return _without_videos(family).from_pretrained(folder, trust_remote_code=False)


def _without_videos(family: Any) -> Any:
    class WithoutVideos(family):
        @classmethod
        def _get_arguments_from_pretrained(cls, name: str, processor_dict: Any = None, **options: Any) -> list[Any]:
            loaders: dict[str, Any] = {"image_processor": AutoImageProcessor, "tokenizer": AutoTokenizer}
            return [
                None if part == "video_processor" else loaders[part].from_pretrained(name, **options)
                for part in cls.get_attributes()
            ]

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == "video_processor":
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

        def apply_chat_template(self, *arguments: Any, **options: Any) -> Any:
            # SmolVLM's own asks its video processor for defaults, whether or not there is a video.
            return ProcessorMixin.apply_chat_template(self, *arguments, **options)

    WithoutVideos.__name__ = family.__name__  # as processor_config.json says
    return WithoutVideos
