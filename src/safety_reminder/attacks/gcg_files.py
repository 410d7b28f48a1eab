"""What a search for a suffix knows between two steps, and what it leaves in its folder."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from safety_reminder.attacks.gcg_options import GCGConfig, Step
from safety_reminder.attacks.goals import Goal
from safety_reminder.attacks.search import Buffer, Entry
from safety_reminder.errors import ConfigError
from safety_reminder.models import sampled_digest
from safety_reminder.run_files import differing, write_bytes, write_text

if TYPE_CHECKING:
    from safety_reminder.attacks.parties import Readers

CHECKPOINT = "search.safetensors"
REMEMBERED = 256  # swaps


@dataclasses.dataclass
class State:
    """``active``: goals that have joined. ``parent`` and ``tried``: the suffix that candidates were last made from, and
    those of it that were drawn. ``promising``: swaps, as (position, token), and how far they lowered a loss. ``best``:
    for the active goals.
    """

    generator: torch.Generator
    buffer: Buffer
    best: Entry
    active: int
    parent: list[int] = dataclasses.field(default_factory=list)
    tried: set[tuple[int, ...]] = dataclasses.field(default_factory=set)
    promising: dict[tuple[int, int], float] = dataclasses.field(default_factory=dict)
    rows: list[Step] = dataclasses.field(default_factory=list)
    step: int = 0
    candidates: int = 0
    seconds: float = 0.0
    succeeded: bool = False
    done: bool = False

    def remember(self, parent: Entry, rows: torch.Tensor, losses: torch.Tensor) -> None:
        """Of candidates with one swap, whether it lowered the loss of ``parent``: what helped one suffix helps the next
        one more often than what was drawn."""
        for row, loss in zip(rows.tolist(), losses.tolist(), strict=True):
            changed = [at for at, (a, b) in enumerate(zip(parent.ids, row, strict=True)) if a != b]
            if len(changed) != 1 or not math.isfinite(loss):
                continue
            self.promising.pop((changed[0], row[changed[0]]), None)
            if loss < parent.loss:
                self.promising[changed[0], row[changed[0]]] = loss - parent.loss
        self.promising = dict(sorted(self.promising.items(), key=lambda item: item[1])[:REMEMBERED])

    def take(self, loss: float, ids: list[int], sent: Callable[[Sequence[int]], bool]) -> None:
        """A candidate into the buffer, and to the front if it is the best; not one that ``sent`` says is changed on its
        way."""
        wanted = self.buffer.size == 0 or len(self.buffer.entries) < self.buffer.size
        if not wanted and loss >= self.buffer.entries[-1].loss:
            return
        if not sent(ids):
            return
        self.buffer.add(loss, ids)
        if loss < self.best.loss:
            self.best = Entry(loss, list(ids))


def identity(readers: Readers, draft: Readers | None, config: GCGConfig) -> dict[str, Any]:
    """What a run that goes on must share with the one that it goes on from: options, prompts, targets and models."""
    options = config.model_dump(exclude=set(config.marked("later")))
    digest = hashlib.sha256()
    for party in readers.parties:
        for name, value in sorted((party.inputs or {}).items()):
            digest.update(name.encode() + value.cpu().float().numpy().tobytes())
        digest.update(json.dumps(party.target).encode())
    asked = [*readers.parties[: readers.models], *(draft.parties[:1] if draft else [])]
    models = [[sampled_digest(party.vlm.model), str(party.vlm.model.dtype)] for party in asked]
    guard = [party.term.identity for party in readers.parties[:1] if party.term is not None]
    return {"options": options, "prompts": digest.hexdigest(), "models": models, "guard": guard}


class Files:
    """The files of one search in ``folder``."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder, self.identity = folder, identity
        self.checkpoint = folder / CHECKPOINT
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def resumable(self) -> bool:
        return self.checkpoint.is_file()

    def save(self, state: State) -> None:
        """Checkpoint and ``losses.csv``; a reader sees the old ones or the new ones."""
        plain = {
            name: getattr(state, name)
            for name in ("active", "parent", "step", "candidates", "seconds", "succeeded", "done")
        }
        plain["best"] = dataclasses.asdict(state.best)
        plain["buffer"] = [dataclasses.asdict(entry) for entry in state.buffer.entries]
        plain["promising"] = [[*swap, change] for swap, change in state.promising.items()]
        plain["rows"] = [dataclasses.asdict(row) for row in state.rows]
        tried = sorted(state.tried) or [()]
        tensors = {"generator": state.generator.get_state(), "tried": torch.tensor(tried, dtype=torch.long)}
        metadata = {"identity": json.dumps(self.identity, sort_keys=True), "state": json.dumps(plain)}
        write_bytes(self.checkpoint, save(tensors, metadata))
        columns = ("step", "loss", "best", "seconds", "candidates")
        _write_csv(
            self.folder / "losses.csv",
            columns,
            [[_shown(getattr(row, name)) for name in columns] for row in state.rows],
        )

    def load(self, state: State) -> State:
        """``state``, a new one, as it was saved.

        Raises:
            ConfigError: the checkpoint is damaged, or of another configuration.
        """
        try:
            with safe_open(self.checkpoint, "pt") as saved:
                metadata = saved.metadata() or {}
                generator, tried = saved.get_tensor("generator"), saved.get_tensor("tried")
                plain, whose = json.loads(metadata["state"]), json.loads(metadata["identity"])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
            raise self._damaged(error) from error
        if changed := _differing(json.loads(json.dumps(self.identity)), whose):
            raise ConfigError(
                f"{self.checkpoint} is of a search with other options, goals or model ({', '.join(changed)}); give "
                "another output=DIR, or remove it to start over"
            )
        try:
            return _restored(state, plain, generator, tried)
        except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"{self.checkpoint} is damaged, or no checkpoint ({type(error).__name__}); remove it, or give another "
            "output=DIR"
        )


def _differing(mine: Mapping[str, Any], whose: Any) -> list[str]:
    """Names of options, and of what else two searches must share, that are not the same."""
    theirs = whose if isinstance(whose, dict) else {}
    options = theirs.get("options")
    inner = differing(mine["options"], options if isinstance(options, dict) else {})
    return [*inner, *(name for name in differing(mine, theirs) if name != "options")]


def _restored(state: State, plain: dict[str, Any], generator: torch.Tensor, tried: torch.Tensor) -> State:
    state.generator.set_state(generator)
    state.tried = {tuple(row) for row in tried.tolist() if row}
    state.best = Entry(**plain.pop("best"))
    state.buffer.entries = [Entry(**entry) for entry in plain.pop("buffer")]
    state.promising = {(at, token): change for at, token, change in plain.pop("promising")}
    state.rows = [Step(**row) for row in plain.pop("rows")]
    for name, value in plain.items():
        setattr(state, name, value)
    return state


def write_suffixes(folder: Path, found: Iterable[tuple[Goal, str]], separator: str) -> None:
    """``adv_suffix.csv``: of each goal the request, the target, and what to append to the request after the separator,
    as ``dataset=adv_suffix`` reads it."""
    rows = [(goal.example.prompt, goal.target, suffix.removeprefix(separator)) for goal, suffix in found]
    _write_csv(folder / "adv_suffix.csv", ("goal", "target", "adv_suffix"), rows)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *rows])
    write_text(path, text.getvalue())


def _shown(value: float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
