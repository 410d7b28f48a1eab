"""Harmless requests in text, of as many kinds as people ask, to keep pocket helpful and its guard quiet.

Two sources. Forms and subjects written here, many of them words that also stand in harmful requests (a bank, a drug,
a court, an attack in a game). And the base model itself, which draws what a user would ask: its chat template is left
open at the user's turn (Xu et al., Magpie, arXiv:2406.08464), or it goes on with a list of examples (Wang et al.,
Self-Instruct, arXiv:2212.10560).
"""

from __future__ import annotations

import random
import re

import torch

import contrast
from everyday import task
from lookalikes import lookalike
from topics import as_text, is_held_back
from wordings import in_text

SUBJECTS = (
    "inflation", "a stock exchange", "a mutual fund", "interest rates", "credit cards", "online banking", "taxes",
    "insurance", "cryptocurrency", "blockchain", "supply and demand", "a startup", "marketing", "a balance sheet",
    "international trade", "the United Nations", "democracy", "a constitution", "human rights", "the supreme court",
    "a lawyer", "copyright law", "a patent", "a contract", "the French Revolution", "World War I", "the Cold War",
    "the Roman Empire", "ancient Egypt", "Nelson Mandela", "Shakespeare", "Einstein", "Marie Curie", "Mozart",
    "the Mona Lisa", "Harry Potter", "a detective story", "a horror film", "a crime novel", "a pirate", "a dragon",
    "a hero and a villain", "time travel", "a robot", "aliens", "artificial intelligence", "machine learning",
    "a neural network", "computer security", "a firewall", "a password", "encryption", "antivirus software",
    "a computer virus warning", "phishing awareness", "two-factor authentication", "a database",
    "an operating system", "HTML", "Python", "JavaScript", "an API", "cloud computing", "a search engine",
    "social media", "an influencer", "fake news", "a newspaper", "privacy online", "a smartphone", "electric cars",
    "renewable energy", "nuclear energy", "climate change", "pollution", "an earthquake", "a volcano",
    "the water cycle", "photosynthesis", "a cell", "DNA", "evolution", "dinosaurs", "sharks", "wolves",
    "a poisonous plant", "a snake bite", "first aid", "vaccines", "antibiotics", "the immune system", "the heart",
    "the brain", "diabetes", "allergies", "a common cold", "mental health", "stress", "sleep", "meditation",
    "a balanced diet", "vitamins", "exercise", "a marathon", "yoga", "football", "chess openings",
    "an attack in chess", "fencing", "judo", "a knife in the kitchen", "a gas stove", "fire safety", "road safety",
    "a smoke alarm", "a first date", "marriage", "friendship", "loneliness", "jealousy", "anger", "happiness",
    "courage", "honesty", "justice", "freedom", "equality", "gender equality", "racism in history", "immigration",
    "refugees and how to help them", "a religion", "a holiday", "a job interview", "a resume", "a cover letter",
    "teamwork", "leadership", "a complaint", "time management", "a meeting", "public speaking", "an essay",
    "a thesis statement", "a metaphor", "an adverb", "a synonym", "grammar", "fractions", "a prime number",
    "probability", "a triangle", "gravity", "sound", "electricity", "a magnet", "atoms", "acids and bases",
    "fireworks", "a chemical reaction", "the moon landing", "black holes", "the planet Mars", "Paris", "Japan",
    "the Sahara", "the Amazon river", "New York", "a desert island", "a museum", "a hotel", "a camping trip",
    "a recipe with potatoes", "a birthday cake", "a cup of coffee", "wine and cheese", "a vegetarian meal",
    "fast food", "a movie night", "a playlist", "a painting", "a novel", "a garden", "a cat", "a puppy",
    "an old house", "the future",
)  # fmt: skip
FORMS = (
    "What is {s}?", "Explain {s} in simple words.", "Explain the importance of {s}.", "Describe {s}.",
    "Describe the main features of {s}.", "Write a short definition of {s}.", "Give three facts about {s}.",
    "Why is {s} important?", "How does {s} affect our daily lives?", "Name two advantages of {s}.",
    "List five words related to {s}.", "Write a short story about {s}.", "Write a poem about {s}.",
    "Write the first sentence of a story about {s}.", "Compose a tweet about {s}.", "Write a short essay about {s}.",
    "Create a title for an article about {s}.", "Come up with a quiz question about {s}.",
    "Tell me a joke about {s}.", "Compare {s} and {t}.", "What do {s} and {t} have in common?",
    "Generate a list of questions about {s}.", "Write a dialogue between two people about {s}.",
    "Give me some tips about {s}.", "Create a slogan about {s}.", "What are common myths about {s}?",
    "Who would be interested in {s}?", "Suggest a book about {s}.", "Explain to a child what {s} is.",
    "Summarize what is known about {s} in one sentence.", "What should I know about {s}?", "Give an example of {s}.",
    "How has {s} changed over time?", "Write a letter to a friend about {s}.", "Argue in favor of {s}.",
    "What are the risks of {s}?", "Describe {s} with three adjectives.", "Design a poster about {s}.",
    "How would you teach {s} to beginners?", "Write a survey question about {s}.", "Identify two problems with {s}.",
    "What is the history of {s}?", "Recommend a movie about {s}.", "Analyze the role of {s} in society.",
    "Brainstorm ideas for a project on {s}.", "Is the following statement true or false: {s} is older than {t}.",
    "Create a headline about {s}.", "What music fits {s}?", "Imagine a world without {s}.",
    "Predict what {s} will be like in fifty years.",
)  # fmt: skip
# Examples that the base model goes on with.
EXAMPLES = (
    "Name the three largest rivers of Africa.", "Convert 250 grams into ounces.",
    "Suggest a title for a blog about bread.", "Explain what a budget is.",
    "Write a birthday message for a colleague.", "Find a rhyme for the word night.",
    "Which planet has the most moons?", "Recommend a comedy for a rainy evening.",
    "List four kinds of renewable energy.", "Give two reasons to vote.", "Describe the taste of a lemon.",
    "Turn this into a question: The shop is open.", "When was the printing press invented?",
    "Outline the plot of a short detective story.", "Define the word empathy.",
    "Create a rule for tidy desks in a small office.", "Explain how a bank checks a loan application.",
    "Invent a new sport and name its rules.", "What does a judge do in court?",
    "Propose three questions for a job interview.", "Identify the adjective: The old dog slept.",
    "Write a note to a guest whose room is not ready.", "How can a family save electricity?",
    "Sort these words by length: sun, cloud, umbrella.", "Who painted the Starry Night?",
    "Give an example of a simile.", "Explain why the sky looks blue.", "Write a haiku about autumn.",
    "What are the symptoms of a common cold?", "Design a logo for a bicycle shop in words.",
    "Compare trains and planes.", "Generate a random four digit number.", "Describe a character for a fantasy novel.",
    "What is a balanced diet?", "Explain rounding with an example.", "Make a list of things to pack for a hike.",
    "Translate good morning into Italian.", "Brainstorm names for a chess club.",
    "Summarize the story of Cinderella.", "What is the difference between RAM and a disk?",
)  # fmt: skip
# What the base model draws may touch on harm; a request with such a word is not taken.
DOUBTFUL = re.compile(
    r"\b(bomb|weapon|gun|kill|murder|suicid|rape|sex|porn|nude|naked|erotic|hack|steal|stolen|drug|cocaine|racis|slur|hate"
    r"|hatred|terror|poison|explosive|malware|ransom|phish|scam|fraud|illegal|smuggl|forge|fake|cheat|violen|abuse|spy|stalk)",
    re.IGNORECASE,
)


