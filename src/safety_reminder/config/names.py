"""What a model or a reminder may be called, checked without loading anything: torch takes seconds to import."""

from __future__ import annotations

from pathlib import Path

from safety_reminder.errors import ModelError, PackError

POCKET = "pocket"  # the model that ships, and its reminder
SHIPPED_PACKS = (POCKET, "pocket-header")


def model_place(name: str, kind: str = "model") -> str:
    """The folder, or the hub id, of a model that is not :data:`POCKET`.

    Args:
        kind: what messages call it.

    Raises:
        ModelError: a folder that is not there or holds no model, or a name that is neither.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path} is not a model folder: it has no config.json")
        return str(path) if name.startswith("~") else name
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"no {kind} at {name!r}: expected 'pocket', a folder, or a hub id like 'org/name'")
    if "/" not in name:
        raise ModelError(f"unknown {kind} {name!r}: expected 'pocket', a folder, or a hub id like 'org/name'")
    return name


def pack_folder(name: str | Path) -> Path | None:
    """The folder of a pack that is not one of :data:`SHIPPED_PACKS`; None for a hub id.

    Raises:
        PackError: a folder that is not there, or a name that is neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or str(name).startswith((".", "/", "~")) or str(name).count("/") != 1:
        raise PackError(
            f"no reminder pack at {str(name)!r}: expected a folder with reminder.safetensors and config.json, or a hub "
            "id like 'org/name'"
        )
    return None


def require_found(model: str, reminder: str | None = None) -> None:
    """Refuse names under which nothing can be, before anything is imported to load them.

    Args:
        reminder: None for an unguarded model.

    Raises:
        ModelError, PackError.
    """
    if model != POCKET:
        model_place(model)
    if reminder is not None and reminder not in SHIPPED_PACKS:
        pack_folder(reminder)
