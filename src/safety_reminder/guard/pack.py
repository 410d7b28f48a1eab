"""A pack on disk: ``reminder.safetensors`` (float32), ``config.json``, ``README.md``. No pickle anywhere."""

from __future__ import annotations

import json
import logging
import os
import platform
import tempfile
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from safety_reminder.config.guard import MOST_INTERVAL, OTHER_THRESHOLDS, Policy
from safety_reminder.config.names import PACK_FILES, pack_folder, require_pack
from safety_reminder.config.options import Field, Options, checked
from safety_reminder.errors import ConfigError, PackError
from safety_reminder.guard.probe import Probe
from safety_reminder.models.fingerprint import Fingerprint
from safety_reminder.outside import read_object
from safety_reminder.run_files import naming

if TYPE_CHECKING:
    from safety_reminder.guard.reminder import SafetyReminder

log = logging.getLogger(__name__)
FORMAT = 1
WEIGHTS, CONFIG, CARD = *PACK_FILES, "README.md"


def locate(name_or_folder: str | Path, **hub_options: Any) -> Path:
    """A folder as it is, or the local copy of a hub repository."""
    folder = pack_folder(name_or_folder)
    if folder is not None:
        return folder
    name = str(name_or_folder)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[WEIGHTS, CONFIG, CARD], **hub_options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise PackError(
            f"cannot get the reminder pack {name!r} from the hub ({type(error).__name__}); "
            "check the name and the network, or give a local folder"
        ) from error


class PackConfig(Options):
    """``config.json`` of a pack. All but ``versions`` and what a pack may do without must be there: a
    missing policy or threshold would be another guard."""

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]
    base_model: str
    fingerprint: dict[str, Any]
    k: int
    hidden_size: int
    interval: Annotated[int, Field(ge=1, le=MOST_INTERVAL)]
    threshold: float
    prompt_threshold: float | None = None
    image_threshold: float | None = None
    hold_back_checks: Annotated[int | None, Field(ge=1)] = None
    policy: Policy
    calibration: dict[str, Any]
    training: dict[str, Any]
    versions: dict[str, Any] = Field(default_factory=dict)

    @field_validator("threshold", *OTHER_THRESHOLDS)
    @classmethod
    def _is_a_probability(cls, threshold: float | None) -> float | None:
        if threshold is not None and not 0 < threshold <= 1:  # nor NaN
            raise ValueError(f"threshold must lie in (0, 1], got {threshold!r}")
        return threshold

    @field_validator("fingerprint")
    @classmethod
    def _can_be_compared(cls, fingerprint: dict[str, Any]) -> dict[str, Any]:
        if fingerprint:  # empty: of a reminder that was made for no model in particular
            Fingerprint.parse(fingerprint, "fingerprint")
        return fingerprint


def read(folder: Path) -> dict[str, Any]:
    """The constructor arguments of a :class:`SafetyReminder`, checked.

    Raises:
        PackError: a file is missing or damaged, of another format, or holds what this package does not write.
    """
    require_pack(folder)
    config = _read_config(folder)
    tensors = read_tensors(folder / WEIGHTS, ("reminder", "probe.weight", "probe.bias"))
    shape, bias = tuple(tensors["reminder"].shape), tensors["probe.bias"]
    if shape != (config.k, config.hidden_size):
        raise PackError(
            f"{folder}: config.json says k={config.k}, hidden_size={config.hidden_size}, "
            f"but the reminder has shape {shape}"
        )
    if bias.numel() != 1:
        raise PackError(f"{folder / WEIGHTS}: probe.bias is one number, got shape {tuple(bias.shape)}")
    if not config.fingerprint:
        log.warning("%s does not say which weights it was trained on: whether it fits cannot be checked", folder)
    return {
        "vectors": tensors["reminder"],
        "probe": Probe(tensors["probe.weight"], float(bias)),
        **config.model_dump(exclude={"format", "k", "hidden_size", "versions"}),
    }


def _read_config(folder: Path) -> PackConfig:
    config = read_object(folder / CONFIG, PackError, "a reminder pack's config")
    if "format" not in config:
        raise PackError(f"{folder / CONFIG} is not a reminder pack's config: it has no 'format'")
    found = config["format"]
    if type(found) is int and found != FORMAT:
        raise PackError(f"{folder} has pack format {found}, this version reads {FORMAT}; upgrade safety-reminder")
    try:
        return PackConfig.parse(config)
    except ConfigError as error:
        raise PackError(f"{folder / CONFIG}: {error}") from error


