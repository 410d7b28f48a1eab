"""``safety-reminder import-official``: the files of the paper's code as a pack that guards."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from safety_reminder.guard import SafetyReminder, load

SIZE = 32  # of the tiny models


@pytest.fixture
def files(place) -> list[str]:
    rng = np.random.default_rng(0)
    torch.save({"embedding.weight": torch.from_numpy(rng.normal(size=(4, SIZE))).float()}, place / "prompt.pth")
    np.savez(
        place / "classifier.npz",
        pca_components=rng.normal(size=(4, SIZE)),
        pca_mean=rng.normal(size=SIZE),
        clf_weights=rng.normal(size=(1, 4)),
        clf_bias=rng.normal(size=1),
    )
    return ["prompt_embedding=prompt.pth", "classifier=classifier.npz", "device=cpu", "output=run"]


def test_the_pack_is_the_paper_s_and_fits_its_model(call, files, place, models):
    outcome = call("import-official", f"model={models}/llama", *files)
    assert outcome.code == 0, outcome.err
    reminder = SafetyReminder.from_pretrained(place / "run/pack")
    assert (reminder.interval, reminder.threshold, reminder.policy, reminder.length) == (16, 0.8, "continue", 4)
    assert not reminder.prompt_check
    assert len(reminder.training["imported"]["classifier"]["sha256"]) == 64
    card = (place / "run/pack/README.md").read_text()
    assert "safety-reminder probe" in card
    assert "without image, answer or reminder" in card
    summary = json.loads((place / "run/summary.json").read_text())
    assert summary["config"]["model"] == f"{models}/llama"
    guarded = load(f"{models}/llama", str(place / "run/pack"), device="cpu")
    response = guarded.generate([{"role": "user", "content": "Hello"}], max_new_tokens=20, do_sample=False)
    assert response.checks
    with pytest.raises(Exception, match="is not that model"):
        load(f"{models}/llava", str(place / "run/pack"), device="cpu")


def test_without_a_model_it_is_said_that_nothing_can_be_checked(call, files, place):
    outcome = call("import-official", "model=none", "positive=unsafe", "threshold=0.5", "policy=rewind", *files)
    assert outcome.code == 0
    assert "warning: model=none: whether a model is the one of this reminder cannot be checked" in outcome.err
    reminder = SafetyReminder.from_pretrained(place / "run/pack")
    assert (reminder.base_model, reminder.fingerprint, reminder.threshold) == ("", {}, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "model is not given; add model=..."),
        (["model=none", "positive=benign"], "unknown positive 'benign'"),
        (["model=none", "policy=monitor"], "unknown policy 'monitor'"),
        (["model=none", "classifier=prompt.pth"], "prompt.pth should hold pca_components"),
        (["model=none", "prompt_embedding=classifier.npz"], "classifier.npz is no soft prompt"),
        (["model=none", "prompt_embedding=none.pth"], "no file at none.pth"),
        (["model=llava_7c"], "did you mean 'llava_7b'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_pack(call, files, place, arguments, message):
    given = {argument.partition("=")[0] for argument in arguments}
    line = [*arguments, *(file for file in files if file.partition("=")[0] not in given)]
    assert message in call("import-official", *line).error
    assert not (place / "run/pack").exists()


def test_a_soft_prompt_of_another_model_is_refused(call, files, place, models):
    torch.save(torch.ones(4, 16), place / "prompt.pth")
    assert "the probe reads hidden states of size 32" in call("import-official", "model=none", *files).error
    torch.save(torch.ones(4, 16), place / "prompt.pth")
    with np.load(place / "classifier.npz") as found:
        arrays = {name: found[name] for name in found.files}
    narrow = {"pca_components": arrays["pca_components"][:, :16], "pca_mean": arrays["pca_mean"][:16]}
    np.savez(place / "classifier.npz", **{**arrays, **narrow})
    outcome = call("import-official", f"model={models}/llama", *files)
    assert "vectors of size 16, but" in outcome.error
    assert "hidden size 32; give the model that it was trained for" in outcome.error
