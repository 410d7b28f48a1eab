"""Two processes learn the reminder of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import safety_reminder
from safety_reminder.guard import SafetyReminder

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from accelerate import PartialState
from checkpoints import tiny_vlm
vlm = tiny_vlm()
from training.test_trainer import CONFIG, write_examples
from safety_reminder.data.training_sets.loading import read_training_file
from safety_reminder.training import train
state = PartialState(cpu=True)
assert state.num_processes == {count}
data = write_examples(Path({folder!r}) / str(state.process_index))
config = CONFIG.with_changes(epochs=3, learning_rate=0.02)
train(vlm, read_training_file(data), config, Path({folder!r}) / "run", data.name)
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2])
def test_processes_share_a_batch_and_learn_the_same(tmp_path, processes):
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(safety_reminder.__file__).parents[1]), tests])}
    packs = []
    for count in (1, processes):
        script = tmp_path / f"{count}.py"
        script.write_text(SCRIPT.format(tests=tests, folder=str(tmp_path / str(count)), count=count))
        # Its name notwithstanding, --multi_gpu is what starts several processes, on a CPU too.
        launch = [sys.executable, "-W", "ignore", "-m", "accelerate.commands.launch", "--num_machines", "1"]
        launch += ["--num_processes", str(count), "--mixed_precision", "no", "--dynamo_backend", "no"]
        launch += ["--multi_gpu"] if count > 1 else []
        done = subprocess.run([*launch, str(script)], env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        packs.append(SafetyReminder.from_pretrained(tmp_path / str(count) / "run" / "pack"))
    one, two = packs
    assert torch.allclose(one.vectors, two.vectors, atol=1e-5)
    assert two.threshold == pytest.approx(one.threshold, abs=1e-4)