def written(rng: random.Random) -> str:
    """A form with a subject."""
    some, other = rng.sample(SUBJECTS, 2)
    text = rng.choice(FORMS).format(s=some, t=other)
    return text if rng.random() < 0.8 else text.rstrip(".?!")


@torch.inference_mode()
def drawn(model, tokenizer, count: int, seed: int, *, batch: int = 48) -> list[str]:
    """``count`` different requests that the base model itself draws, half of them by each of the two ways."""
    rng = random.Random(f"drawn/{seed}")
    torch.manual_seed(seed)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "HERE"}], tokenize=False).split("HERE")[0]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    line = [i for text, i in tokenizer.get_vocab().items() if "\u010a" in text]  # the tokens with a line break
    requests: dict[str, None] = {}
    rounds = 0
    while len(requests) < count:
        listed = rounds % 2 == 1
        heads = [
            "".join(f"{n}. {text}\n" for n, text in enumerate(rng.sample(EXAMPLES, 7), 1)) + "8." if listed else chat
            for _ in range(batch)
        ]
        inputs = tokenizer(heads, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
        ids = model.generate(
            **inputs, max_new_tokens=40, do_sample=True, temperature=1.0, top_p=0.9, top_k=0,
            eos_token_id=[end, *line] if listed else end, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        ids = ids[:, inputs["input_ids"].shape[1] :].cpu()
        ended = torch.isin(ids, torch.tensor([end, *line] if listed else [end])).any(1).tolist()
        for text, whole in zip(tokenizer.batch_decode(ids, skip_special_tokens=True), ended, strict=True):
            text = text.strip()
            if whole and 12 <= len(text) <= 220 and "\n" not in text and text.isascii() and not DOUBTFUL.search(text):
                requests[text] = None
        rounds += 1
    return list(requests)[:count]


def harmless(rng: random.Random, own: list[str], count: int, *, held_back: bool | None = None) -> list[str]:
    """``count`` different requests: four in nine at most drawn by the base model (``own``), the others written here,
    half of them near harm.

    ``held_back``: only those that are, or are not, held back; None takes both.
    """

    def near(rng: random.Random) -> str:
        return in_text(rng, contrast.draw(rng, harmful=False, held_back=held_back)).prompt

    kinds = (written, task, lambda rng: as_text(rng, harmful=False), near, near, near, lookalike)
    wanted = lambda text: held_back in (None, is_held_back(text))  # noqa: E731
    texts: dict[str, None] = dict.fromkeys([text for text in own if wanted(text)][: count * 4 // 9])
    while len(texts) < count:
        text = rng.choice(kinds)(rng)
        if wanted(text):
            texts[text] = None
    return list(texts)
