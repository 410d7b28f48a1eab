"""Step 1 of the pocket recipe: teach a vision tower to spell rendered text in the language model's own tokens.

Every patch that holds the centre of a rendered BPE token must come out of the projector as that token's row of the
(frozen) embedding table, every other patch as the row of the image placeholder. That row stands for "nothing here";
zeros would not do, since the language model's first norm makes what is left of noise as loud as a word. The language
model itself is not run, so a step is cheap.

    python recipes/pocket/train_tower.py --base FOLDER --shared FOLDER --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import AutoTokenizer, LlamaConfig, LlavaForConditionalGeneration

from pages import ALPHABET_SIZE, MAX_SPELL, make_page
from precision import FAST
from safety_reminder.models.pocket.assemble import IMAGE_SIZE, PATCH_SIZE, pocket_config
from text import TextSource, shared_phrases

PATCHES = IMAGE_SIZE // PATCH_SIZE
BLANK = 15  # <jupyter_script>, which becomes <image>


def build(hidden_size: int = 576) -> LlavaForConditionalGeneration:
    """The tower and projector inside the class that will hold them, over a language model of no layers."""
    config = pocket_config(LlamaConfig(hidden_size=hidden_size, num_hidden_layers=0, intermediate_size=8, vocab_size=8))
    config.image_token_index = 7
    # At 144 positions on a CPU it beats the fused kernel's backward pass.
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    # Two-dimensional sinusoids as a start for the learned positions: neighbours begin alike, so that the first thing
    # attention can learn is to look left and right.
    width = config.vision_config.hidden_size // 4
    frequency = 1.0 / (30.0 ** (torch.arange(width) / width))
    angle = torch.arange(PATCHES)[:, None] * frequency
    wave = torch.cat([angle.sin(), angle.cos()], 1)
    rows = wave[:, None].expand(-1, PATCHES, -1)
    columns = wave[None].expand(PATCHES, -1, -1)
    table = model.model.vision_tower.get_submodule("embeddings.position_embedding")
    with torch.no_grad():
        table.weight.copy_(0.5 * torch.cat([rows, columns], -1).reshape(PATCHES**2, -1))
    return model


class Pages(IterableDataset):
    def __init__(
        self,
        base: Path,
        words: Path,
        shared: Path,
        seed: int,
        start: int,
        widen_steps: int,
        batch: int,
        exponent: float,
        share: float,
    ):
        self.base, self.words, self.shared = base, words, shared
        self.seed, self.start, self.widen_steps, self.batch = seed, start, widen_steps, batch
        self.exponent, self.share = exponent, share

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        tokenizer = AutoTokenizer.from_pretrained(self.base)
        source = TextSource(
            tokenizer, self.words, shared_phrases(self.shared), exponent=self.exponent, share=self.share
        )
        for step in range(self.start + worker.id, 1 << 60, worker.num_workers):
            rng = random.Random(f"{self.seed}/{step}")
            widen = 0.3 + 0.4 * min(1.0, step / self.widen_steps)
            pages = [
                make_page(source.draw(rng), tokenizer, rng, image_size=IMAGE_SIZE, patches=PATCHES, widen=widen)
                for _ in range(self.batch)
            ]
            yield tuple(
                torch.stack([torch.tensor(getattr(p, name)) for p in pages])
                for name in ("pixels", "tokens", "spelling")
            )


def tower_states(model: LlavaForConditionalGeneration, grey: torch.Tensor) -> torch.Tensor:
    """``grey`` (batch, size, size) uint8 → (batch, patches², 256)."""
    pixels = (grey.float() / 127.5 - 1.0)[:, None].expand(-1, 3, -1, -1)
    return model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]


def features(model: LlavaForConditionalGeneration, grey: torch.Tensor) -> torch.Tensor:
    """``grey`` (batch, size, size) uint8 → what the language model is given, (batch, patches², 576)."""
    return model.model.multi_modal_projector(tower_states(model, grey))


def wanted_rows(tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Token ids (..., -1 where blank) → rows of the table, the image placeholder's where blank."""
    return rows[torch.where(tokens >= 0, tokens, BLANK)]


