"""Between steps 2 and 3 of the pocket recipe: what a language model does with a note after its answers to held-back
requests. It should refuse the harmful ones there and go on with the harmless ones; without a note, engage with both on
a page and refuse only what is harmful in text.

    python recipes/pocket/check_language.py --base FOLDER --tower FOLDER --language FOLDER
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

import contrast
from contrast import Request
from conversations import NOTES, Conversation, engaged
from lowrank import add_low_rank, take_over
from pages import make_page
from phrases import HARM
from precision import DEVICE, FAST
from safety_reminder.evaluation.refusal import judge_refusal
from topics import as_text, typographic
from train_language import encode_prompt, token_ids
from train_tower import IMAGE_SIZE, PATCHES, build, features
from wordings import FIGSTEP_PROMPT, Asked, in_text, on_page

# What is asked: whether it is harmful, on a page, and near the border (requests of topics that were held out).
KINDS = {
    "harmful page": (True, True, False),
    "harmless page": (False, True, False),
    "harmful page, near": (True, True, True),
    "harmless page, near": (False, True, True),
    "harmful text": (True, False, False),
    "harmless text": (False, False, False),
    "harmful text, near": (True, False, True),
    "harmless text, near": (False, False, True),
}


def asked_for(rng: random.Random, kind: str) -> Asked:
    """A request that was held back."""
    harmful, page, near = KINDS[kind]
    if near:
        request = contrast.draw(rng, harmful=harmful, topics=contrast.HELD_OUT)
        return on_page(rng, request) if page else in_text(rng, request)
    if page:
        text = typographic(rng, harmful=harmful, topics=HARM, held_back=True)
        return Asked(FIGSTEP_PROMPT, text, Request(text, "", harmful))
    text = as_text(rng, harmful=harmful, held_back=True)
    return Asked(text, None, Request(text, "", harmful))


@torch.inference_mode()
def answers(model, tokenizer, prompts: list[torch.Tensor], tokens: int) -> list[str]:
    """Greedy continuations of embeddings, each (length, hidden)."""
    inputs = pad_sequence(prompts, batch_first=True, padding_side="left").to(FAST)
    lengths = torch.tensor([len(p) for p in prompts], device=inputs.device)
    mask = torch.arange(inputs.shape[1], device=inputs.device) >= inputs.shape[1] - lengths[:, None]
    ids = model.generate(
        inputs_embeds=inputs, attention_mask=mask.long(), max_new_tokens=tokens, do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--tower", type=Path, required=True, help="folder of train_tower.py")
    parser.add_argument("--language", type=Path, required=True, help="folder of train_language.py")
    parser.add_argument("--count", type=int, default=32, help="requests of each kind")
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    model = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
    rows = model.get_input_embeddings().weight.data.clone().to(DEVICE)
    layers = add_low_rank(model, args.rank)
    delta = torch.load(args.language / "checkpoint.pt", map_location="cpu")["delta"]
    take_over(layers, delta)
    model.eval().to(DEVICE)
    tower = build(rows.shape[1]).eval().to(DEVICE)
    tower.load_state_dict(torch.load(args.tower / "checkpoint.pt", map_location="cpu")["model"])

    note = token_ids(tokenizer, NOTES[0])
    for kind in KINDS:
        prompts_by_note: dict[str, list[torch.Tensor]] = {"no note": [], "a note": [], "four tokens of it": []}
        for number in range(args.count):
            rng = random.Random(f"{kind}/{number}")
            asked = asked_for(rng, kind)
            head, tail = encode_prompt(tokenizer, Conversation(kind, asked.prompt, "", asked.page))
            begin = [rows[head]]
            if asked.page is not None:
                page = make_page(
                    asked.page, tokenizer, rng, image_size=IMAGE_SIZE, patches=PATCHES, widen=0.4, figstep=True
                )
                with torch.inference_mode():
                    begin.append(features(tower, torch.tensor(page.pixels, device=DEVICE)[None])[0])
            text = asked.page or asked.prompt
            said = token_ids(tokenizer, engaged(rng, text, backs_off=False))[: rng.choice((0, 16, 32))]
            prompts_by_note["no note"].append(torch.cat([*begin, rows[tail]]))
            prompts_by_note["a note"].append(torch.cat([*begin, rows[tail + said + note]]))
            prompts_by_note["four tokens of it"].append(torch.cat([*begin, rows[tail + said + note[:4]]]))
        line: dict[str, str | float] = {"requests": kind}
        for name, prompts in prompts_by_note.items():
            refused = [judge_refusal(a).where == "start" for a in answers(model, tokenizer, prompts, args.tokens)]
            line[f"refused, {name}"] = round(sum(refused) / len(refused), 3)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
