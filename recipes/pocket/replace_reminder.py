"""Put a freshly trained pack in the place of the one that ships, if it is at least as good on the same validation rows.

    python recipes/pocket/replace_reminder.py --data FILE --run FOLDER

"At least as good" is the loss that training minimises, on the validation part of ``--run``, with each pack's vectors
and probe. A shipped pack of another checkpoint is replaced without comparison: it fits nothing any more.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch

from safety_reminder.data.training import load_training
from safety_reminder.guard import SafetyReminder
from safety_reminder.models import fingerprint_mismatch, load_vlm
from safety_reminder.models.pocket import reminder_folder
from safety_reminder.training import TrainingConfig
from safety_reminder.training.samples import Prefixes, make_samples
from safety_reminder.training.trainer import validation_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    args = parser.parse_args()
    new = SafetyReminder.from_pretrained(args.run / "pack")
    shipped = reminder_folder()
    vlm = load_vlm("pocket")
    if (shipped / "config.json").is_file():
        old = SafetyReminder.from_pretrained(shipped)
        if fingerprint_mismatch(old.fingerprint, vlm.model) is None:
            config = TrainingConfig(**new.training["config"])
            keys = set(json.loads((args.run / "splits.json").read_text())["validation"])
            samples = [s for s in make_samples(vlm, load_training(str(args.data)), config) if s.key in keys]
            prefixes = Prefixes(vlm, config, args.run / "prefixes")
            with torch.no_grad():
                before, after = (
                    validation_loss(
                        prefixes, samples, pack.vectors, pack.probe.weight, torch.tensor(pack.probe.bias), config
                    )
                    for pack in (old, new)
                )
            print(f"validation loss of the pack that ships {before:.4f}, of the new one {after:.4f}")
            if after > before:
                sys.exit("the pack that ships is better; it stays")
    shutil.copytree(args.run / "pack", shipped, dirs_exist_ok=True)
    print(f"replaced {shipped}")


if __name__ == "__main__":
    main()
