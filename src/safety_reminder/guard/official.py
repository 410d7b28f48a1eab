"""What the paper's code (github.com/tpy001/Safety-Reminder) leaves behind, read as data: nothing in it is run.

``prompt_embedding_iter_N.pth`` is the state of an embedding of k vectors, as ``torch.save`` writes it.
``pca_classifier.npz`` is a principal component analysis and a logistic regression on its components, which together
are an affine map of the hidden state: a :class:`Probe`. Both are read after the final norm, at the last vector.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from safety_reminder.errors import PackError, shortened
from safety_reminder.guard.probe import Probe

ARRAYS = ("pca_components", "pca_mean", "clf_weights", "clf_bias")
Positive = Literal["safe", "unsafe"]

_MOST_BYTES = 64 << 20  # unpacked; the files of a 7B model hold under a megabyte
_MOST_VECTORS, _MOST_SIZE = 256, 1 << 16


def read_soft_prompt(path: Path) -> Float[Tensor, "k hidden_size"]:
    """The vectors of a ``.pth`` file, float32: a tensor, or a module's state with one, perhaps with a leading axis of
    one.

    Raises:
        PackError: the file is missing, damaged or too large, or holds anything else.
    """
    _require_small(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # of forms of files that torch itself may not read one day
            value: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises on a file from anywhere is no closed list; it may advise to run it
        raise PackError(
            f"{path} is no soft prompt: it is damaged, or holds more than tensors, and nothing in it was run "
            f"({type(error).__name__})"
        ) from error
    if isinstance(value, Mapping):
        if len(value) != 1:
            raise PackError(
                f"{path} should hold the vectors alone, as embedding.weight; it has {len(value)} entries: "
                f"{shortened(', '.join(map(str, value)), 200)}"
            )
        value = next(iter(value.values()))
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        raise PackError(f"{path} holds no plain tensor, but a {type(value).__name__}")
    if not value.is_floating_point():
        raise PackError(f"{path} should hold floating-point numbers, got {str(value.dtype).removeprefix('torch.')}")
    shape = tuple(value.shape)
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    # A small file may claim a large tensor, all of whose entries are one number.
    if len(shape) != 2 or not (1 <= shape[0] <= _MOST_VECTORS and 1 <= shape[1] <= _MOST_SIZE):
        raise PackError(
            f"{path} should hold up to {_MOST_VECTORS} vectors (k, hidden_size), got shape {tuple(value.shape)}"
        )
    vectors = value.detach().reshape(shape).float().clone()
    if not torch.isfinite(vectors).all():
        raise PackError(f"{path} holds values that are not finite")
    return vectors


def read_classifier(path: Path, positive: Positive = "safe") -> Probe:
    """The probe that a ``.npz`` file amounts to.

    Args:
        positive: the class whose probability the regression gives; in the paper's code, safe.

    Raises:
        PackError: the file is missing, damaged or too large, or holds other arrays than :data:`ARRAYS`, or values that
            do not fit together or are not finite.
    """
    arrays = _read_arrays(path)
    components, mean, weights, bias = (arrays[name] for name in ARRAYS)
    if components.ndim != 2 or 0 in components.shape or components.shape[1] > _MOST_SIZE:
        raise PackError(f"{path}: pca_components should be (components, hidden_size), got {components.shape}")
    count, size = components.shape
    if mean.shape != (size,):
        raise PackError(f"{path}: pca_mean should be ({size},), as pca_components is, got {mean.shape}")
    if weights.shape not in ((count,), (1, count)):
        raise PackError(f"{path}: clf_weights should be (1, {count}), one for each component, got {weights.shape}")
    if bias.size != 1:
        raise PackError(f"{path}: clf_bias should be one number, got shape {bias.shape}")
    try:
        return fold(components, mean, weights.reshape(count), float(bias.reshape(())), positive)
    except PackError as error:
        raise PackError(f"{path}: {error}") from error


def fold(
    components: Float[np.ndarray, "n hidden_size"],
    mean: Float[np.ndarray, " hidden_size"],
    weights: Float[np.ndarray, " n"],
    bias: float,
    positive: Positive,
) -> Probe:
    """``weights · (components @ (hidden - mean)) + bias``, the log-odds of ``positive``, as a probe of the unsafe
    class. Summed in float64, kept in float32.

    Raises:
        PackError: float32 cannot hold the result, or it does not depend on the hidden state.
    """
    sign = 1.0 if positive == "unsafe" else -1.0
    with np.errstate(over="ignore", invalid="ignore"):  # Probe refuses what comes of it
        weight = sign * (weights.astype(np.float64) @ components.astype(np.float64))
        shift = sign * bias - float(weight @ mean.astype(np.float64))
    if not weight.any():
        raise PackError("the classifier says the same of every text; it cannot guard anything")
    return Probe(torch.from_numpy(weight).float(), shift)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    _require_small(path)
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise PackError(f"{path} is no classifier: it is not a .npz file ({type(error).__name__})") from error
    if sorted(found) != sorted(f"{name}.npy" for name in ARRAYS):
        shown = shortened(", ".join(name.removesuffix(".npy") for name in found), 200)
        raise PackError(f"{path} should hold {', '.join(ARRAYS)}, once each; it has: {shown or 'nothing'}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name]) for name in ARRAYS}
    except Exception as error:  # neither is what numpy raises on one
        raise PackError(
            f"{path} is no classifier: it is damaged, or holds more than numbers, and nothing in it was run "
            f"({type(error).__name__})"
        ) from error
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise PackError(f"{path}: {name} should hold floating-point numbers, got {array.dtype}")
        if not np.isfinite(array).all():
            raise PackError(f"{path}: {name} holds values that are not finite")
    return arrays


def _require_small(path: Path) -> None:
    """Raises: PackError: no file, or more than :data:`_MOST_BYTES`, packed or unpacked."""
    if not path.is_file():
        raise PackError(f"no file at {path}")
    with path.open("rb"):  # one that may not be read is no damaged one
        sizes = [path.stat().st_size]
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                sizes.append(sum(info.file_size for info in archive.infolist()))
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            pass  # damaged, as its own reader will say
    if max(sizes) > _MOST_BYTES:
        raise PackError(f"{path} holds {max(sizes) >> 20} MiB; a soft prompt or classifier has a few")
