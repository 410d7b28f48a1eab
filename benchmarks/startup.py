"""How long a command takes to begin: its help, and a mistake in a path, each in a process of its own.

python benchmarks/startup.py --json FILE
python benchmarks/startup.py --source src --source OTHER/src    # another checkout beside it, in turn
"""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import figure, finish, paired, parser

SRC = Path(__file__).parents[1] / "src"
LINES = {
    "--help": (["--help"], 0),
    "generate --help": (["generate", "--help"], 0),
    "train --help": (["train", "--help"], 0),
    "generate, no such file": (["generate", "dataset=text", "dataset.root=gone.csv"], 2),
    "generate, no such reminder": (["generate", "dataset.limit=1", "reminder=./gone"], 2),
}


def call(source: Path, folder: str, arguments: list[str], code: int) -> None:
    """Run the command line of a checkout, and see that it ends as it should."""
    environment = {**os.environ, "PYTHONPATH": str(source.resolve())}
    command = [sys.executable, "-m", "safety_reminder.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != code:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--source", type=Path, action="append", help="a folder that holds safety_reminder/")
    arguments = options.parse_args()
    sources = arguments.source or [SRC]
    arguments.source = None  # nobody else needs to know which folders they are
    names = ["", *(f" ({number})" for number in range(2, len(sources) + 1))]
    with tempfile.TemporaryDirectory() as folder:
        tasks = {
            f"seconds to {name}{mark}": functools.partial(call, source, folder, *line)
            for name, line in LINES.items()
            for mark, source in zip(names, sources, strict=True)
        }
        seconds = paired(tasks, arguments.runs)
    finish({name: figure(statistics.median(runs), runs) for name, runs in seconds.items()}, arguments)


if __name__ == "__main__":
    main()
