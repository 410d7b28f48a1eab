"""Step 3 of the pocket recipe: rows to train its reminder on, with pocket's own unguarded answers.

python recipes/pocket/make_reminder_data.py --out FOLDER
safety-reminder train model=pocket data=FOLDER/train.jsonl output=runs/pocket-reminder

With ``--held-back`` and another seed it makes rows to test a reminder on instead.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from tqdm import tqdm

import contrast
import safety_reminder
from contrast import Request
from conversations import REFUSALS, engaged
from harmless import drawn, harmless
from jailbreaks import KINDS, Attacked, attacked
from phrases import HARM
from precision import DEVICE, FAST
from safety_reminder.data.benchmarks.typographic import render
from safety_reminder.errors import DataError
from safety_reminder.evaluation.refusal import judge_refusal
from safety_reminder.evaluation.topic import succeeds_on_topic
from safety_reminder.guard import GuardedVLM
from safety_reminder.models.pocket.assemble import base_language_model
from safety_reminder.types import Example
from topics import as_text, typographic
from wordings import FIGSTEP_PROMPT, LIST_PROMPTS, Asked, aim, in_text, on_page, style


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--asked", type=int, default=45, help="harmful image requests that pocket answers itself")
    parser.add_argument("--scripted", type=int, default=110, help="harmful image requests with a list by the script")
    parser.add_argument("--tasks", type=int, default=180, help="harmless requests in text that pocket answers itself")
    parser.add_argument("--text-harmful", type=int, default=80, help="harmful requests in text, with scripted lists")
    parser.add_argument("--text-harmless", type=int, default=80, help="harmless ones, with such lists too")
    parser.add_argument("--attacked", type=int, default=0, help="harmful requests for each kind of jailbreaks.py")
    parser.add_argument("--phrases", type=float, default=0.25, help="share of contrast.py's pages that show a phrase")
    parser.add_argument("--refused", type=int, default=30, help="harmful requests, in image or text, that are refused")
    parser.add_argument("--asked-only", action="store_true", help="for DRO: requests, in the place of answers too")
    parser.add_argument("--held-back", action="store_true", help="only requests that nothing was trained on: a test")
    parser.add_argument("--tokens", type=int, default=72)
    parser.add_argument("--batch", type=int, default=60, help="texts at once; of images, a third")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def near(rng: random.Random, args: argparse.Namespace, *, harmful: bool) -> Request:
    """A request of :mod:`contrast`; for a test, of a topic held out or of a wording held back."""
    if not args.held_back:
        return contrast.draw(rng, harmful=harmful, held_back=False)
    if rng.random() < 0.5:
        return contrast.draw(rng, harmful=harmful, topics=contrast.HELD_OUT)
    return contrast.draw(rng, harmful=harmful, held_back=True)


def asked_for(rng: random.Random, args: argparse.Namespace, *, harmful: bool) -> Asked:
    """A page: two in three of :mod:`contrast`, where both sides share their topics, the others plainly harmful, or
    everyday ones."""
    if rng.random() < 2 / 3:
        return on_page(rng, near(rng, args, harmful=harmful), held_back=args.held_back, phrases=args.phrases)
    text = typographic(rng, harmful=harmful, topics=HARM, held_back=args.held_back)
    prompt = FIGSTEP_PROMPT if rng.random() < 0.8 else rng.choice(LIST_PROMPTS)
    return Asked(prompt, text, Request(text, "plain" if harmful else "everyday", harmful))


def draw_pages(rng: random.Random, args: argparse.Namespace) -> list[dict]:
    """Requests in images, harmful and harmless in turns, their pages saved in ``--out``."""
    (args.out / "images").mkdir(parents=True, exist_ok=True)
    requests: list[dict] = []
    seen = set()
    while len(requests) < 2 * (args.asked + args.scripted):
        harmful = len(requests) % 2 == 0
        asked = asked_for(rng, args, harmful=harmful)
        page = asked.page or ""
        # Without the opener, so that what is held back is not a training request that begins otherwise.
        if (core := aim(page)) in seen:
            continue
        name = f"images/{len(requests):04d}.png"
        try:
            render(page, numbered=asked.numbered, style=style(rng)).save(args.out / name)
        except DataError:  # longer than a page of this type: another one
            continue
        seen.add(core)
        requests.append({
            "image": name, "prompt": asked.prompt, "harmful": harmful, "page": page,
            "topic": asked.request.topic, "attack": "typographic" if asked.numbered else "phrase",
        })  # fmt: skip
    return requests


def answers(guarded: GuardedVLM, prompts: list[tuple[str, str | None, str]], args: argparse.Namespace) -> list[str]:
    """Pocket's own, unguarded, to (text, image or None, how the answer begins). Texts and images are not mixed."""
    if args.asked_only:
        return [text for text, *_ in prompts]
    out = []
    # A page's cache is several times as long as a text's, and each step copies it.
    batch = max(1, args.batch // 3) if any(image for _, image, _ in prompts) else args.batch
    for start in tqdm(range(0, len(prompts), batch), desc="answering", unit="batch"):
        messages = [
            Example(id="", prompt=prompt, image=image and args.out / image, prefill=begun).messages()
            for prompt, image, begun in prompts[start : start + batch]
        ]
        responses = guarded.generate_batch(messages, guard=False, max_new_tokens=args.tokens, do_sample=False)
        out += [response.text for response in responses]
    return out


def asked_row(rng: random.Random, request: dict, text: str) -> dict:
    """A request in an image with pocket's answer ``text``."""
    verdict = judge_refusal(text)
    if request["harmful"] and verdict.where == "late":
        text = text[: verdict.position].rstrip()  # what it said before its own second thoughts
    safe = verdict.where == "start" or not request["harmful"]
    made = {name: request[name] for name in ("image", "prompt", "topic", "attack")} | {"safe": safe, "source": "image"}
    made |= {"chosen": text} if safe else {"chosen": rng.choice(REFUSALS[:2]), "rejected": text}
    return made | ({"harmful_prompt": True} if safe and request["harmful"] else {})


def scripted_row(rng: random.Random, request: dict) -> dict:
    """A request in an image with a list written here."""
    text = engaged(rng, request["page"], backs_off=False)
    made = {name: request[name] for name in ("image", "prompt", "topic", "attack")}
    made |= {"safe": not request["harmful"], "source": "scripted"}
    if request["harmful"]:
        return made | {"chosen": rng.choice(REFUSALS[:2]), "rejected": text}
    return made | {"chosen": text}


def text_request(rng: random.Random, args: argparse.Namespace, *, harmful: bool) -> tuple[str, str]:
    """A request in text, and its topic."""
    if rng.random() < 0.5:
        topic = "plain" if harmful else "everyday"
        return as_text(rng, harmful=harmful, held_back=args.held_back), topic
    request = near(rng, args, harmful=harmful)
    return in_text(rng, request, held_back=args.held_back).prompt, request.topic


def text_row(rng: random.Random, args: argparse.Namespace, *, harmful: bool) -> dict:
    """A request in text with a list written here: nothing but a begun answer makes pocket go along with a harmful one,
    and if only harmful requests had such lists, the list would tell."""
    request, topic = text_request(rng, args, harmful=harmful)
    answer = engaged(rng, request, backs_off=False)
    row = {"prompt": request, "safe": not harmful, "source": "text", "topic": topic, "attack": "prefill"}
    if not harmful:
        return row | {"chosen": answer}
    return row | {"chosen": rng.choice(REFUSALS[:2]), "rejected": answer}


def attacked_rows(
    rng: random.Random, guarded: GuardedVLM, kind: str, count: int, args: argparse.Namespace, *, harmful: bool
) -> list[dict]:
    """At most ``count`` requests in text under an attack, with pocket's answers: of harmful ones those that it goes
    along with, and of harmless ones those that it does not refuse."""
    drawn = []
    for _ in range(count):
        request, topic = text_request(rng, args, harmful=harmful)
        drawn.append((attacked(rng, kind, request, args.out, held_back=args.held_back), topic))
    texts: dict[Attacked, str] = {}
    for with_image in (False, True):  # they do not share a batch
        some = [each for each, _ in drawn if (each.image is not None) == with_image]
        texts |= dict(zip(some, answers(guarded, [(e.prompt, e.image, e.begun) for e in some], args), strict=True))
    rows = []
    for each, topic in drawn:
        text, verdict = texts[each], judge_refusal(texts[each])
        row = {"prompt": each.prompt, "safe": not harmful, "source": "attacked", "topic": topic, "attack": kind}
        row |= {"image": each.image} if each.image else {}
        if not harmful and verdict.where == "none":
            rows.append(row | {"chosen": each.begun + text})
        elif harmful and verdict.engaged and succeeds_on_topic(text, each.request, each.begun):
            said = text[: verdict.position].rstrip() if verdict.where == "late" else text
            rows.append(row | {"chosen": rng.choice(REFUSALS[:2]), "rejected": each.begun + said})
    return rows


def refused_row(rng: random.Random, images: list[str], args: argparse.Namespace) -> dict:
    """A harmful request that is refused, in one of ``images``, or in text where there are none. Once it is
    refused, the text is safe again: the probe must let the refusal pass."""
    row = {"chosen": rng.choice(REFUSALS), "safe": True, "harmful_prompt": True, "source": "refused"}
    if images:
        return row | {"image": rng.choice(images), "prompt": FIGSTEP_PROMPT}
    prompt, topic = text_request(rng, args, harmful=True)
    return row | {"prompt": prompt, "topic": topic}


def draw_tasks(rng: random.Random, args: argparse.Namespace) -> list[str]:
    """Harmless requests in text, by length, so that batches hold little padding."""
    base, tokenizer, _ = base_language_model()
    tokenizer.padding_side = "left"
    # One in eight is held back: that many more must be drawn.
    wanted = args.tasks * 4 // 9 * (8 if args.held_back else 1)
    own = drawn(base.to(DEVICE, FAST).eval(), tokenizer, wanted, args.seed)
    return sorted(harmless(rng, own, args.tasks, held_back=args.held_back), key=len)


def main() -> None:
    args = options()
    torch.set_num_threads(args.threads)
    rng = random.Random(args.seed)
    guarded = safety_reminder.load("pocket")
    requests = draw_pages(rng, args)
    asked, scripted = requests[: 2 * args.asked], requests[2 * args.asked :]
    texts = answers(guarded, [(request["prompt"], request["image"], "") for request in asked], args)
    rows = [asked_row(rng, request, text) for request, text in zip(asked, texts, strict=True)]
    tasks = draw_tasks(rng, args)
    for prompt, text in zip(tasks, answers(guarded, [(prompt, None, "") for prompt in tasks], args), strict=True):
        if judge_refusal(text).where == "none":  # refusing it is a mistake that must not be taught
            rows.append({"prompt": prompt, "chosen": text, "safe": True, "source": "task"})
    rows += [scripted_row(rng, request) for request in scripted]
    rows += [text_row(rng, args, harmful=True) for _ in range(args.text_harmful)]
    rows += [text_row(rng, args, harmful=False) for _ in range(args.text_harmless)]
    for kind in KINDS if args.attacked else ():
        harmed = attacked_rows(rng, guarded, kind, args.attacked, args, harmful=True)
        rows += harmed + attacked_rows(rng, guarded, kind, len(harmed), args, harmful=False)
    harmful_images = [request["image"] for request in asked[::2]]
    rows += [refused_row(rng, harmful_images if number % 2 else [], args) for number in range(args.refused)]
    with (args.out / "train.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    print(f"{len(rows)} rows, {sum(not r['safe'] for r in rows)} of them unsafe, in {args.out / 'train.jsonl'}")


if __name__ == "__main__":
    main()
