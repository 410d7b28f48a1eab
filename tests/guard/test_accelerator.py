"""What holds on the CPU holds on an accelerator; ``make test-gpu`` runs these."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from helpers import OPTIONS, Recorder, outcomes, plain, random_probe, reminder_of_tokens, run_events, silent_probe
from safety_reminder.guard import guarded_decoding
from safety_reminder.models.prefix import Prefix
from safety_reminder.models.scoring import Place, follow
from safety_reminder.models.tiny import tiny_inputs, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator"),
]
MANY_EOS = list(range(1, 12))


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def device() -> torch.device:
    found = torch.accelerator.current_accelerator()
    assert found is not None
    return found


@pytest.fixture
def there(family, device):
    return tiny_model(family).to(device)


def moved(inputs, device):
    return {name: value.to(device) for name, value in inputs.items()}


@pytest.mark.parametrize("mode", ["exact", "fused"])
def test_a_guard_that_never_fires_leaves_answers_as_they_are(model, there, device, mode):
    inputs = moved(tiny_inputs(model, (9, 14, 5)), device)
    method = guarded_decoding(reminder_of_tokens(model, silent_probe(model)), interval=4, mode=mode)
    expected = plain(there, inputs, eos_token_id=MANY_EOS)
    ids = there.generate(**inputs, custom_generate=method, **OPTIONS, eos_token_id=MANY_EOS)
    assert ids[:, inputs["input_ids"].shape[1] :].tolist() == expected.tolist()


def test_in_exact_mode_the_logits_of_an_untriggered_answer_are_bit_identical(model, there, device):
    inputs = moved(tiny_inputs(model, (9, 14)), device)
    unguarded, guarded = Recorder(), Recorder()
    plain(there, inputs, logits_processor=[unguarded], eos_token_id=None)
    reminder = reminder_of_tokens(model, silent_probe(model))
    run_events(there, inputs, reminder, mode="exact", logits_processor=[guarded], eos_token_id=None)
    assert len(unguarded.logits) == len(guarded.logits) == 23
    assert all(torch.equal(a, b) for a, b in zip(unguarded.logits, guarded.logits, strict=True))


@pytest.mark.parametrize("policy", ["continue", "rewind", "restart", "stop"])
def test_checks_and_interventions_are_those_of_the_cpu(model, there, device, policy):
    inputs = tiny_inputs(model, (9, 16, 6))
    reminder = reminder_of_tokens(model, random_probe(model, scale=0.4))
    options = {"policy": policy, "interval": 4, "threshold": 0.6, "max_interventions": 2, "eos_token_id": MANY_EOS}
    here = outcomes(run_events(model, inputs, reminder, **options))
    far = outcomes(run_events(there, moved(inputs, device), reminder, **options))
    assert here.keys() == far.keys()
    for row in here:
        assert far[row].tokens == here[row].tokens
        assert far[row].reasons == here[row].reasons
        assert [c.token_index for c in far[row].checks] == [c.token_index for c in here[row].checks]
        assert [c.p_unsafe for c in far[row].checks] == pytest.approx([c.p_unsafe for c in here[row].checks], abs=1e-3)


def test_the_gradient_over_a_reused_prefix_is_that_of_the_cpu(model, there, device):
    inputs = tiny_inputs(model, (9,))
    answer, target = plain(model, inputs, eos_token_id=None)[0].tolist(), [5, 6, 7]
    start = reminder_of_tokens(model).vectors
    gradients = []
    for place, given in ((model, inputs), (there, moved(inputs, device))):
        place.requires_grad_(False)
        vectors = torch.nn.Parameter(start.clone().to(place.device))
        prefix = Prefix.read(place, given, answer)
        found = follow(place, [Place(prefix, cut, [None, target]) for cut in (0, 7, 20)], vectors)
        wanted = torch.tensor(target, device=place.device)
        torch.stack([F.cross_entropy(each.logits[0], wanted) for each in found]).sum().backward()
        assert vectors.grad is not None
        gradients.append(vectors.grad.cpu())
        place.requires_grad_(True)
    assert torch.linalg.norm(gradients[0] - gradients[1]) < 1e-3 * torch.linalg.norm(gradients[0])


def test_a_prefix_kept_in_host_memory_is_continued_on_the_model_s_device(model, there, device):
    prefix = Prefix.read(there, moved(tiny_inputs(model, (9,)), device), [5, 6, 7, 8])
    vectors = reminder_of_tokens(model).vectors.to(device)
    found = []
    with torch.no_grad():
        for one in (prefix, prefix.to("cpu", pinned=True)):
            places = [Place(one, kept, [None, [9, 4]]) for kept in (1, 4)]
            found.append([state.logits[0] for state in follow(there, places, vectors)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
