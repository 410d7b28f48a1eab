"""DRO's training: the plane, the objective, and a soft prompt that moves a tiny model as it should."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch

from checkpoints import tiny_vlm
from safety_reminder.data.training_sets.loading import read_training_file
from safety_reminder.defenses.dro import SoftPrompt
from safety_reminder.errors import ConfigError, DataError
from safety_reminder.guard import GuardedVLM
from safety_reminder.training.dro import ANCHORS, DROConfig, Plane, draw_queries, objective, train_soft_prompt

SMALL = DROConfig(
    prompt="Be good.", epochs=6, learning_rate=0.02, batch_size=8, micro_batch_size=4, max_new_tokens=2, components=2
)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    path = tmp_path_factory.mktemp("dro") / "rows.jsonl"
    rows = [{"prompt": f"Red {i}?", "safe": False, "rejected": "k", "chosen": "N"} for i in range(6)]
    rows += [{"prompt": f"Blue {i}?", "safe": True, "chosen": "k"} for i in range(6)]
    rows += [{"prompt": "Red again?", "safe": True, "harmful_prompt": True, "chosen": "N"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_training_file(path)


class Refusing(GuardedVLM):
    """Its answers are its requests, so that what it refuses can be scripted."""

    def generate_batch(self, batch, **options):
        found = super().generate_batch(batch, **options)
        return [type(r)(**{**asdict(r), "text": m[-1]["content"]}) for r, m in zip(found, batch, strict=True)]


def train(examples, folder, config=SMALL):
    guarded = Refusing(tiny_vlm())
    return train_soft_prompt(guarded, examples, config, folder, refuses=lambda text: text.startswith("Red"))


def test_the_plane_separates_what_was_refused_from_what_is_harmful():
    generator = torch.Generator().manual_seed(0)
    refused = [i % 2 == 0 for i in range(80)]
    harmful = [i % 4 < 2 for i in range(80)]
    states = 0.1 * torch.randn(80, 8, generator=generator)
    states[:, 3] += torch.tensor(refused) * 2.0
    states[:, 5] += torch.tensor(harmful) * 3.0
    plane = Plane.fit(states, refused, harmful, 2)
    assert torch.allclose(plane.components @ plane.components.T, torch.eye(2), atol=1e-5)
    for weights, axis in ((plane.refusal, 3), (plane.harmfulness, 5)):
        direction = weights @ plane.components
        assert direction.argmax() == axis
        assert direction[axis] > 0.9 * direction.norm()


def test_few_refusals_are_warned_of_and_the_fit_is_judged(caplog):
    states = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    states[:3, 2] += 9.0
    plane = Plane.fit(states, [i < 3 for i in range(30)], [i % 2 == 0 for i in range(30)], 3)
    assert "only 3 of 30 requests were refused" in caplog.text
    assert plane.auc["refusal"] == 1.0
    assert 0.0 <= plane.auc["harmfulness"] < 1.0
    again = Plane.fit(states, [i < 3 for i in range(30)], [i % 2 == 0 for i in range(30)], 3)
    assert torch.equal(plane.components, again.components)


def test_a_step_s_size_does_not_depend_on_how_many_rows_run_at_once(examples, tmp_path):
    few, many = (
        train(examples, tmp_path / str(rows), SMALL.with_changes(micro_batch_size=rows)).vectors for rows in (2, 13)
    )
    assert torch.allclose(few, many, atol=1e-4)


@pytest.mark.parametrize(("refused", "message"), [([True] * 4, "refuses all"), ([False] * 4, "refuses none")])
def test_a_model_that_refuses_all_or_none_cannot_be_learned_from(refused, message):
    with pytest.raises(ConfigError, match=message):
        Plane.fit(torch.randn(4, 8), refused, [True, False, True, False], 2)


def test_the_objective_by_hand():
    plane = Plane(torch.eye(3)[:2], torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0]))
    change = torch.tensor([[1.0, 3.0, 6.0], [1.0, 0.0, 0.0]])
    config = DROConfig(harmfulness_weight=0.5, residual_weight=0.25)
    found = objective(plane, change, torch.tensor([1.0, 0.0]), config)
    # Outside the plane lies one of the three dimensions.
    soft = lambda x: float(torch.nn.functional.softplus(torch.tensor(x)))  # noqa: E731
    # -log sigmoid(2) and -log sigmoid(3); outside the plane 6². Harmless: -log(1 - sigmoid(2)) and -log(1/2).
    assert found.tolist() == pytest.approx([soft(-2.0) + 0.5 * soft(-3.0) + 0.25 * 36.0, soft(2.0) + 0.5 * soft(0.0)])


def test_queries_are_different_of_both_kinds_and_as_many_as_asked(examples):
    found = draw_queries([*examples, *examples], DROConfig(queries=5))
    texts = [query.messages[0]["content"] for query in found]
    assert len(set(texts)) == len(texts) == 10
    assert all(text.startswith("Red") is query.harmful for text, query in zip(texts, found, strict=True))
    everything = draw_queries(examples, DROConfig(queries=50))
    assert sum(query.harmful for query in everything) == 7  # a refused request is a harmful one
    both = [examples[0], replace(examples[0], safe=True), examples[-2]]
    for order in (both, both[::-1]):
        assert [query.harmful for query in draw_queries(order, DROConfig())].count(True) == 1
        assert len(draw_queries(order, DROConfig())) == 2
    with pytest.raises(DataError, match="no harmless requests"):
        draw_queries(examples[:3], DROConfig())


def test_training_moves_harmful_requests_towards_refusal_and_harmless_ones_away(examples, tmp_path):
    prompt = train(examples, tmp_path)
    assert prompt.training["refused"][""] == {"harmful": 1.0, "harmless": 0.0}
    assert set(prompt.training["refused"]) == {"", "Be good.", *ANCHORS}
    assert prompt.training["fit_auc"].keys() == {"refusal", "harmfulness"}
    assert json.loads((tmp_path / "summary.json").read_text())["training"] == prompt.training
    change = prompt.training["refusal_logit_change"]
    assert change["harmful"] > 0 > change["harmless"]
    losses = [float(row.split(",")[1]) for row in (tmp_path / "losses.csv").read_text().splitlines()[1:]]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    saved = SoftPrompt.from_pretrained(tmp_path / "prompt")
    assert torch.equal(saved.vectors, prompt.vectors)
    assert all(p.requires_grad for p in tiny_vlm().model.parameters())


def test_the_same_seed_gives_the_same_soft_prompt(examples, tmp_path):
    assert torch.equal(train(examples, tmp_path / "a").vectors, train(examples, tmp_path / "b").vectors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"learning_rate": 0}, "training.learning_rate must be above 0, got 0"),
        ({"prompt": " "}, "training.prompt is empty"),
        ({"epochs": "x"}, "training.epochs must be a whole number, got 'x'"),
        ({"micro_batch_size": 0}, "training.micro_batch_size must be at least 1"),
    ],
)
def test_bad_options_say_what_is_wrong(options, message):
    with pytest.raises(ConfigError, match=message):
        DROConfig.parse(options, "training")
