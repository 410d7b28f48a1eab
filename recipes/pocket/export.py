"""The trained parts as the package ships them: float16 safetensors under ``models/pocket/weights``.

python recipes/pocket/export.py --tower FOLDER --language FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from safety_reminder.models.pocket.assemble import HASHES, WEIGHTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tower", type=Path, required=True, help="folder of train_tower.py")
    parser.add_argument("--language", type=Path, required=True, help="folder of train_language.py")
    args = parser.parse_args()
    WEIGHTS.mkdir(exist_ok=True)
    state = torch.load(args.tower / "checkpoint.pt", map_location="cpu")["model"]
    for name, prefix in (("tower", "model.vision_tower."), ("projector", "model.multi_modal_projector.")):
        part = {k.removeprefix(prefix): v.half().contiguous() for k, v in state.items() if k.startswith(prefix)}
        save_file(part, WEIGHTS / f"{name}.safetensors")
    shutil.copyfile(args.language / "language_delta.safetensors", WEIGHTS / "language_delta.safetensors")
    parts = sorted(WEIGHTS.glob("*.safetensors"))
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in parts}
    HASHES.write_text(json.dumps(hashes, indent=2) + "\n")
    for path in parts:
        print(f"{path.stat().st_size / 1e6:6.2f} MB  {path.name}")


if __name__ == "__main__":
    main()
