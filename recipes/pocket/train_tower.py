"""Step 1 of the pocket recipe: teach a vision tower to spell rendered text in the language model's own tokens.

Every patch that holds the centre of a rendered BPE token must come out of the projector as that token's row of the
(frozen) embedding table, every other patch as the row of the image placeholder. That row stands for "nothing here";
zeros would not do, since the language model's first norm makes leftover noise as loud as a word. The language
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
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlavaForConditionalGeneration

from pages import ALPHABET_SIZE, MAX_SPELL, Page, make_page
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


def stacked(pages: list[Page]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, tokens and spelling, each with the pages as its first dimension."""
    pixels, tokens, spelling = (
        torch.stack([torch.tensor(getattr(page, name)) for page in pages]) for name in ("pixels", "tokens", "spelling")
    )
    return pixels, tokens, spelling


class Pages(IterableDataset):
    """Batches of pages from step ``start`` on, drawn from (seed, step) alone so that a run can resume."""

    def __init__(self, args: argparse.Namespace, start: int):
        self.args, self.start = args, start

    def __iter__(self):
        args, worker = self.args, torch.utils.data.get_worker_info()
        tokenizer = AutoTokenizer.from_pretrained(args.base)
        phrases = shared_phrases(args.shared)
        source = TextSource(tokenizer, args.words, phrases, exponent=args.exponent, share=args.share)
        for step in range(self.start + worker.id, 1 << 60, worker.num_workers):
            rng = random.Random(f"{args.seed}/{step}")
            widen = 0.3 + 0.4 * min(1.0, step / args.widen_steps)
            yield stacked(
                [
                    make_page(source.draw(rng), tokenizer, rng, image_size=IMAGE_SIZE, patches=PATCHES, widen=widen)
                    for _ in range(args.batch)
                ]
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


def options() -> argparse.Namespace:
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
    return parser.parse_args()


def embedding_rows(base: Path, out: Path) -> torch.Tensor:
    """The language model's embedding table, (vocabulary, hidden) float32, kept in ``out``."""
    if (out / "rows.pt").exists():
        return torch.load(out / "rows.pt")
    rows = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).get_input_embeddings().weight.data
    torch.save(rows, out / "rows.pt")
    return rows


class Learner:
    """What is trained, its optimisers, and the checkpoint that a run goes on from.

    ``head`` spells a patch's token. ``scale``: the log of the inverse temperature of naming.
    """

    def __init__(self, rows: torch.Tensor, args: argparse.Namespace):
        self.rows, self.centre = rows, rows.mean(0)
        self.model = build(rows.shape[1])
        self.head = nn.Linear(self.model.config.vision_config.hidden_size, MAX_SPELL * ALPHABET_SIZE)
        self.scale = nn.Parameter(torch.tensor(3.5 if args.start else 2.5))
        self.rates = [args.lr, args.lr * 0.5]
        self.optimisers = self._optimisers()
        self.step = 0
        self.checkpoint = args.out / "checkpoint.pt"
        if self.checkpoint.exists():
            self._resume()
        elif args.start:
            tower, projector = self.model.model.vision_tower, self.model.model.multi_modal_projector
            for part, name in ((tower, "tower"), (projector, "projector")):
                part.load_state_dict({k: v.float() for k, v in load_file(args.start / f"{name}.safetensors").items()})

    def _optimisers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices between layers, AdamW for the rest."""
        tower, projector = self.model.model.vision_tower, self.model.model.multi_modal_projector
        hidden = [p for n, p in tower.named_parameters() if p.ndim == 2 and "encoder.layers" in n]
        hidden += [projector.linear_1.weight]
        chosen = {id(p) for p in hidden}
        rest = [p for p in [*tower.parameters(), *projector.parameters()] if id(p) not in chosen]
        rest += [*self.head.parameters(), self.scale]
        muon, adam = self.rates
        return [
            torch.optim.Muon(hidden, lr=muon, weight_decay=0.02, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=adam, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def _resume(self) -> None:
        state = torch.load(self.checkpoint)
        self.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        self.scale.data.copy_(state["scale"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step = state["step"]
        print(f"resumed at step {self.step}")

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "scale": self.scale.data,
            "optimisers": [o.state_dict() for o in self.optimisers],
            "step": self.step,
        }
        torch.save(state, self.checkpoint.with_suffix(".new"))
        os.replace(self.checkpoint.with_suffix(".new"), self.checkpoint)

    def learn(self, grey: torch.Tensor, tokens: torch.Tensor, spelling: torch.Tensor, factor: float) -> dict:
        """One step at ``factor`` of the full rates; its losses and the share of letters that it spelled right."""
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
        with torch.autocast("cpu", torch.bfloat16, enabled=FAST is torch.bfloat16):
            naming, regression, letters_loss, letters = losses(
                self.model, self.head, self.scale, grey, tokens, spelling, self.rows, self.centre, negatives=2000
            )
        loss = naming + regression + letters_loss
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.head.parameters(), self.scale], 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        shown = tokens >= 0
        real = spelling[shown] > 0
        return {
            "naming": naming.item(),
            "regression": regression.item(),
            "letters": letters_loss.item(),
            "letter_accuracy": (letters.argmax(-1) == spelling[shown])[real].float().mean().item(),
        }

    def evaluate(self, held_back: dict[str, list]) -> dict[str, float]:
        self.model.eval()
        scores = {
            f"{name}/{k}": v
            for name, batches in held_back.items()
            for k, v in evaluate(self.model, batches, self.rows, self.centre).items()
        }
        self.model.train()
        return scores


def held_back_pages(args: argparse.Namespace) -> dict[str, list]:
    """Batches to evaluate on: pages of FigStep's look, and varied ones."""
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
        held_back[name] = [stacked(pages)]
    return held_back


def main() -> None:
    args = options()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    learner = Learner(embedding_rows(args.base, args.out), args)
    held_back = held_back_pages(args)
    began, first = time.time(), learner.step
    running: dict[str, float] = {}
    for batch in DataLoader(Pages(args, learner.step), batch_size=None, num_workers=1, prefetch_factor=8):
        if learner.step >= args.steps:
            break
        left = (args.steps - learner.step) / (args.decay * args.steps)
        now = learner.learn(*batch, factor=min(1.0, (learner.step + 1) / 150, max(left, 0.01)))
        running = {k: 0.98 * running.get(k, v) + 0.02 * v for k, v in now.items()}
        step = learner.step
        if step % 100 == 0:
            line = {"step": step, "images_per_second": (step - first) * args.batch / (time.time() - began), **running}
            if step % 500 == 0:
                line |= learner.evaluate(held_back)
            print(json.dumps({k: round(v, 4) for k, v in line.items()}), flush=True)
        if step % 500 == 0 or step == args.steps:
            learner.save()


if __name__ == "__main__":
    main()
