"""How many steps a second PGD and GCG take on the 7B architectures, with random weights: speed does not depend on them.

    python benchmarks/attacks_7b.py --device cuda --json benchmarks/results/attacks_7b.json    # under ten minutes
    python benchmarks/attacks_7b.py --device cpu --small                                       # a rehearsal

LLaVA-1.5-7B and Qwen2-VL-7B in bfloat16, one after the other, with their kinds of processor at their own sizes and a
tokenizer of bytes, so that a request has more tokens than usual. PGD: forward and backward through the shared beginning
for a batch of requests. GCG: whole steps, candidates included, with an image in the context.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from attack_speed import shared_gradient
from common import figure, finish, parser, peak_memory, reset_peak_memory, timed
from guard_overhead import qwen2_vl_7b
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, LlamaConfig, LlavaConfig

from safety_reminder.attacks.gcg import gcg
from safety_reminder.attacks.gcg_options import GCGConfig
from safety_reminder.attacks.goals import Goal
from safety_reminder.attacks.pgd import TargetObjective, clean_image
from safety_reminder.attacks.targets import ORDINARY, echo
from safety_reminder.models import VLM
from safety_reminder.models.pixels import Pixels
from safety_reminder.models.processors import load_processor
from safety_reminder.models.scoring import frozen
from safety_reminder.models.tiny import TINY
from safety_reminder.models.tiny_vlms import tiny_vlm_checkpoint
from safety_reminder.types import Example

# What the published processors are set to, where the tiny ones differ.
PIXELS = {
    "llava": {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
    "qwen2_vl": {"min_pixels": 56 * 56, "max_pixels": 448 * 448, "patch_size": 14},
}
BATCHES, WIDTH = (4, 8), 64


def build(family: str, device: str, *, small: bool) -> VLM:
    """A random model of the family behind its own kind of processor."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = tiny_vlm_checkpoint(family, scratch)
        if not small:
            _set(folder / "preprocessor_config.json", PIXELS[family])
            if family == "llava":
                _set(folder / "processor_config.json", {"patch_size": 14})
        processor = load_processor(str(folder), AutoConfig.from_pretrained(folder))
        ids = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    large = LlavaConfig(text_config=LlamaConfig(vocab_size=32_064)) if family == "llava" else qwen2_vl_7b()
    config = TINY[family]() if small else large
    for name in ("image_token_index", "image_token_id", "video_token_id", "vision_start_token_id"):
        if name in ids:
            setattr(config, name, ids[name])
    if small:
        config.get_text_config().vocab_size = len(processor.tokenizer)
    dtype = torch.float32 if small else torch.bfloat16
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype).eval().requires_grad_(False)
    model.generation_config.update(eos_token_id=processor.tokenizer.eos_token_id)
    return VLM(model, processor, family)


def _set(path: Path, changes: dict) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def measure(name: str, vlm: VLM, arguments: argparse.Namespace, figures: dict) -> None:
    pixels = Pixels(vlm)
    height, width = pixels.size
    picture = Image.new("RGB", (width, height), (128, 128, 128))
    requests = [Example(id=str(n), prompt=ORDINARY[n % len(ORDINARY)], image=picture) for n in range(max(BATCHES))]
    goals = [Goal(e, echo(e.prompt, ":\n\n1. First, gather everything that is needed.")) for e in requests]
    image = clean_image("noise", pixels)
    for batch in BATCHES:
        objective = TargetObjective(vlm, pixels, goals[:batch], 1.0)
        shared_gradient(objective, image)
        reset_peak_memory()
        seconds = [timed(lambda o=objective: shared_gradient(o, image)) for _ in range(arguments.runs)]
        rate = figure(1 / statistics.median(seconds), [1 / each for each in seconds])
        figures[f"{name}: PGD, batch {batch}: steps a second"] = rate
        figures[f"{name}: PGD, batch {batch}: peak memory, GB"] = figure(peak_memory())
    config = GCGConfig.parse({"steps": arguments.runs, "width": WIDTH, "check_every": 0, "buffer": 1})
    reset_peak_memory()
    result = gcg(vlm, [replace(goals[0], target="Sure, here is how")], config)
    figures[f"{name}: GCG, width {WIDTH}: steps a second"] = figure(len(result.steps) / result.seconds)
    figures[f"{name}: GCG, width {WIDTH}: candidates a second"] = figure(result.candidates / result.seconds)
    figures[f"{name}: GCG, width {WIDTH}: peak memory, GB"] = figure(peak_memory())


def main() -> None:
    options = parser(__doc__)
    options.formatter_class = argparse.RawDescriptionHelpFormatter
    options.add_argument("--runs", type=int, default=10)
    options.add_argument("--small", action="store_true", help="tiny models: does it run?")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    figures: dict = {}
    for family, name in (("llava", "LLaVA-1.5-7B"), ("qwen2_vl", "Qwen2-VL-7B")):
        torch.manual_seed(0)
        vlm = build(family, arguments.device or "cuda", small=arguments.small)
        with frozen(vlm.model):
            measure(name, vlm, arguments, figures)
        del vlm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    finish(figures, arguments)


if __name__ == "__main__":
    main()
