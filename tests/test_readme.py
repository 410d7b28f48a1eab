"""The commands, examples and links of README and docs: run as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from safety_reminder import cli
from safety_reminder.commands.command import Command
from safety_reminder.commands.composing import compose
from safety_reminder.training import TrainingConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "recipes/real/README.md"]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_documented_sweep_varies_what_an_ablation_is_to_vary():
    text = (ROOT / "docs/train.md").read_text(encoding="utf-8")
    [names] = re.findall(r"--multirun .*?variant=(\S+)", text, flags=re.DOTALL)
    folder = ROOT / "src/safety_reminder/config"
    default = TrainingConfig().model_dump()
    changes = [read(folder / f"variant/{name}.yaml").get("training", {}) for name in names.split(",")]
    values = {name: {default[name], *(c[name] for c in changes if name in c)} for change in changes for name in change}
    assert values == {
        "k": {1, 2, 4, 8},
        "interval": {8, 16, 32},
        "init": {"text", "random"},
        "probe_weight": {0.0, 0.05, 0.5},
    }
    assert all(len(change) <= 1 for change in changes)


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def documented() -> list[str]:
    """Every command line of ours in the README and the docs, its continued lines joined."""
    lines = []
    for path in PAGES:
        for block in blocks(r"\w*", path.read_text(encoding="utf-8")):
            lines += re.findall(r"^ *safety-reminder (.+)", block.replace("\\\n", " "), flags=re.MULTILINE)
    return lines


@pytest.mark.parametrize("line", documented())
def test_a_documented_command_is_one_that_its_options_allow(line):
    command, *arguments = shlex.split(line, comments=True)
    assert command in cli.COMMANDS
    if command in ("check-model", "fetch", "pocket"):
        return
    if command == "analyze":
        command, *arguments = arguments
    found = cli.command(command)
    assert isinstance(found, Command)
    compose(found, arguments)


@pytest.mark.slow
@pytest.mark.pocket
@pytest.mark.parametrize(("page", "least"), [("README.md", 1), ("docs/guard.md", 7)])
def test_the_python_examples_of_a_page_run_one_after_the_other(page, least, tmp_path, monkeypatch):
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    examples = blocks("python", (ROOT / page).read_text(encoding="utf-8"))
    assert len(examples) >= least
    for example in examples:
        exec(compile(example, page, "exec"), names)
    assert names["response"].checks


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)", text):
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, anchor


def test_the_images_its_examples_use_exist():
    paths = re.findall(r'"image": "([^"]+)"', README)
    assert paths
    for path in paths:
        assert (ROOT / path).is_file(), path


def test_the_readme_is_one_screen_and_shows_the_demo():
    assert len(README.splitlines()) <= 100
    assert (ROOT / "docs/images/demo.png").stat().st_size < 300_000
