"""The base model's own answers to harmless prompts, so that training pocket does not change how it helps.

python recipes/pocket/answer_helpful.py --base FOLDER --out helpful.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from harmless import drawn, harmless
from precision import DEVICE, FAST
from safety_reminder.evaluation.refusal import judge_refusal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--own", type=int, help="of these, how many the base model draws itself; by default 4 in 9")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    tokenizer.padding_side = "left"
    model = AutoModelForCausalLM.from_pretrained(args.base, dtype=FAST).eval().to(DEVICE)
    own = drawn(model, tokenizer, args.count * 4 // 9 if args.own is None else args.own, args.seed)
    # By length, so that batches hold little padding.
    prompts = sorted(harmless(random.Random(args.seed), own, args.count), key=len)
    with args.out.open("w", encoding="utf-8") as out:
        for start in range(0, len(prompts), 48):
            some = prompts[start : start + 48]
            inputs = tokenizer.apply_chat_template(
                [[{"role": "user", "content": p}] for p in some],
                add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True,
            ).to(DEVICE)  # fmt: skip
            ids = model.generate(
                **inputs, max_new_tokens=args.tokens, do_sample=True, temperature=0.4, top_p=0.9, repetition_penalty=1.1
            )
            answers = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            ended = (ids[:, inputs["input_ids"].shape[1] :] == tokenizer.eos_token_id).any(1).tolist()
            for prompt, answer, whole in zip(some, answers, ended, strict=True):
                if judge_refusal(answer).where == "start":
                    continue  # the base model declines a few by mistake
                out.write(json.dumps({"prompt": prompt, "answer": answer.strip(), "whole": whole}) + "\n")
            print(start, flush=True)


if __name__ == "__main__":
    main()