def read_tensors(path: Path, names: Collection[str]) -> dict[str, torch.Tensor]:
    """The float32 tensors of a safetensors file, which has these and no others.

    Raises:
        PackError: it is damaged, or holds other tensors, or values of another type, which would be taken for others.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise PackError(f"{path} is damaged: {error}") from error
    if set(tensors) != set(names):
        raise PackError(f"{path} should hold {', '.join(names)}; it has {sorted(tensors)}")
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise PackError(f"{path}: {name} should be float32, got {str(tensor.dtype).removeprefix('torch.')}")
    return tensors


def write(reminder: SafetyReminder, folder: Path) -> Path:
    tensors = {
        "reminder": reminder.vectors.detach().float().cpu().contiguous(),
        "probe.weight": reminder.probe.weight.detach().float().cpu().contiguous(),
        "probe.bias": torch.tensor(reminder.probe.bias, dtype=torch.float32),
    }
    config = {
        "format": FORMAT,
        "base_model": reminder.base_model,
        "fingerprint": reminder.fingerprint,
        "k": reminder.length,
        "hidden_size": reminder.hidden_size,
        "interval": reminder.interval,
        "threshold": reminder.threshold,
        # Earlier versions refuse a pack that has these, rather than guard with other thresholds.
        **reminder.other_thresholds,
        **({"hold_back_checks": reminder.hold_back_checks} if reminder.hold_back_checks is not None else {}),
        "policy": reminder.policy,
        "calibration": reminder.calibration,
        "training": reminder.training,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": version("transformers"),
        },
    }
    return write_folder(folder, WEIGHTS, tensors, CONFIG, config, card=card(reminder))


def write_folder(
    folder: Path,
    weights: str,
    tensors: Mapping[str, torch.Tensor],
    config_name: str,
    config: Mapping[str, Any],
    *,
    card: str | None = None,
) -> Path:
    """Tensors, their configuration and perhaps a card, atomically: a folder with its configuration in it is whole.

    Raises:
        OSError: it cannot be written, on a full disk for example; names the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The config goes first and comes last: a folder in which it is present is complete, and of one piece.
    with naming(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        _write(Path(scratch) / weights, save(dict(tensors)))
        if card is not None:
            _write(Path(scratch) / CARD, card.encode("utf-8"))
        _write(Path(scratch) / config_name, json.dumps(config, indent=2).encode("utf-8") + b"\n")
        (folder / config_name).unlink(missing_ok=True)
        for name in (weights, *([CARD] if card is not None else []), config_name):
            os.replace(Path(scratch) / name, folder / name)
    return folder


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # a full disk may be told of only here


def _shown(facts: dict[str, Any]) -> str:
    """As JSON, without the long lists, which are for programs and stand in config.json."""
    return json.dumps({k: v for k, v in facts.items() if not isinstance(v, list) or len(v) < 20}, indent=2)


def _turns(training: Mapping[str, Any]) -> str:
    """A card's part on how often the reminder turns answers into refusals, as a table; nothing where the pack does not
    say."""
    if not (turned := checked(dict[str, Any], training.get("turned", {}), "training.turned")):
        return ""
    rates = checked(dict[str, dict[str, dict[str, float]]], turned.get("rates"), "training.turned.rates")

    def cell(rate: Mapping[str, float] | None) -> str:
        return "{value:.1%} [{low:.1%}, {high:.1%}] of {n:.0f}".format(**rate) if rate else ""

    places = list(dict.fromkeys(name for table in rates.values() for name in table if name != "all"))
    lines = [f"| tokens kept | {' | '.join(rates)} |", "|---" * (len(rates) + 1) + "|"]
    for name in [*places, "all"]:
        label = "0 (the bare prompt)" if name == "0" else name
        lines.append(f"| {label} | {' | '.join(cell(table.get(name)) for table in rates.values())} |")
    table = "\n".join(lines)
    about = f"After beginnings of answers ({turned.get('rows', '')} rows), whatever the probe says:"
    return f"## What it turns into refusals\n\n{about}\n\n{table}\n\n"


def card(reminder: SafetyReminder) -> str:
    """The model card that goes with a pack."""
    base = reminder.base_model or "an unnamed model"
    calibration = _shown(reminder.calibration) if reminder.calibration else "not calibrated"
    training = _shown(reminder.training) if reminder.training else "not recorded"
    others = "".join(f", {name} {value:g}" for name, value in reminder.other_thresholds.items())
    if reminder.hold_back_checks is not None:
        others += f", shown after {reminder.hold_back_checks} passed checks"
    return f"""---
library_name: safety-reminder
tags: [safety, vision-language-model, soft-prompt]
---
# Safety reminder for {base}

{reminder.length} soft-prompt vectors of size {reminder.hidden_size} and a linear probe, after "The Safety Reminder"
(arXiv:2506.15734). They fit only the model they were trained for.

```python
import safety_reminder

guarded = safety_reminder.load({json.dumps(base)}, "path/to/this/pack")
print(guarded.generate([{{"role": "user", "content": "Hello!"}}]).text)
```

Checked every {reminder.interval} tokens, unsafe at p ≥ {reminder.threshold:g}{others}, policy `{reminder.policy}`.

## Calibration

```json
{calibration}
```

{_turns(reminder.training)}## Training

```json
{training}
```
"""


def upload(reminder: SafetyReminder, repo_id: str, *, private: bool | None, token: str | None) -> str:
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        write(reminder, Path(scratch))
        return str(api.upload_folder(repo_id=repo_id, folder_path=scratch, commit_message="Upload safety reminder"))
