"""Step 2 of the pocket recipe: a low-rank delta for the language model, so that it reads, lists, refuses, helps,
and heeds a note.

The tower is frozen, or with ``--tower-lr`` learns what the language model needs from it. A share of the pages is given
as a perfect tower would (the embedding rows themselves).

    python recipes/pocket/train_language.py --base FOLDER --tower FOLDER --shared FOLDER --helpful FILE --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, IterableDataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from conversations import Conversation, Mixture, read_jsonl
from lowrank import add_low_rank, delta_of, take_over
from pages import Page, make_page
from precision import DEVICE, FAST, HALVES
from text import TextSource, shared_phrases
from train_tower import BLANK, IMAGE_SIZE, PATCHES, build, features, wanted_rows

AFTER_NOTE = 8  # tokens


@dataclass(frozen=True)
class Sample:
    """One page, or none, with the conversations about it. ``oracle``: the page is given as a perfect tower would."""

    conversations: list[Conversation]
    page: Page | None = None
    oracle: bool = False


@dataclass(frozen=True)
class Batch:
    """Sequences, padded to one length. Conversations about one page share its positions.

    ``ids``, ``positions`` (rows, length). ``owner`` (rows, length): the conversation, -1 for the page, -2 for padding.
    ``wanted`` (rows, length): the id to be learned, -100 where none is. ``kinds``: of each conversation. ``pixels``
    (pages, size, size) uint8, ``tokens`` (pages, patches²), ``oracle`` (pages,).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    owner: torch.Tensor
    wanted: torch.Tensor
    kinds: list[str]
    pixels: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    oracle: torch.Tensor | None = None

    def to(self, device: str) -> Batch:
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **moved)


class Samples(IterableDataset):
    """Batches, drawn from (seed, step) alone so that a run can resume."""

    def __init__(self, base: Path, mixture: Mixture, start: int, args: argparse.Namespace):
        self.base, self.mixture, self.start, self.args = base, mixture, start, args

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        tokenizer = AutoTokenizer.from_pretrained(self.base)
        for step in range(self.start + worker.id, 1 << 60, worker.num_workers):
            rng = random.Random(f"language/{self.args.seed}/{step}")
            # A quarter of the batches has whole answers: their beginnings matter most and cost least.
            longest = 160 if step % 4 == 3 else self.args.longest
            # With and without images in batches of their own: the first are several times longer.
            if rng.random() < self.args.images:
                samples = [self.seen(rng, tokenizer) for _ in range(self.args.batch)]
            else:
                samples = [Sample([self.mixture.text(rng)]) for _ in range(3 * self.args.batch)]
            yield collate(tokenizer, samples, longest)

    def seen(self, rng: random.Random, tokenizer) -> Sample:
        while True:
            conversations = self.mixture.page(rng)
            listing = any(c.kind.startswith("list") for c in conversations)
            page = make_page(
                conversations[0].page or " ", tokenizer, rng, image_size=IMAGE_SIZE, patches=PATCHES,
                widen=0.4 if listing else 0.7, figstep=listing and rng.random() < 0.3,
            )  # fmt: skip
            if page.whole:  # what is not on the page cannot be read
                return Sample(conversations, page, rng.random() < self.args.oracle)


