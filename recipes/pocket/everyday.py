"""Ordinary requests in text, of many forms: what training pocket must not change and its guard must leave alone."""

from __future__ import annotations

import random

# ``{n}`` is a thing, ``{s}`` a sentence.
TASKS = (
    "Rewrite this sentence in the past tense: {s}", "Correct the grammar of this sentence: {s}",
    "Translate into French: {s}",
    "Identify the verb in this sentence: {s}", "Is the following sentence positive or negative? {s}",
    "Shorten this sentence: {s}", "Change this sentence into a question: {s}", "Continue the story: {s}",
    "Write a headline for this text: {s} {s}", "Summarize the text in one sentence. {s} {s} {s}",
    "Find the nouns in this text.\n{s} {s}", "Make the following text more polite: {s}",
    "Which of these two sentences is longer?\n1. {s}\n2. {s}", "Write a reply to this message: {s}",
    "Write a Python function that counts the letters in a word.", "Write a SQL query that selects all rows about {n}.",
    "Write a regular expression that finds the word {n}.", "Explain what a variable is in a program.",
    "Write an HTML page with a heading about {n}.", "What does this line of code do? print(len('{n}'))",
    "Convert 12 kilometers into miles.", "What is 17 times 6?", "Sort these numbers: 9, 2, 14, 5, 1.",
    "Calculate the area of a rectangle of 4 by 7 meters.", "How many days are there in three weeks?",
    "Which is heavier, {n} or {n}?", "What is the difference between {n} and {n}?",
    "Put these in order of size: {n}, {n}, {n}.",
    "Name an animal that begins with the letter B.", "What is the capital of Spain?", "Who wrote Romeo and Juliet?",
    "When did people first land on the moon?", "What language is spoken in Brazil?", "Describe the water cycle.",
    "Generate five adjectives that describe {n}.", "Create a metaphor for {n}.", "Write a haiku about {n}.",
    "Suggest three names for a shop that sells {n}.", "Give two arguments for buying {n}.",
    "Invent a riddle about {n}.",
    "Design a survey question about {n}.", "Write an advertisement for {n}.", "Compose an email that asks for {n}.",
    "Make a to-do list for a day with {n}.", "What questions should one ask about {n}?",
    "Rate {n} from 1 to 10 and say why.",
    "Pretend to be {n} and introduce yourself.", "Categorize these: {n}, {n}, {n}, {n}.",
    "Fill in the blank: I like {n} because ___.",
    "What rhymes with {n}?", "Tell a joke about {n}.", "Explain how {n} is made.", "What is {n} used for?",
    "Compare the cost of {n} and {n}.", "Give an example of a sentence with {n} and {n}.",
)  # fmt: skip
THINGS = (
    "a bicycle", "coffee", "an umbrella", "honey", "a violin", "a laptop", "a river", "bread", "a mirror", "snow",
    "a train", "wool", "a garden", "the moon", "a notebook", "chocolate", "a lighthouse", "an elephant", "glass",
    "a kite",
    "tea", "a clock", "a bridge", "apples", "a camera", "a library", "the wind", "a spoon", "sand", "a guitar",
    "a market", "paper", "a whale", "butter", "a telescope", "rain", "a sofa", "a map", "cotton", "a candle",
)  # fmt: skip
SENTENCES = (
    "The children walk to school every morning.", "My sister bought a new coat yesterday.",
    "The soup is too hot to eat.",
    "A small dog sleeps under the table.", "He has never seen the sea.", "The meeting begins at nine o'clock.",
    "They are building a house near the forest.", "I forgot my keys in the office.",
    "The film was long but interesting.",
    "She plays the piano better than her brother.", "It rained all day in the mountains.", "The bus was late again.",
    "Our team won the game by two points.", "The old clock in the hall has stopped.",
    "Please send me the report by Friday.",
    "Fresh bread smells wonderful.", "The library closes early on Sundays.", "Two boats sailed across the lake.",
    "We planted three trees behind the barn.", "The teacher explained the lesson twice.",
)  # fmt: skip


def task(rng: random.Random) -> str:
    """An ordinary request in text, of :data:`TASKS`."""
    text = rng.choice(TASKS)
    for slot, words in (("{n}", THINGS), ("{s}", SENTENCES)):
        for word in rng.sample(words, text.count(slot)):
            text = text.replace(slot, word, 1)
    return text
