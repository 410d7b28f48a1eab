"""What the pages say: words and phrases to render, drawn so that rare tokens are seen too.

Sources, all free to share: the word list of Debian's ``wamerican`` (SCOWL, permissive), the requests of
``harmful_train`` from Arditi et al. (Apache-2.0), and the phrases written here. No row of FigStep is used.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

OPENERS = (
    "Steps to", "Methods to", "Ways to", "List of", "How to", "Tips for", "Guide to", "Reasons to",
    "Tools to", "Instructions to", "Things to know about", "Ideas for", "Tactics for", "Advice on",
    "Techniques to", "Examples of", "Benefits of", "Plan to", "Materials for", "Tricks to",
)  # fmt: skip
VERBS = (
    "bake", "build", "clean", "fix", "grow", "learn", "paint", "plan", "repair", "sell", "write", "make",
    "find", "choose", "store", "train", "cook", "draw", "improve", "manage", "organize", "prepare",
    "protect", "record", "remove", "save", "send", "share", "start", "stop", "test", "wash", "avoid",
    "create", "design", "develop", "explain", "get", "hide", "hold", "increase", "install", "measure",
    "obtain", "open", "produce", "promote", "reduce", "replace", "secure", "spread", "support", "use",
)  # fmt: skip
OBJECTS = (
    "bread", "a garden", "a kitchen", "a bicycle", "tomatoes", "a new language", "a wooden fence",
    "a birthday party", "a leaking tap", "old furniture", "a short story", "a web page", "a budget",
    "apartments", "fresh vegetables", "a puppy", "vegetable soup", "a portrait", "sleep quality",
    "a small business", "a bookshelf", "a school trip", "your phone", "a podcast", "coffee stains",
    "energy at home", "a letter", "photos with family", "a running habit", "smoking", "a recipe",
    "wool sweaters", "traffic", "a logo", "a software project", "a contract", "tickets", "a surprise",
    "a meeting", "muscle strength", "a printer", "body temperature", "a passport", "wine", "paper",
    "local news", "food waste", "a broken window", "a house", "rumors", "children in learning to read",
    "a wireless network", "insurance for a car", "a tax form", "bank accounts", "medical records",
    "customers", "employees", "a password", "strong glue", "a campaign", "electronic devices",
    "goods", "documents", "a website", "information", "messages", "other people", "a group", "a computer",
)  # fmt: skip
TAILS = (
    "", "", "", "", "at home", "without much money", "in one week", "for beginners", "on a small budget",
    "in the city", "without tools", "before winter", "with children", "step by step", "for a friend",
    "based on experience", "in a short time", "from scratch", "in public places", "against the rules",
    "from other countries", "through social media", "according to the law", "over the internet",
)  # fmt: skip


class TextSource:
    """Draws page texts. Its words are mostly those that the tokenizer keeps whole and ranks early.

    ``exponent``: how steeply the weight falls with rank; ``share``: of phrases among the texts.

    The rank of a BPE token is close to the frequency rank of its word, so it stands in for a frequency list.
    """

    def __init__(
        self,
        tokenizer,
        word_list: Path,
        phrases: list[str],
        *,
        vocabulary: int = 12_000,
        exponent: float = 0.6,
        share: float = 0.25,
    ) -> None:
        words = sorted({w.strip() for w in word_list.read_text().splitlines() if w.strip().isascii()})
        words = [w for w in words if w.isalpha() and w.islower() and len(w) <= 15]
        encoded = tokenizer([" " + w for w in words], add_special_tokens=False)["input_ids"]
        whole = [(ids[0], w) for w, ids in zip(words, encoded, strict=True) if len(ids) == 1]
        split = [(max(ids), w) for w, ids in zip(words, encoded, strict=True) if len(ids) == 2]
        whole.sort()
        split.sort()
        whole, split = whole[:vocabulary], split[: 2 * vocabulary]
        self.whole = [w for _, w in whole]
        self.split = [w for _, w in split]
        rank = np.arange(len(self.whole))
        self.whole_cumulative = np.cumsum((rank + 300.0) ** -exponent)
        rank = np.arange(len(self.split))
        self.split_cumulative = np.cumsum((rank + 3000.0) ** -exponent)
        self.phrases, self.share = phrases, share

    def word(self, rng: random.Random) -> str:
        table, cumulative = (
            (self.whole, self.whole_cumulative) if rng.random() < 0.8 else (self.split, self.split_cumulative)
        )
        return table[int(np.searchsorted(cumulative, rng.random() * cumulative[-1]))]

    def words(self, rng: random.Random, count: int) -> str:
        out = [self.word(rng) for _ in range(count)]
        if rng.random() < 0.6:
            out[0] = out[0].capitalize()
        for i in range(count):
            roll = rng.random()
            if roll < 0.05:
                out[i] = out[i].capitalize()
            elif roll < 0.06:
                out[i] = str(rng.randrange(1, 2000))
            elif roll < 0.10:
                out[i] += rng.choice(",,,;:?'s")
        return " ".join(out) + rng.choice([".", ".", "", "!", "?"])

    def phrase(self, rng: random.Random) -> str:
        if rng.random() < 0.35:
            return rng.choice(self.phrases)
        parts = [rng.choice(OPENERS), rng.choice(VERBS), rng.choice(OBJECTS), rng.choice(TAILS)]
        if rng.random() < 0.4:
            parts[2] = " ".join(self.word(rng) for _ in range(rng.randrange(1, 4)))
        return " ".join(p for p in parts if p) + rng.choice([".", ".", ".", ""])

    def draw(self, rng: random.Random) -> str:
        return self.phrase(rng) if rng.random() < self.share else self.words(rng, rng.randrange(6, 22))


def shared_phrases(folder: Path) -> list[str]:
    """Requests of refusal_direction's ``harmful_train``, the longest left out."""
    rows = json.loads((folder / "splits" / "harmful_train.json").read_text())
    texts = [row["instruction"].strip() for row in rows]
    return [text for text in texts if len(text) <= 110]
