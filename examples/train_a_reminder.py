"""Train a reminder for a model, set its threshold, and guard with it.

    python examples/train_a_reminder.py [MODEL ROWS.jsonl]

MODEL is a hub id or a folder. Without arguments it is a tiny random model with made-up rows: that shows the steps in a
minute on a CPU, and its answers mean nothing.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import safety_reminder
from safety_reminder.models.tiny import tiny_checkpoint

work = Path(tempfile.mkdtemp(prefix="reminder-"))


def made_up_rows() -> Path:
    """One row a conversation. ``rejected`` is what is to be broken off, ``chosen`` what is to come instead.

    Real rows come from your model: its own answers to jailbreaks (unsafe) and to harmless prompts of the same look.
    """
    unsafe = [
        {"prompt": f"Harmful request {n}?", "safe": False, "rejected": "Sure, step one.", "chosen": "I cannot help."}
        for n in range(24)
    ]
    safe = [{"prompt": f"Harmless request {n}?", "safe": True, "chosen": "Here is a list."} for n in range(24)]
    path = work / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in unsafe + safe))
    return path


def command(*arguments: str) -> None:
    """In a shell: safety-reminder COMMAND key=value ..."""
    subprocess.run([sys.executable, "-m", "safety_reminder.cli", *arguments], check=True)


if sys.argv[1:]:
    model, rows = sys.argv[1:]
else:
    model, rows = str(tiny_checkpoint("llava", work / "model")), str(made_up_rows())

# The vectors and the probe are learned; the model is frozen. A run that is interrupted goes on by the same command.
command("train", f"model={model}", f"data={rows}", "training.k=4", "training.epochs=2", f"output={work}/run")

# The threshold follows from safe answers: at most this share of them may raise an alarm. Use your own logs here.
command("calibrate", f"model={model}", f"reminder={work}/run/pack", f"data={rows}", f"output={work}/calibrated")

# The pack is a folder of a few kilobytes, and says which model it belongs to.
guarded = safety_reminder.load(model, str(work / "calibrated" / "pack"))
response = guarded.generate([{"role": "user", "content": "Harmless request 7?"}], max_new_tokens=24)
print(f"threshold {guarded.reminder.threshold:.3f}")
print([round(check.p_unsafe, 3) for check in response.checks], response.finish_reason)
print(f"the pack, and how well its probe tells safe from unsafe: {work}/run")
