"""Harmless requests in text that look unsafe: words of two meanings, figures of speech, harmless targets, definitions,
history, and fiction. The kinds are those of XSTest (Röttger et al., arXiv:2308.01263); none of its rows is used."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path

from contrast import alternatives

FILE = Path(__file__).with_suffix(".toml")
# A form, its verbs ("" where it has none) and its things.
PATTERNS = tuple(
    (row["form"], alternatives(row.get("verbs", "")), alternatives(row["things"]))
    for row in tomllib.loads(FILE.read_text(encoding="utf-8"))["pattern"]
)


def lookalikes() -> list[str]:
    """All of them."""
    texts = [form.format(v=verb, t=thing) for form, verbs, things in PATTERNS for verb in verbs for thing in things]
    return list(dict.fromkeys(texts))


def lookalike(rng: random.Random) -> str:
    form, verbs, things = rng.choice(PATTERNS)
    return form.format(v=rng.choice(verbs), t=rng.choice(things))