def losses(model, head, scale, grey, tokens, spelling, rows: torch.Tensor, centre: torch.Tensor, negatives: int):
    """Naming, distance and spelling losses. Most patches are blank and much alike: an eighth of them goes on."""
    states = tower_states(model, grey)
    shown = tokens >= 0
    blank = ~shown & (torch.rand(tokens.shape) < 0.125)
    wanted, seen = tokens[shown], states[shown]
    out = model.model.multi_modal_projector(torch.cat([seen, states[blank]])).float()
    power = rows.pow(2).sum(1).mean()
    # Distance, not its square: where it is not sure whose patch this is, the best guess is one of them, not their mean.
    targets = torch.cat([rows[wanted], rows[BLANK].expand(len(out) - len(wanted), -1)])
    distance = ((out - targets).square().sum(-1) / power + 1e-4).sqrt()
    regression = distance[: len(wanted)].mean() + distance[len(wanted) :].mean()
    present = wanted.unique()
    pool = torch.randint(0, rows.shape[0], (negatives,))
    classes = torch.cat([present, pool[~torch.isin(pool, present)].unique()])
    place = torch.searchsorted(present, wanted)
    vectors = F.normalize(rows[classes] - centre, dim=1)
    with torch.autocast("cpu", torch.bfloat16, enabled=FAST is torch.bfloat16):
        logits = F.normalize(out[: len(wanted)] - centre, dim=1) @ vectors.T
    naming = F.cross_entropy(logits.float() * scale.exp(), place)
    letters = head(seen).view(-1, MAX_SPELL, ALPHABET_SIZE)
    letters_loss = F.cross_entropy(letters.flatten(0, 1).float(), spelling[shown].flatten())
    return naming, regression, letters_loss, letters


