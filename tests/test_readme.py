"""The README's own commands and examples, run as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from safety_reminder import cli
from safety_reminder.commands.composing import compose
from safety_reminder.training import TrainingConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_documented_sweep_varies_what_an_ablation_is_to_vary():
    text = (ROOT / "docs/train.md").read_text(encoding="utf-8")
    [names] = re.findall(r"--multirun .*?variant=(\S+)", text, flags=re.DOTALL)
    folder = ROOT / "src/safety_reminder/config"
    default = TrainingConfig().model_dump()
    changes = [OmegaConf.load(folder / f"variant/{name}.yaml").get("training", {}) for name in names.split(",")]
    values = {name: {default[name], *(c[name] for c in changes if name in c)} for change in changes for name in change}
    assert values == {
        "k": {1, 2, 4, 8},
        "interval": {8, 16, 32},
        "init": {"text", "random"},
        "probe_weight": {0.0, 0.05, 0.5},
    }
    assert all(len(change) <= 1 for change in changes)


def documented() -> list[str]:
    """Every command line of ours in the README and the docs, its continued lines joined."""
    lines = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in blocks(r"\w*", path.read_text(encoding="utf-8")):
            lines += re.findall(r"^ *safety-reminder (.+)", block.replace("\\\n", " "), flags=re.MULTILINE)
    return lines


@pytest.mark.parametrize("line", documented())
def test_a_documented_command_is_one_that_its_options_allow(line):
    command, *arguments = shlex.split(line, comments=True)
    assert command in cli.COMMANDS
    if command in ("fetch", "pocket"):
        return
    if command == "analyze":
        command, *arguments = arguments
    compose(cli.command(command), arguments)


@pytest.mark.slow
@pytest.mark.pocket
def test_the_python_examples_run_one_after_the_other(monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict = {}
    examples = blocks("python")
    assert len(examples) >= 2
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    assert names["response"].checks
    assert names["ids"].shape[0] == 1


@pytest.mark.slow
@pytest.mark.pocket
def test_the_commands_run(tmp_path):
    commands = [
        line
        for block in blocks("bash")
        for line in block.splitlines()
        if line.strip() and not line.startswith(("make ", "#", "python benchmarks/"))
    ]
    assert commands
    for command in commands:
        words = shlex.split(command, comments=True)
        assert words[0] == "safety-reminder"
        words = [re.sub(r"^output=.*", f"output={tmp_path / 'run'}", word) for word in words]
        run = [sys.executable, "-m", "safety_reminder.cli", *words[1:]]
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "summary.json").is_file()


def test_the_make_targets_it_names_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make ([a-z-]+)", "\n".join(blocks("bash")), flags=re.MULTILINE)):
        assert re.search(rf"^(?:[\w-]+ )*{target}(?: [\w-]+)*:", makefile, flags=re.MULTILINE), target


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_images_its_examples_use_exist():
    for path in re.findall(r'"image": "([^"]+)"', README):
        assert (ROOT / path).is_file(), path
