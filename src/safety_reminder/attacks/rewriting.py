"""Rewriting of prompts by a chat model, round after round, until the attacked model answers the original question.

The second step of BAP (Ying et al., arXiv:2406.04031): a judge looks at the answer, and a chat model says by a chain of
thought why the prompt was declined and writes another. Unlike the published code, the attacked model is whatever is
handed in, defended or not, and a success is an answer to the original question, not to what it was rewritten into.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from safety_reminder.attacks.base import Ask
from safety_reminder.attacks.options import RewriteConfig
from safety_reminder.attacks.rewrites import Rewriting, build_question, rewrite_template
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.models.messages import load_image
from safety_reminder.run_files import differing, write_text
from safety_reminder.types import Example

REWRITES = "rewrites.jsonl"  # in a run folder
_FORMAT = 1
_ROW = TypeAdapter(Rewriting)


@dataclass(frozen=True, slots=True)
class Opinion:
    """A judge's word on one answer: where it refuses (``start``, ``late``, ``none``, or the judge's own label), and
    whether it begins to do what was asked."""

    refusal: str
    engaged: bool


Answer = Callable[[list[Example]], list[str]]  # the attacked model, defended or not
Judge = Callable[[Sequence[str], Sequence[str]], Sequence[Opinion]]  # original questions and answers
OnTopic = Callable[[str, str], bool]  # an answer, and the original question


def rewrite(
    requests: Sequence[Example],
    *,
    answer: Answer,
    judge: Judge,
    on_topic: OnTopic,
    ask: Ask,
    config: RewriteConfig | None = None,
    path: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Callable[[Sequence[Rewriting]], None] | None = None,
) -> tuple[Rewriting, ...]:
    """Try each request until it succeeds, or ``config.rounds`` times.

    All unfinished requests of a round are answered together, and so are the chat model's questions. After either, the
    state is on disk, and a rerun goes on from there: the callables are asked what they would have been asked, in the
    same batches, so that the result is the one of an uninterrupted run if they give the same answers.

    Args:
        requests: with the adversarial image, if there is one. The original question is a request's ``instruction``, or
            its ``prompt`` where it has none.
        answer: gets them with the newest prompt in ``prompt``.
        judge, on_topic: get original questions, never rewritten ones.
        path: of the state, as a rule ``rewrites.jsonl`` in a run folder; None: nothing is kept.
        identity: what else the result depends on, such as the names of attacked model, judge and chat model. A state
            that was written with others is refused. The requests, their images and the template are always part of it.
        progress: told of the state after each step that is on disk.

    Raises:
        DataError: there are no requests, or two of one id, or one that asks nothing; the state cannot be read.
        ConfigError: the state is one of other requests or options.
    """
    config = config or RewriteConfig()
    asked = [replace(r, instruction=question) for r, question in zip(requests, _questions(requests), strict=True)]
    header = {**dict(identity or {}), **config.model_dump(mode="json"), **_digests(asked)}
    fresh = [Rewriting(request.id, request.instruction, config.rounds) for request in asked]
    states = fresh if path is None or not path.exists() else _read(path, header, fresh)
    while needs := {state.needs for state in states} - {"nothing"}:
        if "rewrite" in needs:
            states = _ask_for_prompts(states, ask, config)
        else:
            states = _answer(states, asked, answer, judge, on_topic)
        if path is not None:
            _write(path, header, states)
        if progress is not None:
            progress(states)
    return tuple(states)


def _questions(requests: Sequence[Example]) -> list[str]:
    if not requests:
        raise DataError("there are no requests to rewrite")
    ids = [request.id for request in requests]
    if len(set(ids)) < len(ids):
        raise DataError(f"two requests have the id {next(i for i in ids if ids.count(i) > 1)!r}; give each its own")
    questions = [request.instruction or request.prompt for request in requests]
    for request, question in zip(requests, questions, strict=True):
        if not question.strip():
            raise DataError(f"request {request.id!r} asks nothing: its instruction and prompt are empty")
    return questions


def _answer(
    states: Sequence[Rewriting], requests: Sequence[Example], answer: Answer, judge: Judge, on_topic: OnTopic
) -> list[Rewriting]:
    waiting = [i for i, state in enumerate(states) if state.needs == "answer"]
    answers = answer([replace(requests[i], prompt=states[i].prompt) for i in waiting])
    opinions = judge([states[i].question for i in waiting], answers)
    done = list(states)
    for i, text, opinion in zip(waiting, answers, opinions, strict=True):
        speaks = on_topic(text, states[i].question)
        done[i] = states[i].answered(text, refusal=opinion.refusal, engaged=opinion.engaged, on_topic=speaks)
    return done


def _ask_for_prompts(states: Sequence[Rewriting], ask: Ask, config: RewriteConfig) -> list[Rewriting]:
    waiting = [i for i, state in enumerate(states) if state.needs == "rewrite"]
    replies = ask([build_question(states[i]) for i in waiting], max_new_tokens=config.rewriter_tokens)
    done = list(states)
    for i, reply in zip(waiting, replies, strict=True):
        # Half a character, as a server may send it, can neither be written to a file nor given to a tokenizer.
        done[i] = states[i].replied(reply.encode(errors="replace").decode())
    return done


def rewritten_examples(requests: Sequence[Example], rewritings: Sequence[Rewriting]) -> list[Example]:
    """The requests with each one's best prompt, to be answered anew; ``instruction`` is the original question."""
    return [
        replace(request, prompt=best.prompt if (best := state.best) else state.question, instruction=state.question)
        for request, state in zip(requests, rewritings, strict=True)
    ]


