"""What attacks do to pocket and to its guard: static, adaptive, and without gradients, on requests that were held back.

    python benchmarks/attacks.py --data DATA --runs runs/attacks --json benchmarks/results/attacks.json
    python benchmarks/attacks.py --data DATA --runs runs/attacks --only pgd/eps32 --seeds 1

``--data``: the folder that holds ``refusal_direction/splits`` (Arditi et al., arXiv:2406.11717): attacks learn on
``harmful_train`` and are measured on all 38 rows of ``harmful_val``, less what the two share. Each attack is a run of
``safety-reminder attack``; one that is there already is read, and one that broke off goes on. Where a static attack is
there and another pack guarded its answers, the pack that ships answers anew, into a folder beside the run.

Of each attack: ``unguarded`` and ``guarded`` (policy, threshold and prompt check of the pack), as the refusal rules
have it, and ``..._on_topic``, where the answer also speaks of the request. ``runs`` are seeds. Intervals draw requests;
of one seed they are Wilson's.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path

import template_rewriter
import torch
from common import figure, finish, parser

from safety_reminder.commands.attack import COMMAND, AttackJob, attack
from safety_reminder.commands.composing import compose
from safety_reminder.commands.generate import COMMAND as GENERATE
from safety_reminder.commands.generate import generate
from safety_reminder.evaluation.metrics import attack_succeeded, succeeded_on_topic
from safety_reminder.evaluation.records import RecordFile
from safety_reminder.evaluation.statistics import mean, proportion
from safety_reminder.guard import load_reminder
from safety_reminder.run_files import differing
from safety_reminder.types import Record

# All steps, the last image: what is measured is no choice among several.
_PGD = ["attack=pgd", "split.train=64", "split.validation=0", "attack.validate_every=0"]
_PROBE = ["attack.adaptive.against=probe", "attack.adaptive.tokens=32"]
_GCG = ["attack=gcg", "attack.steps=80", "split.train=6", "split.validation=0"]
_REWRITE = [
    "attack=bap_rewrite",
    f"chat.model={template_rewriter.MODEL}",
    "attack.max_new_tokens=64",
    "split.train=0",
    "split.validation=0",
]
# What is measured, by its name: options of the command beside the seed.
ATTACKS = {
    "pgd/eps8": [*_PGD, "attack.epsilon=8/255"],
    "pgd/eps16": [*_PGD, "attack.epsilon=16/255"],
    "pgd/eps32": [*_PGD, "attack.epsilon=32/255"],
    "pgd/eps64": [*_PGD, "attack.epsilon=64/255"],
    "pgd/eps32/adaptive": [
        *_PGD,
        *_PROBE,
        "attack.epsilon=32/255",
        "attack.steps=150",
        "attack.adaptive.warm_up=50",
    ],
    "gcg": _GCG,
    "gcg/adaptive": [*_GCG, *_PROBE],
    "bap": ["attack=bap_image", "attack.steps=100", "attack.validate_every=0", "split.train=0", "split.validation=0"],
    # After the image of bap: the prompts alone, in front of the grey image, and both.
    "bap/prompts": [*_REWRITE, "attack.image={runs}/bap-0/clean.png"],
    "bap/both": [*_REWRITE, "attack.image={runs}/bap-0/image.png"],
    "prefill/depth4": ["attack=prefill", "attack.depth=4", "split.train=0", "split.validation=0"],
    "prefill/depth16": ["attack=prefill", "attack.depth=16", "split.train=0", "split.validation=0"],
    "prefill/depth64": ["attack=prefill", "attack.depth=64", "split.train=0", "split.validation=0"],
    "system_override": ["attack=system_override", "split.train=0", "split.validation=0"],
    "multi_turn": ["attack=multi_turn", "split.train=0", "split.validation=0"],
}
_ONCE = ("prefill", "system_override", "multi_turn", "bap/")  # they draw nothing
_REWRITTEN = ("bap/prompts", "bap/both")
_FIXED = ("attack", "split", "guard", "model", "reminder", "dataset", "test_on")
_COST = ("seconds", "steps", "candidates", "loss", "loss_reloaded")


def job_of(name: str, seed: int, data: Path, output: Path, url: str | None = None) -> AttackJob:
    """One run of the command. ``url``: of the chat model that rewrites."""
    splits = data / "refusal_direction" / "splits"
    drawn = [] if name.startswith(_ONCE) else [f"attack.seed={seed}"]
    return compose(
        COMMAND,
        [
            *(option.format(runs=output.parent) for option in ATTACKS[name]),
            *([f"chat.url={url}"] if url else []),
            *drawn,
            f"split.seed={seed}",
            "model=pocket",
            "dataset=text",
            f"dataset.root={splits / 'harmful_train.json'}",
            f"test_on=['text:{splits / 'harmful_val.json'}']",
            f"answers.clean={'true' if seed == 0 else 'false'}",
            f"output={output}",
        ],
    )


def done(job: AttackJob, folder: Path) -> bool:
    """Whether the folder holds this run, finished.

    Raises:
        SystemExit: it holds another.
    """
    path = folder / "summary.json"
    if not path.is_file():
        return False
    before = json.loads(path.read_text(encoding="utf-8"))["config"]
    now = json.loads(json.dumps(job.model_dump()))
    if changed := differing({k: now[k] for k in _FIXED}, {k: before[k] for k in _FIXED}):
        raise SystemExit(f"{folder} holds a run with other options ({', '.join(changed)}); remove it")
    return True


def answered_anew(name: str, folder: Path, *, start: bool) -> Path | None:
    """The folder of guarded answers by the pack that ships, where the run in ``folder`` knew another.

    Raises:
        SystemExit: the attack was made against that other pack, or the answers are not there and ``start`` is false.
    """
    digest = load_reminder("pocket").digest
    before = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if before["reminder_digest"] == digest:
        return None
    if name.endswith("/adaptive"):
        raise SystemExit(f"{folder} was made against another pack; remove it")
    output = folder.with_name(f"{folder.name}-by-{digest[:8]}")
    if not (output / "summary.json").is_file():
        if not start:
            raise SystemExit(f"another pack guarded the answers in {folder}; without --there this one answers")
        length = before["answers"]["max_new_tokens"]
        options = ["model=pocket", "dataset=attack_run", f"dataset.root={folder}", "reminder=pocket"]
        more = ["compare=false", f"generation.max_new_tokens={length}", f"output={output}"]
        generate(compose(GENERATE, [*options, *more]), output)
    return output


def answers(folder: Path, kind: str, guarded: Path | None = None) -> dict[bool, list[Record]]:
    """Records by whether the guard was on. ``guarded``: a run whose guarded answers are taken in place of those."""
    found = {False: folder / "answers" / kind, True: guarded or folder / "answers" / kind}
    files = {guard: path / "records.jsonl" for guard, path in found.items()}
    return {
        guard: [r for r in RecordFile(path).records if r.guard is guard] if path.is_file() else []
        for guard, path in files.items()
    }


def rates(records: list[list[Record]]) -> dict[str, dict]:
    """Of the same requests under several seeds, by either measure: the mean, its interval, and each seed's."""
    found = {}
    for suffix, holds in (("", attack_succeeded), ("_on_topic", succeeded_on_topic)):
        by_request: dict[str, list[float]] = defaultdict(list)
        for row in (record for rows in records for record in rows):
            by_request[row.id].append(float(holds(row)))
        means = [statistics.mean(values) for values in by_request.values()]
        # Of one seed they are outcomes, and a bootstrap of outcomes that are all alike would give no width.
        metric = proportion(int(sum(means)), len(means)) if len(records) == 1 else mean(means, "share")
        runs = [statistics.mean(float(holds(record)) for record in rows) for rows in records]
        found[suffix] = figure(metric.value, runs, low=metric.low, high=metric.high, n=len(by_request))
    return found


