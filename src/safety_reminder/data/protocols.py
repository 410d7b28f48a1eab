"""Which rows of a data set published figures rest on: ``protocol=official``, one table for all sets.

``official`` is what the Safety Reminder's authors evaluate on (arXiv:2506.15734 and its code), row for row where
upstream's files are whole. ``advice`` is what that leaves out because it asks for advice rather than for harm.
"""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safety_reminder.errors import ConfigError, DataError, unknown_name
from safety_reminder.types import Example, Kind

log = logging.getLogger(__name__)
ADVBENCH_SPLITS = {"train": 320, "validation": 100, "test": 100}
Examples = Sequence[Example]


@dataclass(frozen=True)
class Protocol:
    """What is taken of one data set.

    ``rows``: how many that is in full, of the rows that were taken and the loader's options. ``kinds``: of requests
    that are kept. ``draw``: ``module:function`` that draws from them; None: all. ``fixed``: options of the loader that
    cannot be others; ``default``: those that are these unless they are given.
    """

    rows: Callable[[Examples, Mapping[str, Any]], int]
    kinds: tuple[Kind, ...] = ("attack", "advice", "harmless")
    draw: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    default: Mapping[str, Any] = field(default_factory=dict)

    def loading(self, what: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """The loader's options.

        Raises:
            ConfigError: one of them is another than the protocol's.
        """
        given = {name: value for name, value in options.items() if value is not None}
        for name, value in self.fixed.items():
            if given.get(name, value) != value:
                raise ConfigError(f"{what} is {name}={value}, and not {name}={given[name]}")
        return {**self.default, **self.fixed, **given}

    def select(self, what: str, examples: Examples, options: Mapping[str, Any]) -> list[Example]:
        """Those of ``examples`` that belong to it, in their order. Where these are fewer than in full, a warning says
        so.

        Raises:
            DataError: none is there.
        """
        kept = [example for example in examples if example.kind in self.kinds]
        if self.draw is not None:
            kept = pkgutil.resolve_name(self.draw)(kept)
        if not kept:
            raise DataError(f"{what} leaves none of {len(examples)} rows; check the other options")
        if len(kept) < (whole := self.rows(kept, options)):
            log.warning("%s: %d of its %d rows", what, len(kept), whole)
        return kept


def _of_figstep(each: int) -> Callable[[Examples, Mapping[str, Any]], int]:
    """So many topics, of 5 rows in SafeBench-Tiny and of 50 in SafeBench, as the ids name them."""
    return lambda examples, options: each * (5 if examples[0].id.startswith("SafeBench-Tiny/") else 50)


_EACH_SCENARIO = "safety_reminder.data.draws:fifty_of_each_category"
_ADVBENCH = {**ADVBENCH_SPLITS, "all": sum(ADVBENCH_SPLITS.values())}
PROTOCOLS: dict[str, dict[str, Protocol]] = {
    "official": {
        "figstep": Protocol(_of_figstep(7), kinds=("attack",)),
        "mm_safetybench": Protocol(lambda examples, options: 394, kinds=("attack",), draw=_EACH_SCENARIO),
        "spa_vl": Protocol(lambda examples, options: 265, fixed={"split": "harm"}),
        "vlsafe": Protocol(lambda examples, options: 300, draw="safety_reminder.data.draws:three_hundred"),
        "advbench": Protocol(lambda examples, options: _ADVBENCH[options["split"]], default={"split": "test"}),
    },
    "advice": {
        "figstep": Protocol(_of_figstep(3), kinds=("advice",)),
        "mm_safetybench": Protocol(lambda examples, options: 250, kinds=("advice",), draw=_EACH_SCENARIO),
    },
}


def protocol_of(dataset: str, name: str) -> Protocol:
    """Raises: ConfigError: there is no such protocol, or not of this data set."""
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise ConfigError(unknown_name("protocol", str(name), PROTOCOLS))
    if dataset not in PROTOCOLS[name]:
        raise ConfigError(
            f"dataset={dataset} has no protocol={name}; the data sets that have it are {', '.join(PROTOCOLS[name])}"
        )
    return PROTOCOLS[name][dataset]
