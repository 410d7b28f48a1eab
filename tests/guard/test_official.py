"""Artefacts of the paper's code: read as data, folded exactly, and refused in one line where they are anything else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from safety_reminder.errors import PackError
from safety_reminder.guard.official import ARRAYS, read_classifier, read_soft_prompt

SIZE, COMPONENTS = 24, 4


def arrays(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    whole = {
        "pca_components": rng.normal(size=(COMPONENTS, SIZE)),
        "pca_mean": rng.normal(size=SIZE),
        "clf_weights": rng.normal(size=(1, COMPONENTS)),
        "clf_bias": rng.normal(size=1),
    }
    return {name: value for name, value in {**whole, **changes}.items() if value is not None}


def saved(folder: Path, value: Any) -> Path:
    torch.save(value, folder / "p.pth")
    return folder / "p.pth"


@pytest.fixture(scope="module")
def fitted() -> tuple[np.ndarray, PCA, LogisticRegression]:
    rng = np.random.default_rng(1)
    states = rng.normal(size=(200, SIZE)).astype(np.float32) * 3 + rng.normal(size=SIZE)
    safe = states @ rng.normal(size=SIZE) + rng.normal(size=200) > 1
    pca = PCA(COMPONENTS).fit(states)
    return states, pca, LogisticRegression().fit(pca.transform(states), safe)


@pytest.mark.parametrize(("positive", "column"), [("safe", 0), ("unsafe", 1)])
@pytest.mark.parametrize("flat", [False, True])
def test_the_folded_probe_is_the_pca_and_the_regression(fitted, positive, column, flat, tmp_path):
    states, pca, regression = fitted
    weights, bias = (
        (regression.coef_[0], regression.intercept_[0]) if flat else (regression.coef_, regression.intercept_)
    )
    np.savez(tmp_path / "c.npz", pca_components=pca.components_, pca_mean=pca.mean_, clf_weights=weights, clf_bias=bias)
    probe = read_classifier(tmp_path / "c.npz", positive)
    expected = regression.predict_proba(pca.transform(states))[:, column]
    assert np.abs(probe(torch.from_numpy(states).float()).numpy() - expected).max() < 1e-6
    assert 0.1 < expected.mean() < 0.9


def test_the_positive_class_is_safe_unless_it_is_said_otherwise(tmp_path):
    np.savez(tmp_path / "c.npz", **arrays())
    hidden = torch.randn(8, SIZE)
    safe, unsafe = read_classifier(tmp_path / "c.npz"), read_classifier(tmp_path / "c.npz", "unsafe")
    torch.testing.assert_close(safe(hidden), 1 - unsafe(hidden))


VECTORS = torch.arange(4.0 * SIZE).reshape(4, SIZE)


@pytest.mark.parametrize(
    "value",
    [
        VECTORS,
        VECTORS[None],
        VECTORS.half(),
        torch.nn.Parameter(VECTORS),
        {"embedding.weight": VECTORS},
        torch.nn.Embedding.from_pretrained(VECTORS).state_dict(),
    ],
)
def test_the_vectors_are_found_as_they_are(value, tmp_path):
    vectors = read_soft_prompt(saved(tmp_path, value))
    assert vectors.dtype == torch.float32
    assert not vectors.requires_grad
    torch.testing.assert_close(vectors, VECTORS)


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "went-off"),)


def bombed(folder: Path) -> np.ndarray:
    array = np.empty(SIZE, dtype=object)
    array[0] = Bomb(folder)
    return array


PROMPTS = {
    "code": (lambda folder: Bomb(folder), "holds more than tensors, and nothing in it was run"),
    "code in a state": (lambda folder: {"embedding.weight": Bomb(folder)}, "holds more than tensors"),
    "module": (lambda _: torch.nn.Embedding(4, SIZE), "holds more than tensors"),
    "NaN": (lambda _: VECTORS * torch.nan, "not finite"),
    "infinite": (lambda _: VECTORS / 0, "not finite"),
    "too large for float32": (lambda _: VECTORS.double() * 1e300, "not finite"),
    "several": (lambda _: {"a": VECTORS, "b": VECTORS}, "it has 2 entries: a, b"),
    "nothing": (lambda _: {}, "it has 0 entries"),
    "nested": (lambda _: {"model": {"embedding.weight": VECTORS}}, "no plain tensor, but a dict"),
    "list": (lambda _: [VECTORS], "no plain tensor, but a list"),
    "one vector": (lambda _: VECTORS[0], r"got shape \(24,\)"),
    "two prompts": (lambda _: torch.stack([VECTORS, VECTORS]), r"got shape \(2, 4, 24\)"),
    "no vectors": (lambda _: VECTORS[:0], r"got shape \(0, 24\)"),
    "vocabulary": (lambda _: torch.zeros(1000, SIZE), r"got shape \(1000, 24\)"),
    "claims terabytes": (lambda _: torch.zeros(1).expand(10**6, 10**6), "up to 256 vectors"),
    "whole numbers": (lambda _: VECTORS.long(), "floating-point numbers, got int64"),
    "complex": (lambda _: VECTORS.to(torch.complex64), "floating-point numbers, got complex64"),
    "sparse": (lambda _: VECTORS.to_sparse(), "no plain tensor"),
    "no storage": (lambda _: VECTORS.to("meta"), "no plain tensor"),
}


@pytest.mark.filterwarnings("ignore:TypedStorage")  # of torch.save, where it writes a tensor without storage
@pytest.mark.parametrize("kind", PROMPTS)
def test_any_other_soft_prompt_is_one_line_and_nothing_is_run(kind, tmp_path):
    make, message = PROMPTS[kind]
    path = saved(tmp_path, make(tmp_path))
    with pytest.raises(PackError, match=message) as error:
        read_soft_prompt(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert not (tmp_path / "went-off").exists()


CLASSIFIERS = {
    "code": (lambda folder: {"pca_mean": bombed(folder)}, "holds more than numbers, and nothing in it was run"),
    "NaN": (lambda _: {"clf_bias": np.array([np.nan])}, "clf_bias holds values that are not finite"),
    "infinite": (lambda _: {"pca_mean": np.full(SIZE, np.inf)}, "pca_mean holds values that are not finite"),
    "too large for float32": (lambda _: {"clf_weights": np.full((1, COMPONENTS), 1e200)}, "not finite"),
    "too large for float64": (lambda _: {"pca_components": np.full((COMPONENTS, SIZE), 1e308)}, "not finite"),
    "constant": (lambda _: {"clf_weights": np.zeros((1, COMPONENTS))}, "the same of every text"),
    "two classes more": (lambda _: {"clf_weights": np.ones((3, COMPONENTS))}, r"should be \(1, 4\), .*got \(3, 4\)"),
    "other components": (lambda _: {"clf_weights": np.ones((1, COMPONENTS + 1))}, r"got \(1, 5\)"),
    "column": (lambda _: {"clf_weights": np.ones((COMPONENTS, 1))}, r"got \(4, 1\)"),
    "other size": (lambda _: {"pca_mean": np.ones(SIZE + 1)}, r"pca_mean should be \(24,\), .*got \(25,\)"),
    "one component flat": (lambda _: {"pca_components": np.ones(SIZE)}, r"\(components, hidden_size\), got \(24,\)"),
    "two biases": (lambda _: {"clf_bias": np.ones(2)}, r"one number, got shape \(2,\)"),
    "no bias": (lambda _: {"clf_bias": None}, "should hold .*; it has: pca_components, pca_mean, clf_weights"),
    "scaled as well": (lambda _: {"scale": np.ones(SIZE)}, "once each; it has: .*scale"),
    "whole numbers": (lambda _: {"clf_bias": np.array([1])}, "floating-point numbers, got int64"),
    "complex": (lambda _: {"pca_mean": np.ones(SIZE, complex)}, "got complex128"),
    "records": (lambda _: {"pca_mean": np.zeros(SIZE, [("a", float)])}, "floating-point numbers"),
    "text": (lambda _: {"clf_bias": np.array(["1"])}, "floating-point numbers"),
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_any_other_classifier_is_one_line_and_nothing_is_run(kind, tmp_path):
    make, message = CLASSIFIERS[kind]
    np.savez(tmp_path / "c.npz", **arrays(**make(tmp_path)))
    with pytest.raises(PackError, match=message) as error:
        read_classifier(tmp_path / "c.npz")
    assert "\n" not in str(error.value)
    assert "c.npz" in str(error.value)
    assert not (tmp_path / "went-off").exists()


@pytest.mark.parametrize("read", [read_soft_prompt, read_classifier])
def test_what_is_no_such_file_is_one_line(read, tmp_path):
    torch.save(VECTORS, tmp_path / "whole")
    halved = (tmp_path / "whole").read_bytes()[:-200]
    for content in (b"", b"garbage", b"\x80\x02garbage", b"PK\x03\x04", halved):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(PackError, match=r"is no (soft prompt|classifier): it is") as error:
            read(tmp_path / "file")
        assert "\n" not in str(error.value)
    for missing in (tmp_path, tmp_path / "none"):
        with pytest.raises(PackError, match="no file at"):
            read(missing)


def test_what_unpacks_to_gigabytes_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("safety_reminder.guard.official._MOST_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "c.npz", **arrays(pca_mean=np.zeros(1 << 19)))
    assert (tmp_path / "c.npz").stat().st_size < 1 << 16
    with pytest.raises(PackError, match="holds 4 MiB"):
        read_classifier(tmp_path / "c.npz")
    with pytest.raises(PackError, match="holds 2 MiB"):
        read_soft_prompt(saved(tmp_path, torch.zeros(1 << 19)))


def test_an_array_that_is_there_twice_is_refused(tmp_path):
    import zipfile

    np.savez(tmp_path / "c.npz", **arrays())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "c.npz", "a") as archive:
        archive.writestr("pca_mean.npy", archive.read("pca_mean.npy"))
    with pytest.raises(PackError, match=f"should hold {', '.join(ARRAYS)}, once each"):
        read_classifier(tmp_path / "c.npz")
