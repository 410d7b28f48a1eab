"""Which families can be guarded: the self-check on a tiny random model of each, and the table of docs/models.md.

    python benchmarks/families.py            # prints the table
    python benchmarks/families.py --write    # and puts it into docs/models.md

Where a tiny processor is written for a family, its model is saved with it and goes the way of
``safety-reminder check-model FOLDER``: real images, the family's own processor, loading and all. The other models are
given ids and pixels as they are.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, logging

from safety_reminder.models import FAMILIES, Family, open_vlm
from safety_reminder.models.caches import obstacle
from safety_reminder.models.checked import trial
from safety_reminder.models.self_check import Finding, Trial, self_check
from safety_reminder.models.tiny import tiny_inputs, tiny_model
from safety_reminder.models.tiny_vlms import tiny_vlm_checkpoint

PAGE = Path(__file__).parents[1] / "docs/models.md"
MARKS = ("<!-- families: written by benchmarks/families.py -->", "<!-- end of families -->")
TOKENS = [17, 23, 44, 51, 60, 72]


def findings(name: str, family: Family) -> list[Finding]:
    if family.tiny.checkpoint is not None:
        with tempfile.TemporaryDirectory() as folder:
            vlm = open_vlm(str(tiny_vlm_checkpoint(name, folder)), device="cpu")
            return self_check(vlm.model, trial(vlm))
    model = tiny_model(name)
    alone = [tiny_inputs(model, (9,), seed=0), tiny_inputs(model, (14,), seed=1)]
    return self_check(model, Trial(tiny_inputs(model, (9, 14)), alone, TOKENS, family.reads_images))


def row(name: str, family: Family) -> str:
    config = family.tiny.config()
    cells = [family.title, f"`{config.model_type}`", "images and text" if family.reads_images else "text"]
    if family.refused:
        reason = obstacle(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config)
        assert reason is not None, f"{name} is called refused, but nothing stands in its way"
        return _line(*cells, f"refused: {family.refused}", "")
    found = findings(name, family)
    failed = [finding.name for finding in found if not finding.holds]
    tried = f"{len(found)} properties{', with its processor' if family.tiny.checkpoint else ''}"
    worst = max(finding.error for finding in found if finding.name != "image")
    verdict = f"WRONG: {', '.join(failed)}" if failed else "correct"
    return _line(*cells, verdict, f"{tried}; off by {worst:.0e} at most")


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def table() -> str:
    lines = [_line("family", "model type", "reads", "guarded decoding", "tried"), _line(*["---"] * 5)]
    for name, family in FAMILIES.items():
        lines.append(row(name, family))
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--write", action="store_true", help="into docs/models.md")
    arguments = options.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    made = table()
    if arguments.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        PAGE.write_text(f"{before}{MARKS[0]}\n\n{made}\n\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
