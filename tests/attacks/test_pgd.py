"""PGD on tiny models of every family that sees, through their real processors."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from attacks.families import quiet_arena, requests, tiny_vlm
from checkpoints import random_reminder
from safety_reminder.attacks.adaptive import GuardedObjective
from safety_reminder.attacks.base import Arena
from safety_reminder.attacks.descent import CHECKPOINT, descent_step, items_of
from safety_reminder.attacks.goals import Goal
from safety_reminder.attacks.losses import target_loss
from safety_reminder.attacks.options import AdaptiveConfig, PGDConfig
from safety_reminder.attacks.pgd import TargetObjective, clean_image, pgd, reload, run, save_image
from safety_reminder.attacks.prompts import Prompts, no_vectors
from safety_reminder.config import GuardConfig
from safety_reminder.defenses.dro import DRO, SoftPrompt, system_tokens
from safety_reminder.errors import ConfigError, ModelError
from safety_reminder.guard import GuardedVLM
from safety_reminder.guard.decoding import Guard
from safety_reminder.models.branches import Shared
from safety_reminder.models.pixels import Pixels, to_pil
from safety_reminder.models.scoring import score
from safety_reminder.models.soft_prompt import replaced_embeddings
from safety_reminder.models.tiny_vlms import TINY_VLMS

GOALS = [Goal(example, target) for example, target in zip(requests(3), ["Ask 0: 1.", "Sure", "xyz xyz"], strict=True)]
FAST = PGDConfig().with_changes(steps=8, validate_every=0, batch_size=2, epsilon=0.3)


def objective(vlm, first_weight=1.0) -> TargetObjective:
    return TargetObjective(vlm, Pixels(vlm), GOALS, first_weight)


@pytest.mark.parametrize("family", TINY_VLMS)
def test_the_gradient_is_that_of_finite_differences(family):
    vlm = tiny_vlm(family, torch.float64)
    loss = objective(vlm)
    pixels = loss.pixels
    exact = pixels.exact
    if exact:
        loss.pixels = lambda image: pixels(image, rounded=False)  # type: ignore[assignment]
    noise = torch.randn(3, *pixels.size, generator=torch.Generator().manual_seed(0))
    image = (128 / 255 + 0.1 * noise).clamp(0.2, 0.8)
    image = (image * 255).round().div(255).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(image, [0, 1, 2], 0)["loss"], [image])
    assert gradient.abs().max() > 1e-6, "the model does not see its image"
    step = 3e-4 if exact else 1 / 255  # where values are rounded, steps of whole grey levels
    with torch.no_grad():
        ahead, back = (float(loss(image + s * step * gradient.sign(), [0, 1, 2], 0)["loss"]) for s in (1, -1))
    expected = float(gradient.abs().sum())
    assert (ahead - back) / (2 * step) == pytest.approx(expected, rel=0.05 if exact else 0.3)


@pytest.mark.parametrize("family", TINY_VLMS)
def test_the_loss_falls_and_is_that_of_the_saved_file(family, tmp_path):
    vlm = tiny_vlm(family)
    descent, clean = pgd(vlm, GOALS, FAST, folder=tmp_path)
    save_image(descent.image, tmp_path / "image.png")
    save_image(clean, tmp_path / "clean.png")
    attacked, before = (reload(vlm, GOALS, tmp_path / name, first_weight=1.0) for name in ("image.png", "clean.png"))
    assert attacked.reloaded < before.reloaded - 0.01
    assert attacked.reloaded == pytest.approx(attacked.optimised, abs=2e-3)
    assert (descent.image - clean).abs().max() <= 0.3


def test_prompts_with_the_image_in_front_share_it_and_others_come_to_the_same():
    vlm = tiny_vlm("llava")
    pixels = Pixels(vlm)
    examples = [replace(requests()[0], system="A system."), requests()[1], requests()[3]]
    together = Prompts(vlm, examples, pixels.size)
    assert not together.shared
    assert Prompts(vlm, examples[1:], pixels.size).shared
    loss = TargetObjective(vlm, pixels, [Goal(e, "Sure") for e in examples], 0.0)
    image = torch.rand(3, *pixels.size)
    with torch.no_grad():
        all_of_them = float(loss(image, [0, 1, 2], 0)["loss"])
        singles = [float(TargetObjective(vlm, pixels, [Goal(e, "Sure")], 0.0)(image, [0], 0)["loss"]) for e in examples]
    assert all_of_them == pytest.approx(sum(singles) / 3, abs=1e-5)


@pytest.mark.parametrize("family", TINY_VLMS)
@pytest.mark.parametrize("prompt_check", [True, False])
def test_the_guards_objective_reads_what_decoding_reads(family, prompt_check):
    vlm = tiny_vlm(family)
    pixels = Pixels(vlm)
    reminder = random_reminder()
    config = GuardConfig(interval=4, threshold=0.5, policy="monitor", prompt_check=prompt_check)
    guarded = GuardedVLM(vlm, reminder, config, check_base=False)
    image = torch.rand(3, *pixels.size, generator=torch.Generator().manual_seed(3))
    examples = [replace(e, image=to_pil(image)) for e in requests(2)]
    responses = [guarded.generate(e.messages(), max_new_tokens=11, do_sample=False) for e in examples]
    goals = [Goal(e, "?") for e in examples]
    adaptive = AdaptiveConfig().with_changes(against="probe", tokens=11, margin=30.0)
    attack = GuardedObjective(vlm, pixels, goals, Guard(reminder, config), adaptive, first_weight=0.0)
    for number, response in enumerate(responses):
        # What was generated stands in for target and continuation.
        ids = list(response.token_ids)
        while ids and ids[-1] in vlm.eos_ids:
            ids.pop()
        attack.targets[number], attack._written[number] = ids, (0, [])
    following = {n: attack.term.continuing(attack.targets[n], []) for n in range(2)}
    with torch.no_grad():
        scored = attack.prompts.score(attack.prompts.read(pixels(image), following), following, reminder.vectors)
    assert sum(len(response.checks) for response in responses) >= 5
    for number, response in enumerate(responses):
        read = reminder.probe(torch.cat([h[-1:] for h in scored[number].hidden]))
        assert read.tolist() == pytest.approx([check.p_unsafe for check in response.checks], abs=1e-4)


def test_an_attack_on_the_guard_lowers_what_the_probe_reads(tmp_path):
    vlm = tiny_vlm("llava")
    guard = Guard(random_reminder(), GuardConfig(interval=4, threshold=0.5, prompt_check=True))
    config = FAST.with_changes(
        steps=40, epsilon=None, adaptive=AdaptiveConfig().with_changes(against="both", tokens=9, weight=3.0, renew=5)
    )
    descent, _ = pgd(vlm, GOALS, config, guard=guard)
    early, late = (sum(row["checks"] for row in rows) for rows in (descent.losses[:6], descent.losses[-6:]))
    assert late < early
    assert sum(row["after"] for row in descent.losses[-6:]) < sum(row["after"] for row in descent.losses[:6])


def test_weights_keep_no_gradient_and_no_hook():
    vlm = tiny_vlm("llava")
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in vlm.model.modules())
    pgd(vlm, GOALS, FAST.with_changes(steps=2))
    assert all(p.grad is None for p in vlm.model.parameters())
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in vlm.model.modules()) == hooks


@pytest.mark.parametrize("against", ["nothing", "both"])
def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path, monkeypatch, against):
    vlm = tiny_vlm("llava")
    guard = Guard(random_reminder(), GuardConfig(interval=4, prompt_check=True))
    config = FAST.with_changes(
        save_every=3, restarts=2, validate_every=4, adaptive={"against": against, "tokens": 9, "renew": 4}
    )

    def validate(image):
        return float(image.mean())  # any function

    whole, _ = pgd(vlm, GOALS, config, guard=guard, folder=tmp_path / "whole", validate=validate)
    calls = 0
    original = Shared.read.__func__

    def dies(cls, model, inputs):
        nonlocal calls
        calls += 1
        if calls == 15:
            raise KeyboardInterrupt
        return original(cls, model, inputs)

    monkeypatch.setattr(Shared, "read", classmethod(dies))
    with pytest.raises(KeyboardInterrupt):
        pgd(vlm, GOALS, config, guard=guard, folder=tmp_path / "killed", validate=validate)
    monkeypatch.undo()
    again, _ = pgd(vlm, GOALS, config, guard=guard, folder=tmp_path / "killed", validate=validate)
    assert torch.equal(whole.image, again.image)
    assert whole.losses == again.losses
    assert whole.validations == again.validations


def test_a_checkpoint_of_another_attack_is_refused(tmp_path):
    vlm = tiny_vlm("llava")
    pgd(vlm, GOALS, FAST, folder=tmp_path)
    with pytest.raises(ConfigError, match=r"another configuration \(config\)"):
        pgd(vlm, GOALS, FAST.with_changes(steps=9), folder=tmp_path)
    with pytest.raises(ConfigError, match=r"another configuration \(objective\)"):
        pgd(vlm, GOALS[:2], FAST, folder=tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="cannot be read"):
        pgd(vlm, GOALS, FAST, folder=tmp_path)


def test_a_step_stays_near_the_clean_image_and_within_range():
    generator = torch.Generator().manual_seed(0)
    clean, gradient = torch.rand(3, 4, 4, generator=generator), torch.randn(3, 4, 4, generator=generator)
    image, velocity = clean, torch.zeros_like(clean)
    for _ in range(50):
        image, velocity = descent_step(image, gradient, velocity, clean, size=0.05, epsilon=0.1, momentum=0.9)
    assert torch.allclose(image, (clean - 0.1 * gradient.sign()).clamp(0, 1))
    unlimited, _ = descent_step(clean, gradient, torch.zeros_like(clean), clean, size=2.0, epsilon=None, momentum=0.0)
    assert set(unlimited.unique().tolist()) == {0.0, 1.0}


def test_momentum_outweighs_one_gradient_of_the_other_sign():
    zero = torch.full((3, 1, 1), 0.5)
    _, velocity = descent_step(zero, torch.ones(3, 1, 1), torch.zeros(3, 1, 1), zero, size=0.1, epsilon=1, momentum=0.9)
    _, velocity = descent_step(zero, torch.ones(3, 1, 1), velocity, zero, size=0.1, epsilon=1, momentum=0.9)
    image, _ = descent_step(zero, -torch.ones(3, 1, 1), velocity, zero, size=0.1, epsilon=1, momentum=0.9)
    assert (image < zero).all()


def test_every_epoch_has_every_item_once():
    seen = [n for step in range(6) for n in items_of(8, 4, 0, 0, step)]
    assert [sorted(seen[i : i + 8]) for i in (0, 8, 16)] == [list(range(8))] * 3
    assert seen[:8] != seen[8:16]
    assert items_of(2, 4, 0, 0, 5) in ([0, 1], [1, 0])
    assert items_of(8, 4, 0, 0, 1) != items_of(8, 4, 1, 0, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epsilon": "32"}, "attack.epsilon"),
        ({"epsilon": 32.0}, "attack.epsilon must be at most 1"),
        ({"epsilon": "300/255"}, "attack.epsilon must be at most 1"),
        ({"epsilon": 0.0}, "attack.epsilon must be above 0"),
        ({"epsilon": "0.9/255"}, "less than a grey level"),
        ({"epsilon": "a/b"}, "attack.epsilon must be a number"),
        ({"steps": 0}, "attack.steps must be at least 1"),
        ({"size": [8]}, "attack.size must be"),
        ({"shedule": "cosine"}, "did you mean 'schedule'"),
    ],
)
def test_a_wrong_option_is_one_line(values, message):
    with pytest.raises(ConfigError, match=message):
        PGDConfig.parse(values, "attack")


def test_fractions_are_read_as_they_are_written():
    assert PGDConfig.parse({"epsilon": "8/255"}).epsilon == 8 / 255
    assert PGDConfig.parse({"epsilon": None}).epsilon is None


@pytest.mark.parametrize("target", ["", "long " * 7000])
def test_a_target_without_room_is_refused(target):
    with pytest.raises(ConfigError, match=r"has no tokens|shorten the target"):
        pgd(tiny_vlm("llava"), [Goal(requests()[0], target)], FAST)


def test_no_goals_are_refused():
    with pytest.raises(ConfigError, match="no requests to attack"):
        pgd(tiny_vlm("llava"), [], FAST)


def test_a_loss_that_is_no_number_stops_the_attack(monkeypatch):
    vlm = tiny_vlm("llava")
    monkeypatch.setattr(TargetObjective, "__call__", lambda self, image, items, step: {"loss": image.sum() * torch.nan})
    with pytest.raises(ModelError, match="not finite"):
        pgd(vlm, GOALS, FAST)


def test_what_an_attack_begins_from():
    pixels = Pixels(tiny_vlm("llava"))
    assert float(clean_image("grey", pixels).unique()) == pytest.approx(128 / 255)
    assert not torch.equal(clean_image("noise", pixels, 0), clean_image("noise", pixels, 1))
    assert torch.equal(clean_image("noise", pixels, 1), clean_image("noise", pixels, 1))


def test_without_validation_the_start_with_the_lowest_losses_is_kept():
    vlm = tiny_vlm("llava")
    config = FAST.with_changes(steps=6, restarts=3, start="uniform")
    descent, _ = pgd(vlm, GOALS, config)
    means = [sum(row["loss"] for row in descent.losses if row["restart"] == n) for n in range(3)]
    alone, _ = pgd(vlm, GOALS, config.with_changes(restarts=1 + means.index(min(means))))
    assert torch.equal(descent.image, alone.image)


def test_every_start_writes_continuations_of_its_own():
    vlm = tiny_vlm("llava")
    guard = Guard(random_reminder(), GuardConfig(interval=4, prompt_check=True))
    adaptive = AdaptiveConfig().with_changes(against="probe", tokens=9, renew=4)
    config = FAST.with_changes(steps=5, restarts=2, start="uniform", batch_size=3, adaptive=adaptive)
    steps = []
    original = GuardedObjective._renew

    def noted(self, heads, items, step):
        original(self, heads, items, step)
        steps.append((step, {n: self._written[n][0] for n in items}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GuardedObjective, "_renew", noted)
        pgd(vlm, GOALS, config, guard=guard)
    assert [step for step, _ in steps] == list(range(10))
    assert all(step - written < 4 for step, of in steps for written in of.values())


def test_a_guard_that_makes_no_check_cannot_be_attacked():
    guard = Guard(random_reminder(), GuardConfig(interval=64, prompt_check=False, final_check=False))
    config = FAST.with_changes(adaptive=AdaptiveConfig().with_changes(against="probe", tokens=9))
    with pytest.raises(ConfigError, match=r"makes no check within adaptive\.tokens=9"):
        pgd(tiny_vlm("llava"), GOALS, config, guard=guard)


def test_a_model_that_does_not_see_the_image_is_named(monkeypatch):
    monkeypatch.setattr(TargetObjective, "__call__", lambda self, image, items, step: {"loss": (image * 0).sum()})
    with pytest.raises(ModelError, match="zero everywhere"):
        pgd(tiny_vlm("llava"), GOALS, FAST)


def test_a_defence_that_changes_what_is_embedded_is_attacked_through_it():
    vlm = tiny_vlm("llava")
    pixels = Pixels(vlm)
    guard = Guard(random_reminder(), GuardConfig(interval=4, prompt_check=True))
    adaptive = AdaptiveConfig().with_changes(against="probe", tokens=9)
    shared = Prompts(vlm, [goal.example for goal in GOALS], pixels.size).ids[0][:3]
    # In the place of the prompts' first tokens: their own embeddings, which change nothing, and others.
    own = vlm.model.get_input_embeddings()(torch.tensor(shared)).detach()

    def loss(around) -> float:
        attack = GuardedObjective(vlm, pixels, GOALS, guard, adaptive, first_weight=0.0, around=around)
        with torch.no_grad():
            return float(attack(torch.full((3, *pixels.size), 0.5), [0, 1, 2], 0)["loss"])

    plain = loss(nullcontext)
    assert loss(lambda: replaced_embeddings(vlm.model, shared, own)) == pytest.approx(plain, abs=1e-5)
    assert abs(loss(lambda: replaced_embeddings(vlm.model, shared, -3 * own)) - plain) > 1e-3


def test_a_soft_prompt_is_attacked_as_the_defence_places_it(tmp_path):
    vlm = tiny_vlm("llava")
    text = "Be careful."
    vectors = torch.randn(len(system_tokens(vlm, text)), vlm.hidden_size, generator=torch.Generator().manual_seed(1))
    folder = SoftPrompt(text, vectors).save_pretrained(tmp_path / "prompt")
    defense = DRO(GuardedVLM(vlm, None, check_base=False), str(folder))
    descent, _ = pgd(vlm, GOALS, FAST, defense=defense)
    plain, _ = pgd(vlm, GOALS, FAST)
    assert sum(row["loss"] for row in descent.losses[-6:]) < sum(row["loss"] for row in descent.losses[:6]) - 0.01
    assert not torch.equal(descent.image, plain.image)
    # What is optimised is what a whole pass through the defence says.
    example = replace(GOALS[0].example, system=text, image=to_pil(descent.image))
    objective = TargetObjective(vlm, Pixels(vlm), [replace(GOALS[0], example=example)], 0.0, defense.embedded)
    [target] = objective.targets
    with torch.no_grad(), defense.embedded():
        [whole] = score(vlm.model, vlm.encode([example.messages()]), [[target]], no_vectors(vlm))
    with torch.no_grad():
        loss = float(objective(descent.image, [0], 0)["loss"])
    assert loss == pytest.approx(float(target_loss(whole.logits[0], target)), abs=1e-4)


def test_steps_of_warming_up_know_of_no_guard():
    vlm = tiny_vlm("llava")
    guard = Guard(random_reminder(), GuardConfig(interval=4, prompt_check=True))
    adaptive = AdaptiveConfig().with_changes(against="probe", tokens=9, warm_up=3)
    descent, _ = pgd(vlm, GOALS, FAST.with_changes(steps=5, adaptive=adaptive), guard=guard)
    plain, _ = pgd(vlm, GOALS, FAST.with_changes(steps=5))
    assert [row["loss"] for row in descent.losses[:3]] == pytest.approx([row["loss"] for row in plain.losses[:3]])
    assert ["checks" in row for row in descent.losses] == [False] * 3 + [True] * 2


def test_images_for_each_request_ask_for_the_models_form_once(tmp_path):
    arena = quiet_arena(requests(3), tmp_path)
    asked, prepared, prepare = [], [], Pixels.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Arena, "answers", lambda self, examples, **options: asked.append(examples) or ["x"] * len(examples)
        )
        patch.setattr(Pixels, "__init__", lambda *words, **options: prepared.append(prepare(*words, **options)))
        outcome = run(arena, FAST.with_changes(universal=False, steps=2))
    assert len(asked) == 1
    assert len(prepared) == 1
    assert len({e.image for e in outcome.splits.test}) == 3
