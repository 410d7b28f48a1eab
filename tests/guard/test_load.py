"""A model and a pack, loaded together."""

from __future__ import annotations

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
    with pytest.raises(ModelError, match="no model at"):
        safety_reminder.load(str(tmp_path / "gone"), pack)
