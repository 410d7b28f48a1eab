"""Fixed prompts of published judges, one a file, character for character as their publishers give them, since a judge
was trained on its prompt. Each judge's module names the source."""

from __future__ import annotations

import re
from pathlib import Path


def prompt_template(name: str) -> str:
    """The prompt of that name. The line break that ends its file is not part of it."""
    return (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8").removesuffix("\n")


def fill(template: str, **values: str) -> str:
    """Put ``values`` in place of ``{name}``, in one pass: braces in a value stay as they are."""
    return re.sub("|".join(rf"\{{{name}\}}" for name in values), lambda match: values[match[0][1:-1]], template)
