"""What a training run knows between two steps, and the checkpoint that holds it: saved whole, loaded, or refused."""

from __future__ import annotations

import io
import math
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from safety_reminder.config.options import Field, checked
from safety_reminder.errors import ConfigError
from safety_reminder.models import VLM, embedding_weight, fingerprint_mismatch, token_vectors
from safety_reminder.run_files import differing, write_bytes
from safety_reminder.training.config import TrainingConfig

SUMMATION = 1e-4  # of a norm: the same weights on another machine, summed in another order
COUNTERS = ("step", "best", "best_loss", "worse", "stopped", "scale")
_KINDS: dict[str, Any] = {
    "learned": dict[str, Any], "optimiser": dict[str, Any], "identity": dict[str, Any], "model": dict[str, Any],
    "step": Annotated[int, Field(ge=0)], "best": dict[str, Any] | None, "best_loss": float,
    "worse": Annotated[int, Field(ge=0)], "stopped": bool, "scale": Annotated[float | None, Field(gt=0)],
}  # fmt: skip
_ADVICE = "remove it, or give another output=DIR"


@dataclass
class State:
    """``vectors`` (k, hidden_size), and of the running probe ``weight`` (hidden_size,) and ``bias`` (), float32.

    ``step``: steps that are done. ``best``: what was learned at the lowest validation loss so far, ``best_loss``;
    ``worse``: epochs since then. ``stopped``: there were too many of these. ``scale``: the length of hidden states
    before the first step, by which the running probe's input is divided: AdamW moves each of its thousand weights by
    the learning rate, and on states as they are the sum of that would overshoot.
    """

    vectors: torch.nn.Parameter
    weight: torch.nn.Parameter
    bias: torch.nn.Parameter
    optimiser: torch.optim.Optimizer
    step: int = 0
    best: dict[str, torch.Tensor] | None = None
    best_loss: float = math.inf
    worse: int = 0
    stopped: bool = False
    scale: float | None = None

    @classmethod
    def begin(cls, vlm: VLM, config: TrainingConfig) -> State:
        """Before the first step: the vectors as ``config.init`` says, and a probe that knows nothing."""
        device = vlm.model.device
        vectors = torch.nn.Parameter(initial_vectors(vlm, config))
        weight = torch.nn.Parameter(torch.zeros(vlm.hidden_size, device=device))
        bias = torch.nn.Parameter(torch.zeros((), device=device))
        optimiser = torch.optim.AdamW(
            [{"params": [vectors]}, {"params": [weight, bias], "weight_decay": 0.0}],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        return cls(vectors, weight, bias, optimiser)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [self.vectors, self.weight, self.bias]

    @property
    def applied(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Vectors, weight and bias for hidden states as they are."""
        return self.vectors, self.weight / (self.scale or 1.0), self.bias

    @property
    def learned(self) -> dict[str, torch.Tensor]:
        """Without gradient. They are not copies: the next step changes them. The weight is that of states over
        ``scale``."""
        return {name: getattr(self, name).detach() for name in ("vectors", "weight", "bias")}

    def judge(self, loss: float, patience: int) -> None:
        """After an epoch with this validation ``loss`` on the turn: keep what was learned if it is the best so far;
        stop after ``patience`` epochs in a row that were not (0: never)."""
        if loss < self.best_loss:
            self.best_loss, self.worse = loss, 0
            self.best = {name: value.clone() for name, value in self.learned.items()}
        else:
            self.worse += 1
            self.stopped = 0 < patience <= self.worse

    def save(self, path: Path, identity: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
        """Write a checkpoint; a reader sees the old one or the new one, never half of it. OSError on a full disk.

        Args:
            identity: what a run that goes on from it must share (:func:`identity`).
            fingerprint: of the model.
        """
        saved: dict[str, Any] = {"learned": self.learned, "optimiser": self.optimiser.state_dict()}
        saved |= {name: getattr(self, name) for name in COUNTERS}
        saved |= {"identity": dict(identity), "model": dict(fingerprint)}
        data = io.BytesIO()
        torch.save(saved, data)
        write_bytes(path, data.getbuffer())

    def load(self, path: Path, identity: Mapping[str, Any], model: Any) -> None:
        """Go on from a checkpoint of this version.

        Raises:
            ConfigError: it is damaged, or of a run with other options, data or model.
        """
        saved = _read(path, self.vectors.device)
        try:
            self._require_fitting(saved)
        except (ConfigError, RecursionError) as error:
            raise ConfigError(f"{path} is no checkpoint of this run ({error}); {_ADVICE}") from error
        changed = differing(identity, saved["identity"])
        if fingerprint_mismatch(saved["model"], model, tolerance=SUMMATION):
            changed.append("model")
        if changed:
            raise ConfigError(
                f"{path} is of a run with other options, data or model ({', '.join(changed)}); give another "
                "output=DIR, or remove it to start over"
            )
        for name, value in saved["learned"].items():
            getattr(self, name).data.copy_(value)
        self._restore_optimiser(path, saved["optimiser"])
        for name in COUNTERS:
            setattr(self, name, saved[name])

    def _require_fitting(self, saved: Mapping[str, Any]) -> None:
        """Raises: ConfigError: a part is of another type or shape than this run's."""
        for name, kind in _KINDS.items():
            checked(kind, saved[name], name)
        for name in ("learned", "best"):
            part = saved[name]
            if part is None:  # of ``best``, before the first validation
                continue
            shapes = {key: (tuple(value.shape), value.dtype) for key, value in self.learned.items()}
            found = {key: (tuple(v.shape), v.dtype) for key, v in part.items() if isinstance(v, torch.Tensor)}
            if found != shapes or len(part) != len(shapes):
                raise ConfigError(f"{name} does not hold vectors, weight and bias of this model's size")

    def _restore_optimiser(self, path: Path, saved: dict[str, Any]) -> None:
        try:
            self.optimiser.load_state_dict(saved)
            values = [(p, v) for p, state in self.optimiser.state.items() for v in state.values()]
            fits = all(v.ndim == 0 or v.shape == p.shape for p, v in values if isinstance(v, torch.Tensor))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ConfigError(f"{path}: the optimiser's state cannot be read ({error}); {_ADVICE}") from error
        if not fits:
            raise ConfigError(f"{path}: the optimiser's state is of another model; {_ADVICE}")


# What torch raises for files that are damaged, or of another program.
_UNREADABLE = (
    RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError, LookupError, AttributeError, TypeError,
    AssertionError,
)  # fmt: skip


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """While this is open, the model's weights need no gradient."""
    required = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.requires_grad_(False)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(required[name])


def identity(config: TrainingConfig, vlm: VLM, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that goes on must share with the one that it goes on from, besides the model's weights: the data, the
    model's precision, and the options that may not change later."""
    options = config.model_dump(exclude=set(config.marked("later")))
    # What it comes to: a policy may change later, but not what has been trained for it.
    options["empty_prob"] = config.emptied
    return {**options, "dtype": str(vlm.model.dtype), "data": dict(manifest)}


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that torch does not write itself; they are refused anyway
            saved = torch.load(path, map_location=device, weights_only=True)
    except _UNREADABLE as error:
        reason = type(error).__name__  # torch's own text advises to load what is not trusted
        raise ConfigError(f"{path} is damaged, or no checkpoint ({reason}); {_ADVICE}") from error
    if not isinstance(saved, dict) or not saved.keys() >= _KINDS.keys():
        raise ConfigError(f"{path} is no checkpoint that this version of safety-reminder can go on from; {_ADVICE}")
    return saved


def initial_vectors(vlm: VLM, config: TrainingConfig) -> torch.Tensor:
    """(k, hidden_size) float32: the embeddings of the first k tokens of a text, or random ones of their size.

    Raises:
        ConfigError: the text is empty.
    """
    if config.init == "random":
        generator = torch.Generator().manual_seed(config.seed)
        drawn = torch.randn(config.k, vlm.hidden_size, generator=generator)
        embeddings = token_vectors(vlm.model, range(min(1024, len(embedding_weight(vlm.model)))))
        return (drawn * embeddings.std().cpu()).to(vlm.model.device)
    ids = vlm.tokenizer(config.init_text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ConfigError("training.init_text is empty; the reminder starts from the embeddings of its tokens")
    ids = (ids * math.ceil(config.k / len(ids)))[: config.k]
    return token_vectors(vlm.model, ids)
