"""What holds of every row in the table of data sets."""

from __future__ import annotations

import pytest

from safety_reminder.data import DATASETS, load_dataset
from safety_reminder.errors import ConfigError, DataError


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_loader_says_what_is_missing(tmp_path, name):
    for root in ("", tmp_path / "gone", tmp_path):
        with pytest.raises(DataError, match=r"give|expected|needs|has"):
            load_dataset(name, root)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_loader_refuses_options_it_does_not_know(tmp_path, name):
    with pytest.raises(ConfigError, match=f"unknown option of dataset={name} 'colour'"):
        load_dataset(name, tmp_path, colour="red")
