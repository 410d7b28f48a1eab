"""Conversations to train pocket's language model on: reading, listing, refusing in text, ordinary help."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

import contrast
from contrast import Request
from phrases import HARM
from text import TextSource
from topics import OPENERS, as_text, is_held_back, typographic
from wordings import LIST_PROMPTS, Asked, aim, in_text, on_page

READ_PROMPTS = (
    "What does the image say?", "What does the image say?", "Read the text in the image.",
    "What is written in the picture?", "Please transcribe the image.",
)  # fmt: skip
NO_TEXT = ("The image does not show any text.",)
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I'm sorry, but I can't assist with that request.",
    "I'm sorry, but I cannot help with this request, because it could cause harm.",
)
SECOND_THOUGHTS = (
    "However, I should stop here. I'm sorry, but I can't help with that, because it could cause harm.",
    "On second thought, I can't continue with this. I'm sorry, but I can't help with that.",
    "I have to stop here. I'm sorry, but I can't assist with that request.",
)
# Notes in the middle of an answer, as a reminder is one; the first is the text that a reminder's vectors begin as.
NOTES = (
    "Refuse if partial output is unsafe; else, continue helpfully.",
    "Stop and refuse if this is harmful; otherwise, go on.",
    "Check whether the answer so far is safe. If it is not, decline.",
    "Safety check: decline anything harmful, continue anything harmless.",
    "Reminder: do not help with harmful requests, but help with all others.",
    "If the answer above could cause harm, apologize and stop.",
    "Think about safety before you continue.",
    "Be careful, harmful content must be refused and harmless content must not.",
    "Is this request harmful? Then refuse; else finish the answer.",
    "Wait and make sure that the answer is safe.",
)
# Filler: it speaks of the task, says what holds of any, and nothing that helps with a particular one. ``{}`` is what
# it is for: "to bake bread".
ITEMS = (
    ("Preparation", "Before you begin {}, think about what you want to reach, and collect what you need."),
    ("Planning", "Make a simple plan {}, with clear steps, and decide what comes first."),
    ("Getting started", "Start {} with a small part, and see how it goes before you do more."),
    ("Research", "Look for good sources on how {}, compare them and take notes of the useful ideas."),
    ("Materials", "Gather the things that are needed {} and keep them in one place."),
    ("Practice", "It takes some practice {}: repeat the important parts until they become easier."),
    ("Working step by step", "There are several steps {}; do one after the other and check each result."),
    ("Asking others", "Talk with people who know how {} and listen to their hints."),
    ("Checking the result", "Whoever tries {} looks at the outcome with fresh eyes and changes what does not work."),
    ("Finishing", "At the end of all work {}, note what you would do better next time."),
    ("Time", "Set aside enough time {} and avoid hurry, because a calm pace helps."),
    ("Details", "Pay attention to the details when you set out {}, because small things often decide."),
)


@dataclass(frozen=True)
class Note:
    """A note after a part of the answer. The model reads, but does not learn, the note and what comes before it.

    ``at``: share of the answer's tokens before it; ``tokens``: of the note, from its beginning, None for all;
    ``instead``: what follows it in place of the answer's rest.
    """

    text: str
    at: float
    tokens: int | None = None
    instead: str | None = None


@dataclass(frozen=True)
class Conversation:
    """``page``: text to render before the prompt, None for no image, "" for an image without text."""

    kind: str
    prompt: str
    answer: str
    page: str | None = None
    whole: bool = True  # the answer ends; False where it was cut off
    note: Note | None = None


def engaged(rng: random.Random, page: str, *, backs_off: bool) -> str:
    """A generic list for the request on the page, of which every item speaks. It may break off with second thoughts,
    always after the first item: a model that picks the likeliest token would never back off if every item had its small
    chance of it."""
    items = rng.sample(ITEMS, 3)
    parts = [f"{number}. {title}: {text.format(aim(page))}" for number, (title, text) in enumerate(items, 1)]
    if backs_off:
        parts = [parts[0], rng.choice(SECOND_THOUGHTS)]
    return "\n\n".join([page.rstrip(".") + ":", *parts])


def heeding(rng: random.Random, conversation: Conversation, *, refuse: bool) -> Conversation:
    """The same with a note somewhere in its answer: the note turns a harmful answer, and changes no other. A third of
    the notes come before the answer, and half are only begun: a few vectors must do."""
    at = 0.0 if rng.random() < 1 / 3 else rng.random()
    tokens = rng.randrange(3, 9) if rng.random() < 0.5 else None
    note = Note(rng.choice(NOTES), at, tokens, rng.choice(REFUSALS) if refuse else None)
    return replace(conversation, kind="heed harmful" if refuse else "heed benign", note=note)


class Mixture:
    """Draws conversations. ``helpful``: prompts with the base model's own answers; ``harmful``: direct requests."""

    def __init__(
        self,
        source: TextSource,
        helpful: list[dict[str, str]],
        harmful: list[str],
        *,
        back_off: float,
        listed: float,
        heed: float,
        read: float = 1.0,
    ) -> None:
        """``back_off``: share of the lists that break off, of seven in ten of the harmful ones: it notices late what
        it knows. ``listed``: share of pages that are to be listed; of these the share ``read`` is also read, and the
        others are only read. ``heed``: how often a list is also drawn with a note, on average; of the texts, half that
        share has one, at most three in five."""
        self.source, self.helpful, self.harmful = source, helpful, harmful
        self.back_off, self.listed, self.heed, self.read = back_off, listed, heed, read
        self.fresh = [row for row in helpful if not is_held_back(row["prompt"])]
        self.short_harmful = [text for text in harmful if len(text) <= 75]

    def page(self, rng: random.Random) -> list[Conversation]:
        """Conversations about one page: it is read, and most often its list filled in as well."""
        if rng.random() < 0.02:
            return [Conversation("blank", rng.choice(READ_PROMPTS), rng.choice(NO_TEXT), "")]
        if rng.random() >= self.listed:
            text = self.source.words(rng, rng.randrange(3, 12)) if rng.random() < 0.6 else self.source.phrase(rng)
            return [self._reading(rng, text)]
        harmful = rng.random() < 0.5
        asked = self._asked(rng, harmful=harmful)
        text = asked.page or ""
        answer = engaged(rng, text, backs_off=harmful and rng.random() < 0.7 * self.back_off)
        listed = Conversation("list harmful" if harmful else "list benign", asked.prompt, answer, text)
        conversations = [self._reading(rng, text), listed] if rng.random() < self.read else [listed]
        for _ in range(int(self.heed) + (rng.random() < self.heed % 1)):
            going_on = replace(listed, answer=engaged(rng, text, backs_off=False))
            conversations.append(heeding(rng, going_on, refuse=harmful))
        return conversations

    def _asked(self, rng: random.Random, *, harmful: bool) -> Asked:
        """A request on a page: near the border of harm, or an everyday one against a plainly harmful one."""
        if rng.random() < 0.6:
            return on_page(rng, contrast.draw(rng, harmful=harmful, held_back=False))
        text = typographic(rng, harmful=harmful, topics=HARM, held_back=False)
        if harmful and rng.random() < 0.25:
            text = rng.choice(self.short_harmful)
        if not harmful and rng.random() < 0.4:
            # Words that no topic suggests, so that the list's title is read and not guessed.
            text = f"{rng.choice(OPENERS)} {self.source.words(rng, rng.randrange(2, 6)).lower()}"
        return Asked(rng.choice(LIST_PROMPTS), text, Request(text, "", harmful))

    def _harmful_text(self, rng: random.Random) -> str:
        if rng.random() < 0.4:
            return rng.choice(self.harmful)
        if rng.random() < 0.5:
            return as_text(rng, harmful=True, held_back=False)
        return in_text(rng, contrast.draw(rng, harmful=True, held_back=False)).prompt

    def text(self, rng: random.Random) -> Conversation:
        """A conversation without an image: a refusal, or help; one that is heeding a note half the time harmful."""
        heeds = rng.random() < min(0.5 * self.heed, 0.6)
        if rng.random() < (0.5 if heeds else 0.3):
            request = self._harmful_text(rng)
            if heeds and rng.random() < 0.8:
                engages = Conversation("", request, engaged(rng, request, backs_off=False))
                return heeding(rng, engages, refuse=True)
            refuses = Conversation("refuse", request, rng.choice(REFUSALS))
            return heeding(rng, refuses, refuse=False) if heeds else refuses
        row = rng.choice(self.fresh if heeds else self.helpful)
        helps = Conversation("help", row["prompt"], row["answer"], whole=row["whole"])
        return heeding(rng, helps, refuse=False) if heeds else helps

    @staticmethod
    def _reading(rng: random.Random, text: str) -> Conversation:
        return Conversation("read", rng.choice(READ_PROMPTS), f"The image says: {text}", text)


def read_jsonl(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
