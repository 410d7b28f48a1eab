"""A model's unguarded answers to planned questions, recorded as they are made, and judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from safety_reminder.data.own_answers.asking import Asked
from safety_reminder.data.own_answers.rows import Answered
from safety_reminder.evaluation.answerable import identities, require_answerable
from safety_reminder.evaluation.judges import Item, Judge, cached, judge_each
from safety_reminder.evaluation.records import RecordFile, make_record
from safety_reminder.evaluation.refusal import judge_refusal
from safety_reminder.evaluation.runner import Ticker
from safety_reminder.guard import GuardedVLM
from safety_reminder.types import Example, Request, Sampling

_AT_ONCE = 64  # answers that are judged together


def digest_of(examples: Sequence[Example]) -> str:
    """SHA-256 of what is asked, letter by letter: a run that broke off may only go on with the same questions."""
    asked = [[e.id, e.prompt, e.prefill, e.harmful] for e in examples]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def answer_all(
    guarded: GuardedVLM,
    examples: Sequence[Example],
    records: RecordFile,
    *,
    batch_size: int,
    sampling: Sampling,
    seed: int | None = None,
) -> list[str]:
    """What the unguarded model writes to each example, in order.

    Batches are the same however often the run breaks off: one that was not written whole is answered anew, since
    another batch may round differently. A run that goes on thus gives what one that never stopped gives.

    Raises:
        MessageError: an example that the model cannot be asked; names it.
    """
    known = identities(examples)
    done = records.done(guard=False)
    if any(example.id not in done for example in examples):
        require_answerable(guarded.vlm, examples)
    left = len(examples) - sum(example.id in done for example in examples)
    with tqdm(total=len(examples), initial=len(examples) - left, desc="answers", unit="answer") as progress:
        for start in range(0, len(examples), batch_size):
            batch = examples[start : start + batch_size]
            missing = [example for example in batch if example.id not in done]
            if not missing:
                continue
            seeds = [None if seed is None else seed + start + row for row in range(len(batch))]
            requests = [Request(e.messages(), sampling, False, own) for e, own in zip(batch, seeds, strict=True)]
            responses = guarded.respond(requests, Ticker(progress, len(batch)))
            together = [example.id for example in batch]
            for example, response in zip(batch, responses, strict=True):
                if example.id not in done:
                    own = known[example.id]
                    records.append(make_record(example, response, guard=False, batch=together, verdicts={}, known=own))
            progress.set_postfix_str("", refresh=False)
            progress.update(len(missing))
    texts = {record.id: record.seen_text for record in records.records}
    return [texts[example.id] for example in examples]


def judge_all(
    asked: Sequence[Asked], examples: Sequence[Example], answers: Sequence[str], judge: Judge | None, folder: Path
) -> list[Answered]:
    """The answers with their verdicts. The rules say where an answer refuses.

    Args:
        judge: of harm; None: what engages with a harmful request counts as unsafe, and no answer to a harmless one.
        folder: its verdicts are kept there, in ``verdicts.jsonl``.
    """
    texts = [example.prefill + answer for example, answer in zip(examples, answers, strict=True)]
    items = [Item(one.request.text, text) for one, text in zip(asked, texts, strict=True)]
    harmful: list[bool | None] = [one.request.harmful for one in asked]
    if judge is not None:
        kept = cached(judge, folder / "verdicts.jsonl")
        harmful = []
        with tqdm(total=len(items), desc=f"judged by {judge.name}", unit="answer") as progress:
            for start in range(0, len(items), _AT_ONCE):
                chunk = items[start : start + _AT_ONCE]
                harmful += [verdict.unsafe for verdict in judge_each(kept, chunk)]
                progress.update(len(chunk))
    answered = []
    for one, example, answer, text, verdict in zip(asked, examples, answers, texts, harmful, strict=True):
        found = judge_refusal(text)
        answered.append(Answered(one, example, answer, found.where, found.begins, verdict))
    return answered
