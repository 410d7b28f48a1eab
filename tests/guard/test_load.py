"""A model and a pack, loaded together."""

from __future__ import annotations

from pathlib import Path

import pytest

import safety_reminder
from checkpoints import random_reminder, tiny_vlm
from guard.test_guarded import LENGTH, assert_same, conversation
from safety_reminder.errors import ConfigError, ModelError
from safety_reminder.guard import GuardedVLM


def test_loading_takes_a_folder_and_options(tmp_path):
    from safety_reminder.models.tiny import tiny_checkpoint

    folder = str(tiny_checkpoint("llava", tmp_path / "model"))
    pack = str(random_reminder().save_pretrained(tmp_path / "pack"))
    guarded = safety_reminder.load(folder, pack, device="cpu", policy="stop", interval=3)
    assert guarded.guard is not None
    assert (guarded.guard.config.policy, guarded.guard.config.interval) == ("stop", 3)
    assert_same(
        guarded.generate(conversation(1), **LENGTH),
        GuardedVLM(tiny_vlm(), random_reminder(), policy="stop", interval=3).generate(conversation(1), **LENGTH),
    )
    with pytest.raises(ConfigError, match="no reminder"):
        safety_reminder.load(folder, None, device="cpu", policy="stop")
    assert safety_reminder.load(folder, Path(pack), device="cpu").reminder is not None
    with pytest.raises(ModelError, match="no model at"):
        safety_reminder.load(str(tmp_path / "gone"), pack)


@pytest.mark.parametrize(
    ("vlm", "reminder", "says"),
    [
        (None, "pocket", "takes a SafetyReminder, not 'pocket'; SafetyReminder.from_pretrained"),
        (None, Path("runs/x/pack"), "takes a SafetyReminder, not 'runs/x/pack'"),
        (None, {"vectors": 1}, "takes a SafetyReminder, not a dict"),
        (None, random_reminder().vectors, "takes a SafetyReminder, not a Tensor"),
        ("pocket", None, "takes a VLM, as load_vlm.* gives it, not 'pocket'; safety_reminder.load"),
        (Path("models/mine"), random_reminder(), "takes a VLM, .* not 'models/mine'"),
        ("model", "pocket", "takes a VLM"),
        (tiny_vlm("llama").model, random_reminder(), "takes a VLM, .* not a LlamaForCausalLM"),
    ],
)
def test_what_is_not_loaded_yet_is_named_with_what_loads_it(vlm, reminder, says):
    vlm = tiny_vlm() if vlm is None else vlm
    with pytest.raises(ConfigError, match=says) as caught:
        GuardedVLM(vlm, reminder)
    assert "\n" not in str(caught.value)
