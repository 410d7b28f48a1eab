"""What pocket's suffix does to the language model it was made from, and its images to pocket when recompressed.

    python benchmarks/transfer.py --suffix runs/attacks/gcg-0 --image runs/attacks/pgd-eps32-0 --json FILE

``suffix``: the test requests of a finished run of ``attack=gcg``, with and without the suffix, put to
SmolLM2-135M-Instruct. ``image``: those of a run of ``attack=pgd``, unguarded, with the image as it is, as a JPEG of
quality 75, and shrunk to nine tenths and back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from common import finish, jpeg, parser
from gcg_speed import export
from guard_variants import record
from PIL import Image

from safety_reminder.data import load_dataset
from safety_reminder.guard import GuardedVLM
from safety_reminder.models import load_vlm
from safety_reminder.models.messages import load_image
from safety_reminder.types import Example, Request, Sampling


def resized(image: Image.Image) -> Image.Image:
    width, height = image.size
    small = image.resize((round(0.9 * width), round(0.9 * height)), Image.Resampling.BICUBIC)
    return small.resize((width, height), Image.Resampling.BICUBIC)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {"as it is": lambda i: i, "jpeg": jpeg, "resized": resized}


def measure(name: str, guarded: GuardedVLM, examples: list[Example], tokens: int, figures: dict) -> None:
    sampling = Sampling(max_new_tokens=tokens, do_sample=False)
    record(name, examples, guarded.respond([Request(e.messages(), sampling, False) for e in examples]), figures)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--suffix", type=Path)
    options.add_argument("--image", type=Path)
    options.add_argument("--tokens", type=int, default=64)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    figures: dict = {}
    if arguments.suffix:
        examples = load_dataset("attack_run", arguments.suffix)
        with tempfile.TemporaryDirectory() as folder:
            export(Path(folder))
            guarded = GuardedVLM(load_vlm(folder, device=arguments.device, dtype="float32"), None)
        measure("suffix/SmolLM2", guarded, examples, arguments.tokens, figures)
        plain = [replace(e, prompt=e.instruction) for e in examples]
        measure("suffix/SmolLM2, without it", guarded, plain, arguments.tokens, figures)
    if arguments.image:
        guarded = GuardedVLM(load_vlm("pocket", device=arguments.device), None)
        examples = load_dataset("attack_run", arguments.image)
        for name, change in CHANGES.items():
            shown = [replace(e, image=change(load_image(e.image))) for e in examples]
            measure(f"image/{name}", guarded, shown, arguments.tokens, figures)
    finish(figures, arguments)


if __name__ == "__main__":
    main()