@torch.no_grad()
def evaluate(model, batches, rows, centre) -> dict[str, float]:
    """Share of token patches whose nearest row (of all rows) is right, and of blanks that come out as blank."""
    right = count = quiet = blanks = 0
    vectors = F.normalize(rows - centre, dim=1)
    for grey, tokens, _ in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=FAST is torch.bfloat16):
            out = features(model, grey)
        out = out.float()
        shown = tokens >= 0
        nearest = (F.normalize(out[shown] - centre, dim=1) @ vectors.T).argmax(1)
        right += (nearest == tokens[shown]).sum().item()
        count += int(shown.sum())
        quiet += ((out[~shown] - rows[BLANK]).norm(dim=1) < 0.5 * rows.norm(dim=1).mean()).sum().item()
        blanks += int((~shown).sum())
    return {"token_accuracy": right / count, "blank_accuracy": quiet / blanks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="SmolLM2-135M-Instruct as a transformers folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--words", type=Path, default=Path("/usr/share/dict/american-english"))
    parser.add_argument("--shared", type=Path, required=True, help="refusal_direction's folder")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument(
        "--decay", type=float, default=0.25, help="last share of the steps in which the rate falls to 0"
    )
    parser.add_argument("--exponent", type=float, default=0.6, help="how steeply a word's weight falls with its rank")
    parser.add_argument("--share", type=float, default=0.25, help="of phrases among the texts")
    parser.add_argument("--widen-steps", type=int, default=3000, help="steps until pages are as varied as they get")
    parser.add_argument(
        "--start", type=Path, help="folder of tower.safetensors and projector.safetensors to begin with"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)

    rows = torch.load(args.out / "rows.pt") if (args.out / "rows.pt").exists() else None
    if rows is None:
        from transformers import AutoModelForCausalLM

        rows = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32).get_input_embeddings().weight.data
        torch.save(rows, args.out / "rows.pt")
    centre = rows.mean(0)

    model = build(rows.shape[1])
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    head = nn.Linear(model.config.vision_config.hidden_size, MAX_SPELL * ALPHABET_SIZE)
    scale = nn.Parameter(torch.tensor(3.5 if args.start else 2.5))
    hidden = [p for n, p in tower.named_parameters() if p.ndim == 2 and "encoder.layers" in n]
    hidden += [projector.linear_1.weight]
    chosen = {id(p) for p in hidden}
    rest = [p for p in [*tower.parameters(), *projector.parameters()] if id(p) not in chosen]
    optimisers = [
        torch.optim.Muon(hidden, lr=args.lr, weight_decay=0.02, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([*rest, *head.parameters(), scale], lr=args.lr * 0.5, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    step = 0
    checkpoint = args.out / "checkpoint.pt"
    if args.start and not checkpoint.exists():
        for part, name in ((tower, "tower"), (projector, "projector")):
            part.load_state_dict({k: v.float() for k, v in load_file(args.start / f"{name}.safetensors").items()})
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        head.load_state_dict(state["head"])
        scale.data.copy_(state["scale"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        step = state["step"]
        print(f"resumed at step {step}")
    base_rates = [args.lr, args.lr * 0.5]

    tokenizer = AutoTokenizer.from_pretrained(args.base)
    source = TextSource(tokenizer, args.words, shared_phrases(args.shared))
    held_back = {}
    for name, widen, figstep in (("figstep-like", 0.0, True), ("varied", 1.0, False)):
        rng = random.Random(f"held back/{name}")
        pages = [
            make_page(source.phrase(rng) if figstep else source.draw(rng), tokenizer, rng,
                      image_size=IMAGE_SIZE, patches=PATCHES, widen=widen, figstep=figstep)
            for _ in range(96)
        ]  # fmt: skip
        held_back[name] = [
            tuple(torch.stack([torch.tensor(getattr(p, n)) for p in pages]) for n in ("pixels", "tokens", "spelling"))
        ]

    data = Pages(
        args.base,
        args.words,
        args.shared,
        args.seed,
        step,
        widen_steps=args.widen_steps,
        batch=args.batch,
        exponent=args.exponent,
        share=args.share,
    )
    began, first = time.time(), step
    running: dict[str, float] = {}
    for grey, tokens, spelling in DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=8):
        if step >= args.steps:
            break
        left = (args.steps - step) / (args.decay * args.steps)
        factor = min(1.0, (step + 1) / 150, max(left, 0.01))
        for optimiser, rate in zip(optimisers, base_rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
        with torch.autocast("cpu", torch.bfloat16, enabled=FAST is torch.bfloat16):
            naming, regression, letters_loss, letters = losses(
                model, head, scale, grey, tokens, spelling, rows, centre, negatives=2000
            )
        loss = naming + regression + letters_loss
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*model.parameters(), *head.parameters(), scale], 1.0)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        shown = tokens >= 0
        real = spelling[shown] > 0
        now = {
            "naming": naming.item(),
            "regression": regression.item(),
            "letters": letters_loss.item(),
            "letter_accuracy": (letters.argmax(-1) == spelling[shown])[real].float().mean().item(),
        }
        running = {k: 0.98 * running.get(k, v) + 0.02 * v for k, v in now.items()}
        if step % 100 == 0:
            line = {"step": step, "images_per_second": (step - first) * args.batch / (time.time() - began), **running}
            if step % 500 == 0:
                model.eval()
                for name, batches in held_back.items():
                    line |= {f"{name}/{k}": v for k, v in evaluate(model, batches, rows, centre).items()}
                model.train()
            print(json.dumps({k: round(v, 4) for k, v in line.items()}), flush=True)
        if step % 500 == 0 or step == args.steps:
            state = {
                "model": model.state_dict(),
                "head": head.state_dict(),
                "scale": scale.data,
                "optimisers": [o.state_dict() for o in optimisers],
                "step": step,
            }
            torch.save(state, checkpoint.with_suffix(".new"))
            os.replace(checkpoint.with_suffix(".new"), checkpoint)


if __name__ == "__main__":
    main()
