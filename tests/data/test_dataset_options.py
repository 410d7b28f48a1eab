"""Every data set can be named on the command line, with the options and defaults of its loader."""

from __future__ import annotations

import inspect
import pkgutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import safety_reminder.config
from safety_reminder.data import DATASETS
from safety_reminder.data.protocols import PROTOCOLS

FOLDER = Path(safety_reminder.config.__file__).parent / "dataset"


@pytest.mark.parametrize("name", DATASETS)
def test_the_command_line_offers_the_loader_s_options_with_its_defaults(name):
    parameters = inspect.signature(pkgutil.resolve_name(DATASETS[name])).parameters
    offered = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    assert isinstance(offered, dict)
    assert offered.pop("name") == name
    for option in ("root", "limit", "per_category", "seed"):
        offered.pop(option)
    assert ("protocol" in offered) == any(name in sets for sets in PROTOCOLS.values())
    assert offered.pop("protocol", None) is None
    expected = {
        option: parameter.default for option, parameter in parameters.items() if option not in ("root", "prompt")
    }
    assert offered == expected
