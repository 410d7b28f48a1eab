"""What is given in the place of a pack or of a model is recognised, and the error says what to give."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoints import random_reminder
from safety_reminder.config.names import model_place
from safety_reminder.errors import ModelError, PackError
from safety_reminder.guard import SafetyReminder


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


PACK = ("reminder.safetensors", "config.json")


@pytest.mark.parametrize(
    ("names", "given", "says"),
    [
        (("splits.json", *(f"pack/{name}" for name in PACK)), "", "it is the folder of a run: give its pack, {}/pack"),
        (
            ("records.jsonl", *(f"pack/{name}" for name in PACK)),
            "",
            "it is the folder of a run: give its pack, {}/pack",
        ),
        ([f"{run}/pack/{name}" for run in "ab" for name in PACK], "", "one of their packs, such as {}/a/pack"),
        (("checkpoint.pt", "losses.csv"), "", "did not finish: give the same command again"),
        (("checkpoint.pt", "pack/.saving-1/config.json"), "", "did not finish: give the same command again"),
        (("prompt/prompt.safetensors", "prompt/config.json"), "", "for defense=dro, prompt={}/prompt"),
        (("prompt.safetensors", "config.json"), "", "for defense=dro, prompt={}"),
        (("records.jsonl", "config.json", "report.html"), "", "it holds answers of a run"),
        (("results.json",), "", "it holds answers of a run"),
        (("config.json", "model.safetensors"), "", "it is a model's: give it as the model"),
        (("pytorch_model.bin",), "", "it is a model's: give it as the model"),
        (("notes.txt",), "", "it has no reminder.safetensors"),
        (PACK, "config.json", "is a file, not a reminder pack; give its folder, {}"),
        (PACK, "reminder.safetensors", "is a file, not a reminder pack; give its folder, {}"),
        (("pack.zip",), "pack.zip", "is a file, not a reminder pack; unpack it"),
        (("pack.tar.gz",), "pack.tar.gz", "is a file, not a reminder pack; unpack it"),
        (("checkpoint.pt", *(f"pack/{name}" for name in PACK)), "checkpoint.pt", "give the pack of that run, {}/pack"),
    ],
)
def test_what_is_given_in_the_place_of_a_pack_is_recognised(tmp_path, names, given, says):
    folder = files(tmp_path / "x", *names)
    with pytest.raises(PackError) as caught:
        SafetyReminder.from_pretrained(folder / given)
    assert says.format(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pack_in_the_place_of_a_model_is_recognised(tmp_path):
    folder = random_reminder().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a reminder pack, not a model: give it as the reminder"):
        model_place(str(folder))
