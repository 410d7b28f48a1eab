"""Training over reused prefixes against plain full-sequence steps: same model, same cuts, same loss, in one run.

    python benchmarks/training_speed.py                       # a scaled-down LLaVA
    python benchmarks/training_speed.py --architecture 7b     # LLaVA-1.5-7B, random weights (GPU)

A sample is one cut of one answer. The prefix (image, prompt, whole answer) is run once on the side that reuses it, and
that time is counted. The plain side runs the image, the prompt, the kept answer, the reminder and the target at every
step, as one sequence, with the gradient to the reminder alone.
"""

from __future__ import annotations

import gc
import random
from functools import partial

import torch
import torch.nn.functional as F
from common import figure, finish, parser, peak_memory, reset_peak_memory, timed
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaConfig

from safety_reminder.models.prefix import Prefix
from safety_reminder.training.objective import Cut, losses

K = 4


def configuration(architecture: str) -> LlavaConfig:
    if architecture == "7b":
        # The class's defaults are LLaVA-1.5-7B, but for the vocabulary, which has room for <image> there.
        return LlavaConfig(text_config=LlamaConfig(vocab_size=32_064))
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=128, intermediate_size=512, num_hidden_layers=6, num_attention_heads=4,
            image_size=336, patch_size=14,
        ),
        text_config=LlamaConfig(
            hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8, vocab_size=4096
        ),
        image_token_index=4000,
    )  # fmt: skip


