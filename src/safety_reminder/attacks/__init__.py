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
        does: ``module:function`` in this package; called with an arena and options.
        kind: its option class, ``module:Class``, which may have ``PRESETS``: by name, options of the command that
            differ.
        about: what it does, for ``--help``.
    """

    does: str
    kind: str
    about: str

    @property
    def options(self) -> type[Options]:
        return pkgutil.resolve_name(f"safety_reminder.attacks.{self.kind}")

    @property
    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        return getattr(self.options, "PRESETS", {})

    def run(self, arena: Any, options: Any) -> Any:
        """:class:`~safety_reminder.attacks.base.Arena` → :class:`~safety_reminder.attacks.base.Outcome`."""
        return pkgutil.resolve_name(f"safety_reminder.attacks.{self.does}")(arena, options)


ATTACKS = {
    "pgd": Attack(
        "pgd:run",
        "options:PGDConfig",
        "an image that makes the model begin its answers with their targets (ImgJP, arXiv:2402.02309; visual "
        "adversarial examples, arXiv:2306.13213)",
    ),
    "gcg": Attack(
        "gcg:run",
        "gcg_options:GCGConfig",
        "a suffix after the request that makes the model begin its answers with their targets (arXiv:2307.15043)",
    ),
    "bap_image": Attack(
        "bap_image:run",
        "options:BAPImageConfig",
        "an image that makes the model affirm whatever it is asked, learned without the requests (BAP, step 1, "
        "arXiv:2406.04031)",
    ),
    "bap_rewrite": Attack(
        "bap_rewrite:run",
        "options:BAPRewriteConfig",
        "requests rewritten by a chat model, round after round, until the model answers them (BAP, step 2, "
        "arXiv:2406.04031)",
    ),
    "prefill": Attack(
        "transforms:run_prefill",
        "transform_options:PrefillAttackConfig",
        "the answer begun for the model, so many tokens deep",
    ),
    "typographic": Attack(
        "transforms:run_typographic",
        "transform_options:TypographicConfig",
        "requests as images of their text (FigStep, arXiv:2311.05608), in any font, size, colour and direction",
    ),
    "system_override": Attack(
        "transforms:run_system_override",
        "transform_options:SystemOverrideConfig",
        "a system prompt that forbids the model to decline",
    ),
    "multi_turn": Attack(
        "transforms:run_multi_turn",
        "transform_options:MultiTurnConfig",
        "earlier turns, harmless and answered, that build up to the request",
    ),
}


def attack_named(name: str) -> Attack:
    """Raises: ConfigError: no such attack."""
    if name not in ATTACKS:
        raise ConfigError(unknown_name("attack", name, ATTACKS))
    return ATTACKS[name]
