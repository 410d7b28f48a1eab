"""What a reminder does after partial answers it was not trained on: verdicts, refusals, and how little it disturbs.

    python benchmarks/reminder.py --data FILE [--run FOLDER] [--pack NAME] --json FILE

``--run`` is a training run's folder: only rows of its test part (``splits.json``) are looked at. Without it, all rows
are used, except those that the pack was trained on. The probe is read after every cut (0, 16, 32, ... tokens, and the
answer's end). What the reminder turns into a refusal is measured as training does (training/turns.py), on all rows.
Intervals draw whole answers, or for the turns what is asked, since the beginnings of one answer are alike; where all
turn, or none, they are Wilson's.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from common import figure, finish, parser
from tqdm import tqdm

import safety_reminder
from safety_reminder.data.training_sets.loading import load_training
from safety_reminder.evaluation.refusal import refuses
from safety_reminder.models.prefix import Prefix
from safety_reminder.models.scoring import Place, follow
from safety_reminder.training import TrainingConfig, turns
from safety_reminder.training.prefixes import Prefixes
from safety_reminder.training.probing.readings import check_places, positions, where_is
from safety_reminder.training.probing.regression import auc, auc_interval
from safety_reminder.training.samples import make_samples, seen_as


@torch.no_grad()
def divergence(model, prefix: Prefix, answer: tuple[int, ...], kept: int, vectors: torch.Tensor, count: int) -> float:
    """Mean KL(unguarded ‖ reminder left in) in nats over the next tokens of the answer."""
    target = list(answer[kept : kept + count])
    reminded = follow(model, [Place(prefix, kept, [None, target])], vectors)[0].logits[0]
    plain = follow(model, [Place(prefix, kept - 1, [[prefix.tokens[kept], *target]])], vectors)[0].logits[0]
    both = (logits.float().log_softmax(-1) for logits in (reminded, plain))
    return F.kl_div(*both, log_target=True, reduction="batchmean").item()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", default="pocket")
    options.add_argument("--data", required=True)
    options.add_argument("--run", type=Path)
    options.add_argument("--pack", help="default: the run's own")
    arguments = options.parse_args()
    if not (arguments.run or arguments.pack):
        options.error("give --run, --pack or both")
    torch.set_num_threads(arguments.threads)
    guarded = safety_reminder.load(arguments.model, arguments.pack or str(arguments.run / "pack"))
    vlm, reminder = guarded.vlm, guarded.reminder
    config = TrainingConfig.of_record(reminder.training["config"])
    samples = make_samples(vlm, load_training(arguments.data), config)
    if arguments.run:
        test = set(json.loads((arguments.run / "splits.json").read_text())["test"])
        samples = [s for s in samples if s.key in test]
    else:
        seen = set(reminder.training["seen"])
        samples = [s for s in samples if seen_as(s.key) not in seen]
    prefixes = Prefixes(vlm, TrainingConfig(prefix_cache_gb=4.0), Path())

    checks: list[tuple[float, bool, int]] = []
    kl: list[float] = []
    for sample in tqdm(samples, unit="example"):
        if sample.example.harmful_prompt:
            continue  # they refuse already
        prefix = prefixes.of(sample)
        kept = check_places(sample.example, sample.answer, reminder.interval, vlm.eos_ids)
        with torch.no_grad():
            continuations = follow(vlm.model, [Place(prefix, n, [None]) for n in kept], reminder.vectors)
        p_unsafe = reminder.probe(torch.cat([f.hidden for f in continuations])).tolist()
        checks += [(p, not sample.example.safe, n) for n, p in zip(kept, p_unsafe, strict=True)]
        if sample.example.safe:
            inside = [n for n in kept if 0 < n < len(sample.answer)]
            kl += [divergence(vlm.model, prefix, sample.answer, n, reminder.vectors, 16) for n in inside]

    rows = turns.chosen_rows(samples, len(samples))
    found = turns.measure(prefixes, rows, reminder.vectors, reminder.interval, refuses)

    figures = {}
    scores, kinds, tokens = (torch.tensor(column) for column in zip(*checks, strict=True))
    for place, here in positions(tokens, reminder.interval).items():
        unsafe = kinds[here]
        if unsafe.any() and not unsafe.all():
            low, high = auc_interval(scores[here], unsafe, torch.arange(len(unsafe)))
            note = f"[{low:.4f}, {high:.4f}], {int(unsafe.sum())} unsafe, {int((~unsafe).sum())} safe"
            figures[f"AUC of the probe {where_is(place)}"] = figure(auc(scores[here], unsafe), note=note)
    for kind, table in turns.rates(found, reminder.interval).items():
        for kept, rate in table.items():
            name = f"{kind} beginnings{'' if kept == 'all' else f' of {kept} tokens'} turned into a refusal"
            note = "[{low:.3f}, {high:.3f}], n={n}".format(**rate)
            figures[name] = figure(rate["value"], note=note)
    figures["benign, reminder left in: mean KL to unguarded, nats"] = figure(sum(kl) / len(kl), note=f"n={len(kl)}")
    finish(figures, arguments)


if __name__ == "__main__":
    main()