def bap_rows(requests: Sequence[Example], rewritings: Sequence[Rewriting]) -> list[dict[str, str]]:
    """The same in the layout of BAP's own files: ``question``, ``rephrased_question`` and ``image_path``. The path is
    empty where there is no image.

    Raises:
        DataError: an image is not a file.
    """
    return [
        {"question": example.instruction, "rephrased_question": example.prompt, "image_path": _image_path(example)}
        for example in rewritten_examples(requests, rewritings)
    ]


def _image_path(example: Example) -> str:
    if example.image is None:
        return ""
    if not isinstance(example.image, str | os.PathLike):
        raise DataError(f"the image of {example.id!r} is no file; save it, and give its path")
    return os.fspath(example.image)


def _digests(requests: Sequence[Example]) -> dict[str, Any]:
    images: dict[int, str] = {}  # as a rule one image for all
    for request in requests:
        if request.image is not None and id(request.image) not in images:
            pixels = load_image(request.image)
            images[id(request.image)] = _sha256(f"{pixels.size}".encode() + pixels.tobytes())
    rows = [(request.id, request.instruction, images.get(id(request.image))) for request in requests]
    return {
        "format": _FORMAT,
        "requests": _sha256(json.dumps(rows).encode()),
        "template": _sha256(rewrite_template().encode()),
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, header: Mapping[str, Any], states: Sequence[Rewriting]) -> None:
    """Whole, every time: a kill leaves the state before or the one after."""
    lines = [header, *(asdict(state) for state in states)]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _read(path: Path, header: Mapping[str, Any], fresh: Sequence[Rewriting]) -> list[Rewriting]:
    first, *lines = path.read_bytes().split(b"\n")
    try:
        found = json.loads(first)
    except ValueError as error:
        raise _unreadable(path, "its first line is no JSON") from error
    if not isinstance(found, dict) or "format" not in found:
        raise _unreadable(path, "its first line holds no options")
    given = json.loads(json.dumps(header))  # a tuple is a list there
    if changed := differing(given, found):
        raise ConfigError(
            f"{path} was written with other options ({', '.join(changed)}); give another output=DIR, or remove it to "
            "start over"
        )
    states = []
    for number, line in enumerate(lines[:-1], start=2):
        try:
            states.append(_ROW.validate_json(line, strict=True))
        except ValidationError as error:
            raise _unreadable(path, f"line {number} is no rewriting") from error
    _require_whole(path, states, fresh)
    return states


def _require_whole(path: Path, states: Sequence[Rewriting], fresh: Sequence[Rewriting]) -> None:
    known = [(state.id, state.question, state.rounds) for state in states]
    if known != [(state.id, state.question, state.rounds) for state in fresh]:
        raise _unreadable(path, "it has not one line for each request")
    for state in states:
        if len(state.attempts) > state.rounds or any(attempt.reply is None for attempt in state.attempts[:-1]):
            raise _unreadable(path, f"the attempts of {state.id!r} do not follow one another")


def _unreadable(path: Path, problem: str) -> DataError:
    return DataError(f"{path} cannot be read ({problem}); remove it to start over")
