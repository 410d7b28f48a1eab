"""The command line, called in a folder of its own."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from checkpoints import random_reminder
from safety_reminder import cli
from safety_reminder.models.tiny import tiny_checkpoint


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what was wrong. What tells of progress may stand before it."""
        lines = re.split(r"[\r\n]+", self.err.strip())
        errors = [line for line in lines if line.startswith("error: ")]
        assert self.code == 2, self
        assert len(errors) == 1, self.err
        assert lines[-1] == errors[0], self.err
        assert "Traceback" not in self.err + self.out
        return errors[0].removeprefix("error: ")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for family in ("llama", "llava"):
        tiny_checkpoint(family, folder / family)
    random_reminder().save_pretrained(folder / "pack")
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch, models) -> Path:
    """A working folder with two prompts, beside the models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    (tmp_path / "prompts.csv").write_text("id,prompt,harmful\na,Hello?,false\nb,Filler?,true\n")
    return tmp_path


@pytest.fixture
def call(place, monkeypatch, capfd):
    def run(*arguments: str) -> Outcome:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["safety-reminder", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            GlobalHydra.instance().clear()
        return Outcome(code or 0, *capfd.readouterr())

    return run


@pytest.fixture
def basics(models) -> list[str]:
    return [
        f"model={models}/llama",
        "reminder=none",
        "dataset=text",
        "dataset.root=prompts.csv",
        "generation.max_new_tokens=2",
        "device=cpu",
    ]