class Bench:
    def __init__(self, architecture: str, device: str, samples: int, answer: int, target: int) -> None:
        torch.manual_seed(0)
        config = configuration(architecture)
        dtype = torch.bfloat16 if architecture == "7b" else torch.float32
        with torch.device(device):
            self.model = AutoModelForImageTextToText.from_config(config, dtype=dtype).eval().requires_grad_(False)
        self.image_token, size = config.image_token_index, config.vision_config.image_size
        patches = (size // config.vision_config.patch_size) ** 2
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(3, 1000, (samples, 40 + answer), generator=generator).to(device)
        image = torch.full((samples, patches), self.image_token, device=device)
        self.prompts = torch.cat([ids[:, :5], image, ids[:, 5:40]], 1)
        self.answers = ids[:, 40:]
        self.targets = torch.randint(3, 1000, (samples, target), generator=generator).tolist()
        self.pixels = torch.randn(samples, 3, size, size, generator=generator).to(device, dtype)
        width = config.text_config.hidden_size
        self.vectors = torch.nn.Parameter(0.02 * torch.randn(K, width, generator=generator).to(device))
        self.weight, self.bias = torch.zeros(width, device=device), torch.zeros((), device=device)

    def inputs(self, i: int) -> dict[str, torch.Tensor]:
        ids = self.prompts[i : i + 1]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": self.pixels[i : i + 1]}

    def cuts(self, epoch: int, count: int) -> list[list[int]]:
        """``count`` lengths of the answer for every sample."""
        rng = random.Random(epoch)
        return [[rng.randrange(1, self.answers.shape[1]) for _ in range(count)] for _ in self.targets]

    def reused(self, epochs: int, count: int, rows: int) -> float:
        prefixes = [Prefix.read(self.model, self.inputs(i), self.answers[i].tolist()) for i in range(len(self.targets))]
        total = 0.0
        for epoch in range(epochs):
            places = [
                (prefix, Cut(tokens, [None, target], (True,), (True,)))
                for prefix, target, lengths in zip(prefixes, self.targets, self.cuts(epoch, count), strict=True)
                for tokens in lengths
            ]
            for start in range(0, len(places), rows):
                batch_losses = losses(self.model, places[start : start + rows], self.vectors, self.weight, self.bias)
                batch_losses.language.sum().backward()
                total += batch_losses.language.sum().item()
        return total

    def plain(self, epochs: int, count: int, rows: int) -> float:
        embedding = self.model.get_input_embeddings()
        total = 0.0
        for epoch in range(epochs):
            work = [(i, n) for i, lengths in enumerate(self.cuts(epoch, count)) for n in lengths]
            for start in range(0, len(work), rows):
                part = work[start : start + rows]
                with torch.no_grad():
                    pixels = torch.cat([self.pixels[i : i + 1] for i, _ in part])
                    seen = self.model.get_image_features(pixel_values=pixels).pooler_output
                sequences, labels = [], []
                for (i, n), image in zip(part, seen, strict=True):
                    prompt = embedding(self.prompts[i].clamp(max=embedding.num_embeddings - 1)).clone()
                    prompt[self.prompts[i] == self.image_token] = image.to(prompt.dtype)
                    target = torch.tensor(self.targets[i], device=prompt.device)
                    parts = [prompt, embedding(self.answers[i, :n]), self.vectors.to(prompt.dtype), embedding(target)]
                    sequences.append(torch.cat(parts))
                    labels.append((len(sequences[-1]) - len(target), target))
                width = max(map(len, sequences))
                batch = torch.stack([F.pad(s, (0, 0, 0, width - len(s))) for s in sequences])
                mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences], device=batch.device)
                hidden = self.model.model(inputs_embeds=batch, attention_mask=mask, use_cache=False).last_hidden_state
                each = [
                    F.cross_entropy(self.model.lm_head(h[at - 1 : at + len(target) - 1]).float(), target)
                    for h, (at, target) in zip(hidden, labels, strict=True)
                ]
                loss = torch.stack(each).sum()
                loss.backward()
                total += loss.item()
        return total


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--architecture", choices=["small", "7b"], default="small")
    options.add_argument("--samples", type=int, default=16)
    options.add_argument("--epochs", type=int, default=4)
    options.add_argument("--cuts", type=int, default=4)
    options.add_argument("--rows", type=int, default=16, help="cuts in one forward pass, on both sides")
    options.add_argument("--plain-rows", type=int, help="fewer for full sequences, where so many do not fit in memory")
    options.add_argument("--answer", type=int, default=96)
    options.add_argument("--target", type=int, default=48)
    options.add_argument("--runs", type=int, default=3)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    device = arguments.device or ("cuda" if arguments.architecture == "7b" else "cpu")
    bench = Bench(arguments.architecture, device, arguments.samples, arguments.answer, arguments.target)
    rows = {"reused": arguments.rows, "plain": arguments.plain_rows or arguments.rows}
    count = arguments.samples * arguments.epochs * arguments.cuts

    totals, gradients, peaks = {}, {}, {}
    for name, side in (("reused", bench.reused), ("plain", bench.plain)):
        bench.vectors.grad = None
        gc.collect()
        reset_peak_memory()
        totals[name] = side(1, arguments.cuts, rows[name])
        gradients[name] = bench.vectors.grad.clone()
        peaks[name] = peak_memory()
    difference = float((gradients["reused"] - gradients["plain"]).norm() / gradients["plain"].norm())

    speed: dict[str, list[float]] = {"reused": [], "plain": []}
    for _ in range(arguments.runs):
        for name, side in (("reused", bench.reused), ("plain", bench.plain)):
            speed[name].append(count / timed(partial(side, arguments.epochs, arguments.cuts, rows[name])))
    ratios = [a / b for a, b in zip(speed["reused"], speed["plain"], strict=True)]
    prompt = bench.prompts.shape[1]
    shape = (
        f"prompt {prompt}, answer up to {arguments.answer}, target {arguments.target}, {arguments.epochs} epochs, "
        f"{rows['reused']} and {rows['plain']} cuts in one pass"
    )
    figures = {
        "samples per second, prefixes reused": figure(sorted(speed["reused"])[len(ratios) // 2], speed["reused"]),
        "samples per second, full sequences": figure(sorted(speed["plain"])[len(ratios) // 2], speed["plain"]),
        "reused / full sequences": figure(sorted(ratios)[len(ratios) // 2], ratios, note=shape),
        "loss, relative difference": figure(abs(totals["reused"] / totals["plain"] - 1)),
        "gradient, relative difference": figure(difference),
    }
    figures |= {f"peak memory, {name}: GB": figure(peak) for name, peak in peaks.items()}
    finish(figures, arguments)


if __name__ == "__main__":
    main()
