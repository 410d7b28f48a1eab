"""Attacks that test the guard: each is a configuration, pure steps, a result and one function, and one row here."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING

from safety_reminder.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from safety_reminder.attacks.base import Attack

ATTACKS = {
    "pgd": "safety_reminder.attacks.pgd:ATTACK",
    "gcg": "safety_reminder.attacks.gcg:ATTACK",
    "bap_image": "safety_reminder.attacks.bap_image:ATTACK",
    "bap_rewrite": "safety_reminder.attacks.bap_rewrite:ATTACK",
    "prefill": "safety_reminder.attacks.transforms:PREFILL",
    "typographic": "safety_reminder.attacks.transforms:TYPOGRAPHIC",
    "system_override": "safety_reminder.attacks.transforms:SYSTEM_OVERRIDE",
    "multi_turn": "safety_reminder.attacks.transforms:MULTI_TURN",
}


def attack_named(name: str) -> Attack:
    """Raises: ConfigError: no such attack."""
    if name not in ATTACKS:
        raise ConfigError(unknown_name("attack", name, ATTACKS))
    return pkgutil.resolve_name(ATTACKS[name])
