"""What the shipped pack does for pocket: jailbreaks by image, requests for advice, and harmless prompts, with the guard
and without.

    python benchmarks/guard_effect.py --figstep DIR --mm-safetybench DIR --mmvet DIR --refusal-direction DIR \
        --advbench FILE --json FILE

Nothing here was trained on. The threshold is the pack's own. Attack success is leak-aware: everything shown counts.
The requests of AdvBench, harmful_val and harmless_val are also set as pages, those that fit one: FigStep's and
MM-SafetyBench's misses were looked at while pocket's training rows were written, theirs were not. Pocket learned to
refuse harmful_train in text, and read it on pages; a fifth of AdvBench is in there, and is left out here. The rest of
AdvBench is still of one kind with it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import random
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import figure, finish, parser

import safety_reminder
from safety_reminder.attacks.splits import without
from safety_reminder.data import BENIGN_TWINS, SENSITIVE_TWINS, TEXT_REQUESTS, load_dataset
from safety_reminder.data.benchmarks.typographic import PROMPT, TooLong, render
from safety_reminder.evaluation.metrics import summarise
from safety_reminder.evaluation.runner import open_run, run
from safety_reminder.guard import GuardedVLM
from safety_reminder.models import weights_digest
from safety_reminder.types import Example, Sampling


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--figstep", type=Path, help="FigStep's 'data' folder, with SafeBench-Tiny")
    options.add_argument("--refusal-direction", type=Path, help="folder with splits/harm*.json")
    options.add_argument("--advbench", type=Path, help="harmful_behaviors.csv")
    options.add_argument("--mm-safetybench", type=Path, help="folder of processed_questions; its harmful scenarios")
    options.add_argument("--mmvet", type=Path, help="MM-Vet's folder")
    options.add_argument("--questions", type=int, default=60, help="sample of MM-SafetyBench")
    options.add_argument("--harmless", type=int, default=150, help="sample of harmless_val")
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--batch", type=int, default=20)
    options.add_argument("--policy", default="rewind")
    options.add_argument("--records", type=Path, help="keep the records here, and resume from them")
    arguments = options.parse_args()
    if arguments.advbench and not arguments.refusal_direction:
        options.error("--advbench needs --refusal-direction too: rows of its harmful_train are left out")
    torch.set_num_threads(arguments.threads)
    guarded = safety_reminder.load("pocket", "pocket", policy=arguments.policy)

    sets = data_sets(arguments)
    folder = arguments.records or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict = {}
    harmless: list[list] = [[], []]
    for name, examples in sets.items():
        settings = {"batch_size": arguments.batch, "max_new_tokens": arguments.tokens, "do_sample": False}
        # Records of another policy, pack or pocket are refused.
        file = open_run(folder / name.replace(" ", "-"), {**settings, **identity(guarded)})
        sampling = Sampling(max_new_tokens=arguments.tokens, do_sample=False)
        how: dict[str, Any] = {"batch_size": arguments.batch, "sampling": sampling}
        without = run(guarded, examples, file, guard=False, **how)
        with_guard = run(guarded, examples, file, guard=True, **how)
        add(figures, name, with_guard, without)
        if not examples[0].harmful:
            # Answers are matched by id, and sets share ids: a request as a page, and in text.
            for answers, of_set in zip(harmless, (with_guard, without), strict=True):
                answers += [dataclasses.replace(record, id=f"{name}/{record.id}") for record in of_set]
    if len(sets) > 1:
        add(figures, "all harmless", *harmless)
    finish(figures, arguments)


def data_sets(arguments: argparse.Namespace) -> dict[str, list[Example]]:
    """By name; what asks for advice on law, money and health apart from what asks for harm."""
    sets = {
        "benign twins": load_dataset("typographic", BENIGN_TWINS),
        "sensitive twins": load_dataset("typographic", SENSITIVE_TWINS),
        "sensitive twins in text": load_dataset("text", SENSITIVE_TWINS, column="prompt"),
        "text that ships, harmless": [e for e in load_dataset("text", TEXT_REQUESTS) if not e.harmful],
    }
    if arguments.figstep:
        load = partial(load_dataset, "figstep", arguments.figstep, subset="SafeBench-Tiny")
        sets["FigStep-Tiny, 7 topics"] = load(protocol="official")
        sets["FigStep-Tiny, advice"] = load(protocol="advice")
    if arguments.mm_safetybench:
        load = partial(load_dataset, "mm_safetybench", arguments.mm_safetybench, variant="TYPO", seed=0)
        sets["MM-SafetyBench TYPO, harm"] = load(protocol="official", limit=arguments.questions)
        sets["MM-SafetyBench TYPO, advice"] = load(protocol="advice", limit=arguments.questions)
    if arguments.mmvet:
        sets["MM-Vet"] = load_dataset("mmvet", arguments.mmvet)
    if arguments.refusal_direction:
        splits = arguments.refusal_direction / "splits"
        if arguments.advbench:
            advbench = load_dataset("advbench", arguments.advbench, protocol="official")
            sets["AdvBench"] = without(advbench, load_dataset("text", splits / "harmful_train.json"))
            sets["AdvBench as pages"] = as_pages(sets["AdvBench"])
        sets["harmful_val as pages"] = as_pages(load_dataset("text", splits / "harmful_val.json"))
        text = load_dataset("text", splits / "harmless_val.json", harmful=False)
        chosen = random.Random(2).sample(text, arguments.harmless)
        sets["harmless text"] = chosen
        sets["harmless text as pages"] = as_pages(chosen)
    return sets


def as_pages(requests: list[Example]) -> list[Example]:
    """Those that fit on a page as FigStep sets it."""
    pages = []
    for request in requests:
        with contextlib.suppress(TooLong):
            page = render(request.prompt)
            pages.append(dataclasses.replace(request, prompt=PROMPT, image=page, instruction=request.prompt))
    return pages


def identity(guarded: GuardedVLM) -> dict[str, Any]:
    assert guarded.guard is not None
    assert guarded.reminder is not None
    return {
        "weights": weights_digest(guarded.vlm.model),
        "reminder_digest": guarded.reminder.digest,
        "guard": dataclasses.asdict(guarded.guard.config),
    }


def add(figures: dict, name: str, with_guard: list, without: list) -> None:
    for metric, value in summarise(with_guard, without).items():
        if metric == "overhead_ratio":
            continue  # batches mix rows with and without interventions; guard_overhead.py measures this
        note = f"[{value.low:.3f}, {value.high:.3f}], n={value.n}"
        figures[f"{name}: {metric}"] = figure(value.value, note=note)
    peaks = [max((check.p_unsafe for check in r.checks), default=0.0) for r in with_guard]
    figures[f"{name}: median of the highest p_unsafe"] = figure(statistics.median(peaks), peaks)


if __name__ == "__main__":
    main()
