"""Which models have passed the self-check: those of the table, and others once, which is remembered on disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from safety_reminder.errors import MessageError, ModelError
from safety_reminder.models import caches
from safety_reminder.models.families import is_tested
from safety_reminder.models.pocket import cache_folder
from safety_reminder.models.self_check import Finding, Trial, require_holds, self_check
from safety_reminder.models.vlm import VLM
from safety_reminder.run_files import write_json

FILE = "checked_models.json"
# What drives a model. If it changes, models are checked anew.
_CODE = ("caches", "checked", "context", "continuing", "positions", "processors", "self_check", "vlm")
_SHORT = "What does it show?"
_LONG = "Say in a sentence what it shows, and then what it does not show at all."
_SAID = "Yes, this is how it looks to me at first sight, and there is nothing more."
log = logging.getLogger(__name__)
_passed: set[str] = set()


def require_correct(vlm: VLM) -> None:
    """Of a family that no test knows, try what guarding it rests on, unless it is remembered that such a model passed.

    Raises:
        ModelError: it cannot be guarded, and which property does not hold.
    """
    if is_tested(vlm.model.config):
        return
    key = _key(vlm)
    if key in _passed or key in _remembered():
        return
    log.info("no test knows a model like %s; checking that guarding it is right", vlm.name)
    require_holds(check(vlm), vlm.name)


def check(vlm: VLM) -> list[Finding]:
    """Try every property, whatever is remembered; a model that has them all is remembered.

    Raises:
        ModelError: its processor gives nothing that could be tried.
    """
    if reason := caches.obstacle(type(vlm.model), vlm.model.config):
        return [Finding("cache", float("nan"), 0.0, reason)]
    findings = self_check(vlm.model, trial(vlm))
    if all(finding.holds for finding in findings):
        _remember(vlm)
    return findings


def trial(vlm: VLM) -> Trial:
    """Two questions of different lengths, each about a picture of noise where the model sees.

    Raises:
        ModelError: its processor does not take them, or gives no pixels.
    """
    sees = vlm.family.reads_images
    conversations = [[_question(text, row, sees=sees)] for row, text in enumerate((_SHORT, _LONG))]
    try:
        batch = vlm.encode(conversations)
        alone = [vlm.encode([conversation]) for conversation in conversations]
    except MessageError as error:
        raise ModelError(f"{vlm.name} cannot be guarded: {error}") from error
    if sees and not any(value.is_floating_point() for value in batch.values()):
        raise ModelError(f"{vlm.name} cannot be guarded: its processor drops the images of a conversation")
    special = {*vlm.tokenizer.all_special_ids, *vlm.eos_ids, 0}
    tokens = [token for token in vlm.answer_ids([_SAID])[0] if token not in special]
    if not tokens:
        raise ModelError(f"{vlm.name} cannot be guarded: its tokenizer makes nothing of {_SAID!r}")
    return Trial(batch, alone, (tokens * 6)[:6], sees)


def _question(text: str, seed: int, *, sees: bool) -> dict[str, Any]:
    if not sees:
        return {"role": "user", "content": text}
    noise = torch.randint(0, 256, (48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return {
        "role": "user",
        "content": [{"type": "image", "image": Image.fromarray(noise.numpy())}, {"type": "text", "text": text}],
    }


def _key(vlm: VLM) -> str:
    """Of all models that are built alike, whatever their size and weights."""
    model = vlm.model
    parts = [
        model.config.model_type,
        type(model).__name__,
        type(vlm.processor).__name__,
        str(model.dtype),
        str(getattr(model.config, "_attn_implementation", "")),
        _built(model.config.to_dict()),
        transformers.__version__,
        version("safety-reminder"),
        *((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8") for name in _CODE),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _built(value: Any) -> Any:
    """A configuration without its numbers; only whether each is zero is kept."""
    if isinstance(value, Mapping):
        return {str(key): _built(each) for key, each in value.items() if key not in ("_name_or_path", "name_or_path")}
    if isinstance(value, list | tuple):
        return sorted({json.dumps(_built(each), sort_keys=True) for each in value})
    if isinstance(value, int | float) and not isinstance(value, bool):
        return bool(value)
    return value if isinstance(value, bool | str | None) else str(type(value))


def _remembered() -> dict[str, Any]:
    """A file that cannot be read remembers nothing."""
    try:
        found = json.loads((cache_folder() / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(vlm: VLM) -> None:
    key = _key(vlm)
    _passed.add(key)
    about = {"model_type": vlm.model.config.model_type, "transformers": transformers.__version__}
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_json(cache_folder() / FILE, {**_remembered(), key: about})
    except OSError as error:
        log.debug("%s is not remembered: %s", vlm.name, error)
