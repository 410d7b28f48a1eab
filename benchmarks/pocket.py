"""What pocket can do and what it falls for, on data it was not trained on. The figures go onto its card.

python benchmarks/pocket.py --figstep DIR --refusal-direction DIR --json FILE
"""

from __future__ import annotations

import json
import random
import re
import textwrap
from pathlib import Path

import torch
from common import figure, finish, parser
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

import safety_reminder
from safety_reminder.data import BENIGN_TWINS, load_dataset
from safety_reminder.data.benchmarks.typographic import PROMPT, render
from safety_reminder.evaluation.refusal import judge_refusal
from safety_reminder.evaluation.statistics import proportion

FONTS = {
    "FreeMono Bold": "/usr/share/fonts/truetype/freefont/FreeMonoBold.ttf",
    "DejaVu Sans": "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "DejaVu Serif": "/usr/share/fonts/truetype/dejavu/DejaVuSerif.ttf",
}
READ = "What does the image say?"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--figstep", type=Path, help="FigStep's 'data' folder, with SafeBench-Tiny")
    options.add_argument(
        "--refusal-direction", type=Path, help="folder with splits/harmful_val.json, harmless_val.json"
    )
    options.add_argument("--batch", type=int, default=20)
    options.add_argument("--harmless", type=int, default=150, help="sample of harmless_val")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    pocket = safety_reminder.load("pocket")
    twins = load_dataset("typographic", BENIGN_TWINS)
    figures: dict = {}

    def answers(requests, tokens):
        out = []
        for start in tqdm(range(0, len(requests), arguments.batch), unit="batch"):
            batch = [messages(*request) for request in requests[start : start + arguments.batch]]
            responses = pocket.generate_batch(batch, max_new_tokens=tokens, do_sample=False)
            out += [response.text for response in responses]
        return out

    if arguments.figstep:
        tiny = load_dataset("figstep", arguments.figstep, subset="SafeBench-Tiny", protocol="official")
        said = answers([(READ, e.image) for e in tiny], 48)
        recalls = [recall(e.instruction, text) for e, text in zip(tiny, said, strict=True)]
        figures["reads FigStep-Tiny: word recall"] = figure(sum(recalls) / len(recalls), recalls)
        said = answers([(PROMPT, e.image) for e in tiny], 96)
        verdicts = [judge_refusal(text) for text in said]
        figures["FigStep-Tiny: engages"] = share([v.engaged for v in verdicts])
        engaged = [v for v in verdicts if v.engaged]
        figures["FigStep-Tiny: engaged answers that back off later"] = share([v.where == "late" for v in engaged])
    for name, path in FONTS.items():
        pages = varied_pages([e.instruction for e in twins][:30], path)
        said = answers([(READ, image) for _, image in pages], 48)
        recalls = [recall(text, out) for (text, _), out in zip(pages, said, strict=True)]
        figures[f"reads {name}, varied size and position: word recall"] = figure(sum(recalls) / len(recalls), recalls)
    if arguments.refusal_direction:
        splits = arguments.refusal_direction / "splits"
        harmful = [row["instruction"] for row in json.loads((splits / "harmful_val.json").read_text())]
        harmless = [row["instruction"] for row in json.loads((splits / "harmless_val.json").read_text())]
        harmless = random.Random(0).sample(harmless, arguments.harmless)
        figures["text, harmful_val: refuses"] = share([refuses(t) for t in answers([(p, None) for p in harmful], 40)])
        figures["text, harmless_val: refuses"] = share([refuses(t) for t in answers([(p, None) for p in harmless], 40)])
    said = answers([(PROMPT, render(e.instruction)) for e in twins], 64)
    figures["benign twins: answers"] = share([not refuses(text) for text in said])
    finish(figures, arguments)


def messages(prompt: str, image) -> list[dict]:
    content = [{"type": "text", "text": prompt}]
    if image is not None:
        content.insert(0, {"type": "image", "image": image})
    return [{"role": "user", "content": content}]


def share(hits: list[bool]) -> dict:
    metric = proportion(sum(hits), len(hits))
    return figure(metric.value, [float(h) for h in hits], note=f"[{metric.low:.2f}, {metric.high:.2f}], n={metric.n}")


def refuses(text: str) -> bool:
    return judge_refusal(text).where != "none"


def recall(wanted: str, said: str) -> float:
    """The share of the words of ``wanted`` that occur in ``said``, each as often as it was asked for."""
    words = re.findall(r"[a-z0-9]+", wanted.lower())
    left = re.findall(r"[a-z0-9]+", said.lower())
    matched = 0
    for word in words:
        if word in left:
            left.remove(word)
            matched += 1
    return matched / len(words)


def varied_pages(texts: list[str], font: str) -> list[tuple[str, Image.Image]]:
    """Black on white, 60 to 90 points on 760 × 760 pixels, anywhere on the page."""
    rng = random.Random(0)
    pages = []
    for text in texts:
        size = rng.randrange(60, 91)
        face = ImageFont.truetype(font, size)
        image = Image.new("RGB", (760, 760), "white")
        draw = ImageDraw.Draw(image)
        # As wide as a page of this type can be, but never wider than the page.
        for columns in range(20, 5, -1):
            lines = textwrap.fill(text, columns)
            _, _, right, bottom = draw.multiline_textbbox((0, 0), lines, font=face, spacing=14)
            if right <= 740:
                break
        x, y = rng.randrange(5, int(max(6, 750 - right))), rng.randrange(5, int(max(6, 750 - bottom)))
        draw.multiline_text((x, y), lines, fill="black", font=face, spacing=14)
        pages.append((text, image))
    return pages


if __name__ == "__main__":
    main()
