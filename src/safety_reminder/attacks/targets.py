"""What an attacked model is to begin its answers with.

A target decides what success means. "Sure, here are the steps" can be reached by one stock answer to every request,
which a judge of refusals counts as that many successes. A target that names the request, in the model's own form of
compliance, cannot.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from safety_reminder.attacks.corpora import read_corpus
from safety_reminder.attacks.goals import Goal
from safety_reminder.attacks.options import TargetsConfig
from safety_reminder.data.files import need_columns
from safety_reminder.data.tables import read_rows, text_of
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.types import Example

# Harmless requests, by whose answers a model's own form of compliance is known.
ORDINARY = (
    "Steps to bake a loaf of bread.",
    "Ways to clean a window.",
    "Steps to sew a button onto a shirt.",
    "Methods to learn a poem by heart.",
    "Steps to plan a birthday party.",
    "Ways to save water at home.",
    "Steps to repair a bicycle tyre.",
    "Ways to keep houseplants healthy.",
)
_FALLBACK = ":\n\n1."  # a list that is headed by what was asked
_FORM = re.compile(r"\s*(?:[:–—]|\s-\s|\n)\s*(?:1[.)])?")
_CLOSING = ".?!:; \n"

Answer = Callable[[Sequence[Example]], list[str]]  # a model's answers to examples


def require_own_targets(config: TargetsConfig, attack: str) -> None:
    """Raises: ConfigError: targets that belong to no request, for an attack on each of them."""
    if config.kind == "corpus":
        raise ConfigError(f"{attack} needs a target for each request; targets.kind=corpus has none")


def make_goals(examples: Sequence[Example], config: TargetsConfig, answer: Answer) -> list[Goal]:
    """Every example with its target; of a corpus, a goal for each of its lines, which asks nothing.

    Args:
        answer: the attacked model's answers; asked where an echo needs to know its form.

    Raises:
        ConfigError, DataError: a table that cannot be read, or has no target for an example.
    """
    match config.kind:
        case "generic":
            return [Goal(example, config.text) for example in examples]
        case "corpus":
            return [
                Goal(replace(examples[0], id=f"corpus-{number}", prompt="", instruction=""), text)
                for number, text in enumerate(read_corpus(Path(str(config.file)).expanduser()))
            ]
        case "csv":
            by_goal = _table(Path(str(config.file)).expanduser())
            return [Goal(example, _listed(example, by_goal, config)) for example in examples]
    form = config.form
    if form is None:
        form = own_form(ORDINARY, answer([_ordinary(example) for example in _like(examples, len(ORDINARY))]))
    return [Goal(example, echo(asked(example), form)) for example in examples]


def asked(example: Example) -> str:
    """What an example asks for."""
    return example.instruction or example.prompt


def echo(request: str, form: str) -> str:
    """The request, as the heading of its answer."""
    return request.strip().rstrip(_CLOSING) + form


def own_form(requests: Sequence[str], answers: Sequence[str]) -> str:
    """What a model's answers have after the request that they repeat as a heading, up to the first word: a colon, a
    dash or a line break, and perhaps the number of a list. The most common form, or ``":\\n\\n1."`` where fewer than
    two answers have one. What goes on in the same sentence, after a comma, is no heading, and aiming at it would leave
    open how the sentence ends."""
    forms: Counter[str] = Counter()
    for request, text in zip(requests, answers, strict=True):
        last = request.strip().rstrip(_CLOSING).split()[-1]
        place = text.lower().find(last.lower(), 0, 2 * len(request))
        if place < 0:
            continue
        rest = text[place + len(last) :]
        if follows := _FORM.match(rest):
            forms[follows[0].rstrip(" ")] += 1
    form, count = forms.most_common(1)[0] if forms else ("", 0)
    return form if count > 1 else _FALLBACK


def _like(examples: Sequence[Example], count: int) -> list[Example]:
    """So many examples that show what the attacked ones do: an image, or none."""
    return [replace(examples[0], id=f"form-{number}") for number in range(count)]


def _ordinary(example: Example) -> Example:
    return replace(example, prompt=ORDINARY[int(example.id.removeprefix("form-"))], instruction="")


def _table(path: Path) -> Mapping[str, str]:
    if not path.is_file():
        raise DataError(f"no table of targets at {path}; give targets.file=FILE.csv with the columns goal and target")
    rows = read_rows(path)
    need_columns(rows, ("goal", "target"), path)
    return {
        text_of(row, "goal", f"{path}, row {n}"): text_of(row, "target", f"{path}, row {n}")
        for n, row in enumerate(rows, 1)
    }


def _listed(example: Example, by_goal: Mapping[str, str], config: TargetsConfig) -> str:
    target = by_goal.get(asked(example))
    if target is None:
        raise DataError(
            f"{config.file} has no target for {asked(example)[:60]!r}; its column goal must hold the requests"
        )
    return target + config.continuation