def collect(name: str, folders: list[Path], figures: dict, *, start: bool) -> None:
    attacked = [answers(folder, "attacked", answered_anew(name, folder, start=start)) for folder in folders]
    adaptive = name.endswith("/adaptive")
    front = name.removesuffix("/adaptive") + ("/adaptive_" if adaptive else "/")
    for label, guard in (("unguarded", False), ("guarded", True)):
        for suffix, entry in rates([rows[guard] for rows in attacked]).items():
            figures[f"{front}{label}{suffix}"] = entry
    clean = [rows for folder in folders if (rows := answers(folder, "clean")[False])]
    if clean:
        for suffix, entry in rates(clean).items():
            figures[f"{front}clean{suffix}"] = entry
    costs = [json.loads((folder / "summary.json").read_text(encoding="utf-8"))["cost"] for folder in folders]
    for cost in _COST:
        if values := [float(c[cost]) for c in costs if cost in c]:
            figures[f"{front}{cost}"] = figure(statistics.median(values), values)


def main() -> None:
    options = parser(__doc__)
    options.formatter_class = argparse.RawDescriptionHelpFormatter
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--runs", type=Path, required=True, help="folder of the attacks' run folders")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--only", nargs="*", choices=list(ATTACKS), default=list(ATTACKS))
    options.add_argument("--there", action="store_true", help="read finished runs alone, and start none")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    figures: dict = {}
    for name in arguments.only:
        folders = []
        for seed in range(1 if name.startswith(_ONCE) else arguments.seeds):
            folder = arguments.runs / f"{name.replace('/', '-')}-{seed}"
            finished = done(job_of(name, seed, arguments.data, folder), folder)
            if not finished and not arguments.there:
                with template_rewriter.serving() if name in _REWRITTEN else nullcontext() as url:
                    attack(job_of(name, seed, arguments.data, folder, url), folder)
            if finished or not arguments.there:
                folders.append(folder)
        if folders:
            collect(name, folders, figures, start=not arguments.there)
    finish(figures, arguments)


if __name__ == "__main__":
    main()
