"""What a model or a reminder may be called, checked without loading anything: torch takes seconds to import."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safety_reminder.config.presets import preset_names, said_otherwise
from safety_reminder.errors import ModelError, PackError

POCKET = "pocket"  # the model that ships, and its reminder
SHIPPED_PACKS = (POCKET, "pocket-header")
PACK_FILES = ("reminder.safetensors", "config.json")


def model_place(name: str, kind: str = "model") -> str:
    """The folder, or the hub id, of a model that is not :data:`POCKET`.

    Args:
        kind: what messages call it.

    Raises:
        ModelError: a folder that is not there or holds no model, or a name that is neither.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / PACK_FILES[0]).is_file():
            raise ModelError(f"{path} is a reminder pack, not a model: give it as the reminder")
        has_weights = any(next(path.glob(f"*.{ending}"), None) for ending in ("safetensors", "bin"))
        if not has_weights and (gguf := min(path.glob("*.gguf"), default=None)):
            raise ModelError(_of_gguf(gguf, kind))
        if not (path / "config.json").is_file():
            raise ModelError(f"{path} is not a model folder: it has no config.json")
        if not has_weights:
            raise ModelError(f"{path} is not a model folder: it has no weights (model.safetensors)")
        return str(path) if name.startswith("~") else name
    if path.suffix == ".gguf" and path.is_file():
        raise ModelError(_of_gguf(path, kind))
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"no {kind} at {name!r}: expected 'pocket', a folder, or a hub id like 'org/name'")
    if "/" not in name:
        if otherwise := said_otherwise(name):
            raise ModelError(otherwise)
        near = difflib.get_close_matches(name, [POCKET, *preset_names()], n=1)
        meant = f"; did you mean {near[0]!r}?" if near and kind == "model" else ""
        raise ModelError(f"unknown {kind} {name!r}: expected 'pocket', a folder, or a hub id like 'org/name'{meant}")
    return name


def _of_gguf(file: Path, kind: str) -> str:
    return (
        f"{file} is a GGUF file, which is not loaded as a {kind}: take the checkpoint that it was made from, or "
        "convert it once (pip install gguf): in Python, for AutoModelForCausalLM and AutoTokenizer, "
        f"X.from_pretrained({str(file.parent)!r}, gguf_file={file.name!r}).save_pretrained(FOLDER)"
    )


def pack_folder(name: str | Path) -> Path | None:
    """The folder of a pack that is not one of :data:`SHIPPED_PACKS`; None for a hub id.

    Raises:
        PackError: a folder that is not there, or a name that is neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise PackError(f"{folder} is a file, not a reminder pack; {_of_file(folder)}")
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
    if reminder is not None and reminder not in SHIPPED_PACKS and (folder := pack_folder(reminder)) is not None:
        require_pack(folder)


def require_pack(folder: Path) -> None:
    """Raises: PackError: a file of a pack is missing; says what the folder is, and what to give in its place."""
    for name in PACK_FILES:
        if not (folder / name).is_file():
            raise PackError(f"{folder} is not a reminder pack: it has no {name}{_of_folder(folder)}")


def _of_file(file: Path) -> str:
    """What to give in the place of a file."""
    if file.name in PACK_FILES:
        return f"give its folder, {file.parent}"
    if file.suffix in (".zip", ".tar", ".gz", ".tgz"):
        return "unpack it, and give the folder with reminder.safetensors and config.json"
    if _is_pack(pack := file.parent / "pack"):
        return f"give the pack of that run, {pack}"
    return "give the folder with reminder.safetensors and config.json"


def _of_folder(folder: Path) -> str:
    """What a folder without a pack is, and what to give in its place; nothing where it cannot be told."""
    if _is_pack(pack := folder / "pack"):
        return f"; it is the folder of a run: give its pack, {pack}"
    if packs := sorted(path for path in folder.glob("*/pack") if _is_pack(path)):
        return f"; it holds several runs: give one of their packs, such as {packs[0]}"
    if (folder / "checkpoint.pt").is_file():
        return "; it is a training run that did not finish: give the same command again, and it goes on"
    for prompt in (folder, folder / "prompt"):
        if (prompt / "prompt.safetensors").is_file():
            return f"; it is a soft safety prompt, for defense=dro, prompt={prompt}"
    if (folder / "records.jsonl").is_file() or (folder / "results.json").is_file():
        return "; it holds answers of a run: give the pack that they were written with"
    weights = (next(folder.glob(f"*.{ending}"), None) for ending in ("safetensors", "bin", "gguf"))
    if any(weights) and not (folder / PACK_FILES[0]).is_file():  # of half a pack there is nothing else to say
        return "; it is a model's: give it as the model, and the reminder that was trained for it as the reminder"
    return ""


def _is_pack(folder: Path) -> bool:
    return all((folder / name).is_file() for name in PACK_FILES)


def require_judge_found(options: Mapping[str, Any]) -> None:
    """Likewise of a judge's options, where ``model`` is plainly a path. Raises: ModelError."""
    model = options.get("model")
    if isinstance(model, str) and model.startswith((".", "/", "~")) and not options.get("url"):
        model_place(model, "judge model")
