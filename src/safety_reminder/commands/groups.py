"""Options that several commands have: groups of them, and the kinds of values that need words of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from pydantic import BeforeValidator, ConfigDict, create_model, model_validator

from safety_reminder.config import GuardConfig
from safety_reminder.config.options import Field, Options
from safety_reminder.data import load_dataset
from safety_reminder.errors import ConfigError
from safety_reminder.types import Example, Sampling


def _folder(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        raise ValueError(f"output must be a folder, got {value!r}")
    return value


def _reminder(value: Any) -> Any:
    if value in (None, "none"):
        raise ValueError("give reminder=NAME or a folder")
    return value


Reminder = Annotated[str, BeforeValidator(_reminder)]  # where there must be one
Output = Annotated[str, BeforeValidator(_folder), Field(description="the folder that everything is written into")]
Model = Annotated[
    str,
    Field(
        description="pocket, a hub id, a folder, or a name of the paper's repository (below)",
        json_schema_extra={"preset": True},
    ),
]
Device = Annotated[str | int | None, Field(description="null: an accelerator, if there is one")]
DType = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], Field(description="of the weights; auto: as they are saved")
]
BatchSize = Annotated[int, Field(ge=1, description="so many are answered together")]
Reads = Annotated[
    bool,
    Field(description="of images of text: also ask what each says, for word recall and success where it is read"),
]
CheckBase = Annotated[bool, Field(description="refuse a reminder that was trained on other weights")]


def all_optional(of: type) -> type[Options]:
    """The options of a dataclass, each with its own explanation, and all of them null until they are given."""
    fields: dict[str, Any] = {}
    hints = get_type_hints(of, include_extras=True)
    for field in dataclasses.fields(of):
        kind = hints[field.name]
        if field.name != "more":
            fields[field.name] = (kind.__origin__ | None, Field(default=None, description=kind.__metadata__[0]))
    return create_model(f"Some{of.__name__}", __base__=Options, **fields)


def some_of(options: type[Options], names: Collection[str]) -> type[Options]:
    """An option class of these fields alone, as they stand in ``options``."""
    fields: dict[str, Any] = {
        name: (info.annotation, info) for name, info in options.model_fields.items() if name in names
    }
    return create_model(f"SomeOf{options.__name__}", __base__=Options, **fields)


class GuardOptions(all_optional(GuardConfig)):
    """Fields of :class:`GuardConfig` that differ from the pack's."""

    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)

    @model_validator(mode="after")
    def _fit(self) -> GuardOptions:
        GuardConfig().replace(**self.given())
        return self


class GenerationOptions(all_optional(Sampling)):
    """Fields of :class:`Sampling`, and any other of transformers' ``GenerationConfig``."""

    model_config = ConfigDict(extra="allow")
    _TAKEN: ClassVar[frozenset[str]] = frozenset({"guard", "batch_size", "seed", "show"})

    @property
    def sampling(self) -> Sampling:
        return Sampling.of(self.model_dump(exclude_none=True))

    @model_validator(mode="after")
    def _fit(self) -> GenerationOptions:
        for name in self.model_extra or {}:
            if name in self._TAKEN:
                raise ConfigError(f"unknown generation option {name!r}; --help lists the options")
        given = self.model_dump(exclude_none=True)
        idle = [name for name in ("temperature", "top_p", "top_k") if name in given]
        if idle and given.get("do_sample") is False:
            raise ConfigError(f"generation.{idle[0]} changes nothing without generation.do_sample=true")
        try:
            self.sampling  # noqa: B018
        except ConfigError as error:
            raise ConfigError(f"generation.{error}") from error
        return self


GuardChanges = Annotated[
    GuardOptions, Field(description="null stands for the pack's own value, or else GuardConfig's default")
]
Generation = Annotated[
    GenerationOptions,
    Field(
        description="null stands for the model's own value; any other field of GenerationConfig is given as "
        "+generation.NAME=VALUE"
    ),
]


class DatasetOptions(Options):
    """A data set, and its loader's further options, which the files of ``config/dataset`` list."""

    model_config = ConfigDict(extra="allow")

    name: str
    root: str
    limit: Annotated[int | None, Field(ge=1)] = None
    per_category: Annotated[int | None, Field(ge=1)] = None
    seed: int | None = None

    def load(self) -> list[Example]:
        """Raises ConfigError and DataError, as :func:`~safety_reminder.data.load_dataset` does."""
        options = self.model_dump(exclude_none=True)
        return load_dataset(options.pop("name"), options.pop("root"), **options)
