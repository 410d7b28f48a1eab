from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Shapes in signatures are checked where they are declared, before these modules are first imported.
install_import_hook(
    [
        "safety_reminder.guard.lane",
        "safety_reminder.guard.probe",
        "safety_reminder.guard.sampling",
        "safety_reminder.models.context",
        "safety_reminder.models.embedding",
        "safety_reminder.models.positions",
        "safety_reminder.models.prefix",
        "safety_reminder.models.scoring",
        "safety_reminder.training.objective",
        "safety_reminder.training.probing.calibration",
        "safety_reminder.training.probing.regression",
    ],
    "beartype.beartype",
)

from chat_server import serving
from helpers import cached_tiny_model
from safety_reminder.models.tiny import TINY

# The suite's models are so small that a second thread costs more than it gives.
torch.set_num_threads(1)


@pytest.fixture(params=sorted(TINY))
def family(request) -> str:
    return request.param


@pytest.fixture
def model(family):
    return cached_tiny_model(family)


@pytest.fixture
def server(monkeypatch):
    """A chat server that answers as its script says."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving() as server:
        yield server


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Seconds that were to be waited, without the waiting."""
    found: list[float] = []
    monkeypatch.setattr("time.sleep", found.append)
    return found


@pytest.fixture(scope="module", autouse=True)
def plots(request):
    """Drawing would take half the time of a tiny run: plots are empty files where a module is not about them."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("plots") is None:
            _draw_nothing(patch)
        yield


@pytest.fixture
def no_plots(monkeypatch):
    """For a test that looks at none, in a module that does."""
    _draw_nothing(monkeypatch)


def _draw_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **options: Path(path).touch())
