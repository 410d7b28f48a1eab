"""The rows that a command trains, fits or calibrates on, and the data sets that must not share any with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from safety_reminder.config.options import Field, Options
from safety_reminder.data import load_dataset
from safety_reminder.data.training_sets.loading import load_training
from safety_reminder.errors import ConfigError
from safety_reminder.types import Example, TrainingExample

CheckAgainst = Annotated[
    list[str],
    Field(
        description="evaluation sets that must not share a prompt or image with the rows: NAME:FOLDER, as in "
        "dataset=NAME, and NAME:FOLDER:key=value for its options, for example spa_vl:DIR:split=help"
    ),
]
AllowContamination = Annotated[bool, Field(description="go on although rows are in a set that is evaluated on")]


class RowsOptions(Options):
    """Which rows; ``data=NAME`` alone gives ``sets``."""

    sets: Annotated[
        str,
        Field(description="data=NAME+NAME: spa_vl, vlsafe, vlguard, pairs, or a FILE (.jsonl, .json, .csv, .parquet)"),
    ]
    root: Annotated[
        str | None, Field(description="of named sets: the folder itself, or one with a folder for each")
    ] = None
    harmful: Annotated[
        int | None, Field(ge=0, description="so many harmful rows; null: 256 of named sets, all of files")
    ] = None
    benign: Annotated[int | None, Field(ge=0, description="and so many benign ones")] = None
    seed: Annotated[int, Field(description="of which rows are taken")] = 0
    options: Annotated[
        dict[str, Any], Field(description="of the loaders: +data.options.NAME=VALUE, for example images=DIR")
    ] = Field(default_factory=dict)

    def load(self, *, both_kinds: bool = True, on_error: str = "stop") -> list[TrainingExample]:
        """Raises ConfigError and DataError, as :func:`load_training` does."""
        return load_training(
            self.sets,
            self.root,
            harmful=self.harmful,
            benign=self.benign,
            seed=self.seed,
            options=self.options,
            both_kinds=both_kinds,
            on_error=on_error,
        )


def refuse_shared(examples: Sequence[TrainingExample], evaluation: dict[str, list[Example]], *, allow: bool) -> None:
    """Rows that a run is tested on must not be trained on.

    Raises:
        DataError: a row is also in one of these sets.
    """
    if evaluation and not allow:
        from safety_reminder.training.contamination import refuse_contamination

        refuse_contamination(examples, evaluation)


def named_datasets(option: str, entries: Sequence[str]) -> dict[str, list[Example]]:
    """``NAME:FOLDER`` entries of an option, perhaps with ``:key=value`` for the data set's options, → the data sets.

    Raises:
        ConfigError: an entry of another form. DataError: a data set that cannot be read.
    """
    return {entry: _named_dataset(option, entry) for entry in entries}


def _named_dataset(option: str, entry: str) -> list[Example]:
    from omegaconf import OmegaConf
    from yaml import YAMLError

    name, colon, rest = entry.partition(":")
    if not colon:
        raise ConfigError(f"{option} needs NAME:FOLDER, for example figstep:data/FigStep; got {entry!r}")
    root, *options = re.split(r":(?=\w+=)", rest)
    try:
        loader_options: Any = OmegaConf.to_container(OmegaConf.from_dotlist(options))
    except YAMLError as error:
        raise ConfigError(f"{option}: an option of {entry!r} is not a value: {error}") from error
    if {"name", "root"} & set(loader_options):
        raise ConfigError(f"{option}: {entry!r} gives name or root twice; it is NAME:FOLDER:key=value")
    return load_dataset(name, root, **loader_options)
