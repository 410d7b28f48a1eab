"""Attacks that test the guard: each is a configuration, pure steps, a result and one function, and one row here."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safety_reminder.config.options import Options
from safety_reminder.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class Attack:
    """One attack.

    Args:
        module: in this package; its ``run(arena, options)`` does it.
        options_name: of its option class in :mod:`~safety_reminder.attacks.options`, which may have ``PRESETS``: by
            name, options of the command that differ.
        about: what it does, for ``--help``.
    """

    module: str
    options_name: str
    about: str

    @property
    def options(self) -> type[Options]:
        return pkgutil.resolve_name(f"safety_reminder.attacks.options:{self.options_name}")

    @property
    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        return getattr(self.options, "PRESETS", {})

    def run(self, arena: Any, options: Any) -> Any:
        """:class:`~safety_reminder.attacks.base.Arena` → :class:`~safety_reminder.attacks.base.Outcome`."""
        return pkgutil.resolve_name(f"safety_reminder.attacks.{self.module}:run")(arena, options)


ATTACKS = {
    "pgd": Attack(
        "pgd",
        "PGDConfig",
        "an image that makes the model begin its answers with their targets (ImgJP, arXiv:2402.02309; visual "
        "adversarial examples, arXiv:2306.13213)",
    ),
    "bap_image": Attack(
        "bap_image",
        "BAPImageConfig",
        "an image that makes the model affirm whatever it is asked, learned without the requests (BAP, step 1, "
        "arXiv:2406.04031)",
    ),
    "bap_rewrite": Attack(
        "bap_rewrite",
        "BAPRewriteConfig",
        "requests rewritten by a chat model, round after round, until the model answers them (BAP, step 2, "
        "arXiv:2406.04031)",
    ),
}


def attack_named(name: str) -> Attack:
    """Raises: ConfigError: no such attack."""
    if name not in ATTACKS:
        raise ConfigError(unknown_name("attack", name, ATTACKS))
    return ATTACKS[name]
