"""One loader for guarded models and judges: where it looks, and what it puts right."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from transformers import Llama4ForCausalLM, Llama4TextConfig, LlamaConfig

from safety_reminder.errors import ModelError
from safety_reminder.models import load_checkpoint, load_vlm
from safety_reminder.models.loading import repaired
from safety_reminder.models.tiny import tiny_checkpoint


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_checkpoint("llama", tmp_path / "model")
    vlm = load_vlm("~/model", device="cpu")
    assert (vlm.name, vlm.model.config.model_type) == ("~/model", "llama")
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(ModelError, match="no model at '~/model'"):
        load_vlm("~/model", device="cpu")


def test_messages_call_a_model_what_it_is(tmp_path):
    with pytest.raises(ModelError, match="unknown judge model 'gard'"):
        load_checkpoint("gard", kind="judge model")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"is not a model folder: it has no weights \(model\.safetensors\)"):
        load_checkpoint(str(tmp_path), kind="judge model")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="cannot load the judge model"):
        load_checkpoint(str(tmp_path), kind="judge model")


def test_a_damaged_pocket_says_what_to_remove(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{")
    monkeypatch.setattr("safety_reminder.models.pocket.checkpoint_folder", lambda: tmp_path)
    with pytest.raises(ModelError, match=rf"'pocket': .*; remove {tmp_path} to have it assembled anew$"):
        load_checkpoint("pocket")


def test_llama_4_runs_where_its_attention_is_not_chunked():
    """As in the configuration of Llama Guard 4, whose processor cannot be had here without torchvision."""
    text = Llama4TextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, intermediate_size_mlp=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=1, moe_layers=[],
        attention_chunk_size=None, max_position_embeddings=512, pad_token_id=0, bos_token_id=2, eos_token_id=1,
    )  # fmt: skip
    model: Any = Llama4ForCausalLM(repaired(text)).eval()
    assert model.config.attention_chunk_size == 512
    ids = torch.arange(3, 12)[None]
    assert model.generate(ids, max_new_tokens=4, do_sample=False).shape[1] > ids.shape[1]
    whole = LlamaConfig(attention_bias=True)
    assert repaired(whole) is whole
