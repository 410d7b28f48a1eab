"""Put a freshly trained pack in the place of the one that ships, if it is at least as good on the same validation rows.

    python recipes/pocket/replace_reminder.py --data FILE --run FOLDER

"At least as good" is the loss that training minimises, on the validation part of ``--run``, with each pack's vectors
and probe. A shipped pack of another checkpoint is replaced without comparison: it fits nothing any more.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from safety_reminder.data.training_sets.loading import load_training
from safety_reminder.guard import SafetyReminder
from safety_reminder.models import VLM, fingerprint_mismatch, load_vlm
from safety_reminder.models.pocket import reminder_folder
from safety_reminder.training import TrainingConfig
from safety_reminder.training.prefixes import Prefixes
from safety_reminder.training.samples import key, make_samples
from safety_reminder.training.trainer import validation_loss


def replace(vlm: VLM, data: Path, run: Path, shipped: Path) -> bool:
    """Whether the pack of ``run`` was better on its validation rows, or without a rival, and is now ``shipped``."""
    new = SafetyReminder.from_pretrained(run / "pack")
    if (shipped / "config.json").is_file():
        old = SafetyReminder.from_pretrained(shipped)
        if fingerprint_mismatch(old.fingerprint, vlm.model) is None:
            config = TrainingConfig.of_record(new.training["config"])
            keys = set(json.loads((run / "splits.json").read_text())["validation"])
            rows = [row for row in load_training(str(data)) if key(row) in keys]
            samples = make_samples(vlm, rows, config)
            prefixes = Prefixes(vlm, config, run / "prefixes")
            before, after = (
                validation_loss(prefixes, samples, one.vectors, one.probe.weight, torch.tensor(one.probe.bias), config)
                for one in (old, new)
            )
            prefixes.forget()
            print(f"validation loss of the pack that ships {before:.4f}, of the new one {after:.4f}")
            if after > before:
                return False
    shutil.copytree(run / "pack", shipped, dirs_exist_ok=True)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="the folder of the training run")
    args = parser.parse_args()
    shipped = reminder_folder()
    if replace(load_vlm("pocket"), args.data, args.run, shipped):
        print(f"replaced {shipped}")
    else:
        print(f"the pack that ships is better; it stays, and the new one is in {args.run / 'pack'}")


if __name__ == "__main__":
    main()
