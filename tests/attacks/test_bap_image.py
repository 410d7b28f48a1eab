"""BAP's image: affirmed more, refused less, and nothing of the requests that are attacked is learned from."""

from __future__ import annotations

import pytest
import torch

from attacks.families import quiet_arena, requests, tiny_vlm
from safety_reminder.attacks import bap_image
from safety_reminder.attacks.bap_image import CorpusObjective
from safety_reminder.attacks.options import BAPImageConfig
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.models.pixels import Pixels


def options(**changes) -> BAPImageConfig:
    return BAPImageConfig(steps=6, batch_size=2, epsilon=None, validate_every=0).with_changes(**changes)


def objective(config: BAPImageConfig) -> CorpusObjective:
    vlm = tiny_vlm("llava")
    return CorpusObjective(vlm, Pixels(vlm), config)


def test_each_opening_is_affirmed_and_refused_in_front_of_the_same_request():
    loss = objective(options())
    assert loss.count > 60
    ids = loss.prompts.ids
    assert all(ids[2 * n] == ids[2 * n + 1] for n in range(loss.count))
    assert len({tuple(i) for i in ids}) > 30


def test_without_requests_the_image_stands_alone():
    assert len({tuple(ids) for ids in objective(options(requests="none")).prompts.ids}) == 1


def test_a_refusal_beyond_the_bound_counts_no_more():
    image = torch.full((3, 8, 8), 0.5)
    with torch.no_grad():
        near = objective(options(bound=1000.0))(image, [0, 1], 0)
        far = objective(options(bound=0.01))(image, [0, 1], 0)
        none = objective(options(weight=0.0))(image, [0, 1], 0)
    assert float(far["loss"]) == pytest.approx(float(far["target"]))
    assert float(none["loss"]) == pytest.approx(float(none["target"]))
    assert float(near["loss"]) == pytest.approx(float(near["target"] + 0.5 * (1000 - near["refusals"])), rel=1e-4)


def test_the_image_is_that_of_no_request_in_particular(tmp_path):
    def run(folder, test):
        folder.mkdir()
        outcome = bap_image.run(quiet_arena(test, folder), options())
        assert [e.id for e in outcome.splits.test] == [e.id for e in test]
        return (folder / "image.png").read_bytes()

    rows = requests(4)
    assert run(tmp_path / "a", rows[:2]) == run(tmp_path / "b", rows[2:])


def test_the_loss_falls(tmp_path):
    outcome = bap_image.run(quiet_arena(requests(1), tmp_path), options(steps=40, batch_size=8))
    rows = (tmp_path / "losses.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss")
    losses = [float(row.split(",")[column]) for row in rows[1:]]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert outcome.figures["steps"] == 40


def test_a_corpus_that_is_not_there_and_a_request_that_is_missing(tmp_path):
    with pytest.raises(ConfigError, match="unknown corpus"):
        objective(options(affirmative="afirmative"))
    with pytest.raises(DataError, match=r"no file at nowhere\.txt"):
        objective(options(refusals="nowhere.txt"))
    with pytest.raises(DataError, match="there are no requests for test"):
        bap_image.run(quiet_arena([], tmp_path), options())