def token_ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_prompt(tokenizer, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Token ids: before the image (if there is none, none), and from there to the answer."""
    head, tail = "<|im_start|>user\n", conversation.prompt + "<|im_end|>\n<|im_start|>assistant\n"
    if conversation.page is None:
        return [], token_ids(tokenizer, head + tail)  # tokenised as one text, as the chat template will be
    return token_ids(tokenizer, head), token_ids(tokenizer, "\n" + tail)


def encode(tokenizer, conversation: Conversation, longest: int) -> tuple[list[int], list[int], list[int]]:
    """Token ids: as :func:`encode_prompt` gives them, the second up to what is learned, and what is learned.

    What is learned is the answer, or of what follows the note in it the beginning, where it turns or does not: in the
    mean over a long rest that would hardly count."""
    ids = partial(token_ids, tokenizer)
    head, tail = encode_prompt(tokenizer, conversation)
    end = [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    answer = (ids(conversation.answer) + (end if conversation.whole else []))[:longest]
    note = conversation.note
    if note is not None:
        kept = int(note.at * (len(answer) - 1))  # something is left to say
        tail += answer[:kept] + ids(note.text)[: note.tokens]
        answer = (answer[kept:] if note.instead is None else ids(note.instead) + end)[:AFTER_NOTE]
    return head, tail, answer


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--tower", type=Path, required=True, help="folder of train_tower.py")
    parser.add_argument("--shared", type=Path, required=True, help="refusal_direction's folder")
    parser.add_argument("--helpful", type=Path, required=True, help="answer_helpful.py's file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--words", type=Path, default=Path("/usr/share/dict/american-english"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--from-layer", type=int, default=0, help="layers below this one are left as they are")
    parser.add_argument("--oracle", type=float, default=0.05, help="share of pages given as perfect embedding rows")
    parser.add_argument("--back-off", type=float, default=0.9, help="share of lists on plain harm that break off")
    parser.add_argument("--images", type=float, default=0.75, help="share of batches with images")
    parser.add_argument("--listed", type=float, default=0.6, help="share of pages that are listed as well as read")
    parser.add_argument("--read", type=float, default=1.0, help="share of listed pages that are also read")
    parser.add_argument("--heed", type=float, default=0.7, help="notes a list; half as many a text, 0.6 at most")
    parser.add_argument("--tower-lr", type=float, default=0.0, help="above 0: the tower learns too, into OUT/tower")
    parser.add_argument(
        "--longest", type=int, default=56, help="three quarters of the answers are cut to this many tokens"
    )
    parser.add_argument("--start", type=Path, help="a checkpoint.pt of an earlier run, whose delta to begin with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pages; an accelerator wants more")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after these, if that is earlier")
    return parser.parse_args()


class Learner:
    """The language model with its low-rank delta and the tower before it; their optimiser, and the checkpoint."""

    def __init__(self, args: argparse.Namespace):
        self.model = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
        self.rows = self.model.get_input_embeddings().weight.data.clone().to(DEVICE)
        self.layers = add_low_rank(self.model, args.rank)
        for name, layer in self.layers.items():
            layer.requires_grad_(int(name.split(".layers.")[1].split(".")[0]) >= args.from_layer)
            layer.weight.requires_grad_(False)
        self.model.to(DEVICE)
        self.tower = build(self.rows.shape[1]).eval().to(DEVICE)
        self._load_tower(args.tower)
        self.tower.requires_grad_(False)
        learned = [p for layer in self.layers.values() for p in (layer.down, layer.up) if p.requires_grad]
        groups = [{"params": learned, "lr": args.lr}]
        if args.tower_lr:
            parts = self.tower.model.vision_tower, self.tower.model.multi_modal_projector
            seeing = [p.requires_grad_() for part in parts for p in part.parameters()]
            groups.append({"params": seeing, "lr": args.tower_lr})
        self.peaks = [group["lr"] for group in groups]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=0.0, betas=(0.9, 0.95))
        self.step, self.out = 0, args.out
        self.checkpoint = args.out / "checkpoint.pt"
        self.tower_out = args.out / "tower" if args.tower_lr else None
        if self.tower_out:
            self.tower_out.mkdir(exist_ok=True)
        if self.checkpoint.exists():
            self._resume()
        elif args.start:
            take_over(self.layers, torch.load(args.start, map_location=DEVICE)["delta"])

    def _load_tower(self, folder: Path) -> None:
        self.tower.load_state_dict(torch.load(folder / "checkpoint.pt", map_location="cpu")["model"])

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=DEVICE)
        take_over(self.layers, state["delta"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        if self.tower_out:
            self._load_tower(self.tower_out)
        print(f"resumed at step {self.step}")

    def save(self) -> None:
        delta = delta_of(self.layers)
        scratch = self.checkpoint.with_suffix(".new")
        torch.save({"delta": delta, "optimiser": self.optimiser.state_dict(), "step": self.step}, scratch)
        if self.tower_out:
            new = self.tower_out / "checkpoint.new"
            torch.save({"model": self.tower.state_dict()}, new)
            os.replace(new, new.with_suffix(".pt"))
        os.replace(scratch, self.checkpoint)
        halves = {name: value.half().contiguous() for name, value in delta.items()}
        save_file(halves, self.out / "language_delta.safetensors")

    def learn(self, batch: Batch, factor: float) -> dict[str, float]:
        """One step at ``factor`` of the full rates; the mean loss of each kind of conversation."""
        for group, peak in zip(self.optimiser.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        loss, parts = batch_loss(self.model, self.tower, self.rows, batch.to(DEVICE))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimiser.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        self.optimiser.step()
        self.step += 1
        return parts


def main() -> None:
    args = options()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    learner = Learner(args)
    phrases = shared_phrases(args.shared)
    source = TextSource(AutoTokenizer.from_pretrained(args.base), args.words, phrases)
    helpful = read_jsonl(args.helpful)
    mixture = Mixture(
        source, helpful, phrases, back_off=args.back_off, listed=args.listed, heed=args.heed, read=args.read
    )
    running: dict[str, float] = {}
    began, first = time.time(), learner.step
    data = Samples(args.base, mixture, learner.step, args)
    for batch in DataLoader(data, batch_size=None, num_workers=args.workers, prefetch_factor=4):
        done = max(learner.step / args.steps, (time.time() - began) / 60 / args.minutes)
        if done >= 1:
            break
        factor = min(1.0, (learner.step + 1) / 30) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for kind, value in learner.learn(batch, factor).items():
            running[kind] = 0.9 * running.get(kind, value) + 0.1 * value
        step = learner.step
        if step % 10 == 0:
            line = {"step": step, "seconds_per_step": (time.time() - began) / (step - first), **running}
            print(json.dumps({k: round(v, 4) for k, v in line.items()}), flush=True)
        if step % 50 == 0:
            learner.save()
    learner.save()


def collate(tokenizer, samples: list[Sample], longest: int) -> Batch:
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in ("ids", "positions", "owner", "wanted")}
    kinds: list[str] = []
    for sample in samples:
        ids: list[int] = []
        positions: list[int] = []
        owner: list[int] = []
        wanted: list[int] = []
        shared = 0
        for conversation in sample.conversations:
            head, tail, answer = encode(tokenizer, conversation, longest)
            if sample.page is not None and not shared:
                patches = PATCHES * PATCHES
                shared = len(head) + patches
                ids += head + [BLANK] * patches
                positions += range(shared)
                owner += [-1] * shared
                wanted += [-100] * shared
            count = len(tail) + len(answer)
            ids += tail + answer
            positions += range(shared, shared + count)
            owner += [len(kinds)] * count
            wanted += [-100] * len(tail) + answer
            kinds.append(conversation.kind)
        for name, row in (("ids", ids), ("positions", positions), ("owner", owner), ("wanted", wanted)):
            rows[name].append(torch.tensor(row))
    filler = {"owner": -2, "wanted": -100}
    padded = {n: pad_sequence(r, batch_first=True, padding_value=filler.get(n, 0)) for n, r in rows.items()}
    pages = {}
    if samples[0].page is not None:
        pages["pixels"] = torch.stack([torch.tensor(s.page.pixels) for s in samples])
        pages["tokens"] = torch.stack([torch.tensor(s.page.tokens) for s in samples])
        pages["oracle"] = torch.tensor([s.oracle for s in samples])
    return Batch(**padded, **pages, kinds=kinds)


def batch_loss(model, tower, rows, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """Every conversation counts the same, long or short. Of those about one page, each attends to the page and to
    itself, and none to another, as if each stood alone."""
    inputs, owner = rows[batch.ids], batch.owner
    if batch.pixels is not None:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=HALVES):
            seen = features(tower, batch.pixels).float()
        seen = torch.where(batch.oracle[:, None, None], wanted_rows(batch.tokens, rows), seen)
        inputs = inputs.masked_scatter(((owner == -1) & (batch.ids == BLANK))[..., None], seen)
    # Query position i sees key position j: not later, and of the page or of the same conversation.
    mask = (owner[:, None] == -1) | (owner[:, None] == owner[:, :, None])
    mask = (mask & mask.new_ones(mask.shape[-2:]).tril())[:, None]
    hidden = model.model(
        inputs_embeds=inputs.to(FAST), attention_mask=mask, position_ids=batch.positions
    ).last_hidden_state
    # The position before the answer's first token is the end of the prompt, in the same conversation.
    chosen = batch.wanted[:, 1:] != -100
    logits = hidden[:, :-1][chosen] @ model.get_input_embeddings().weight.T
    each = F.cross_entropy(logits.float(), batch.wanted[:, 1:][chosen], reduction="none")
    of, count = owner[:, 1:][chosen], len(batch.kinds)
    per_conversation = each.new_zeros(count).index_add(0, of, each) / of.bincount(minlength=count)
    parts: dict[str, list[float]] = {}
    for kind, value in zip(batch.kinds, per_conversation.tolist(), strict=True):
        parts.setdefault(kind, []).append(value)
    return per_conversation.mean(), {kind: sum(v) / len(v) for kind, v in parts.items()}


if __name__ == "__main__":
    main()
