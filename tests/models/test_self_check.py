"""The self-check: it passes where guarded decoding is right, and notices each way of getting it wrong."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence

import pytest
import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, BertConfig, BertModel, MambaConfig
from transformers.cache_utils import DynamicIndexedLayer

from checkpoints import random_reminder, tiny_vlm
from helpers import cached_tiny_model, single
from safety_reminder.errors import ModelError
from safety_reminder.guard import GuardedVLM
from safety_reminder.models import VLM, caches, checked, families, load_vlm
from safety_reminder.models import context as context_module
from safety_reminder.models.branches import Shared
from safety_reminder.models.context import Context, Runner, prepare
from safety_reminder.models.families import FAMILIES
from safety_reminder.models.prefix import Prefix
from safety_reminder.models.self_check import PROPERTIES, Finding, Trial, self_check
from safety_reminder.models.tiny import tiny_inputs, tiny_model

# Each of a kind of its own: what they do besides, no family that is held to every invariant does.
KINDS = ["paligemma2", "mllama", "lfm2_vl", "gemma4_per_layer"]
GUARDED = [name for name, family in FAMILIES.items() if not family.refused]
REST = [name for name in GUARDED if name not in KINDS and not FAMILIES[name].held_to_all]
REFUSED = [name for name, family in FAMILIES.items() if family.refused]


def trial(model, sees: bool) -> Trial:
    alone = [tiny_inputs(model, (9,), seed=0), tiny_inputs(model, (14,), seed=1)]
    return Trial(tiny_inputs(model, (9, 14)), alone, [17, 23, 44, 51, 60, 72], sees)


def failing(name: str, *properties: str) -> set[str]:
    model = cached_tiny_model(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a broken adapter may warn before it is found out
        findings = self_check(model, trial(model, FAMILIES[name].reads_images), properties or tuple(PROPERTIES))
    return {finding.name for finding in findings if not finding.holds}


@pytest.mark.parametrize("name", KINDS)
def test_a_family_with_rules_of_its_own_passes(name):
    assert failing(name) == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_every_other_family_of_the_table_passes(name):
    model = tiny_model(name)
    findings = self_check(model, trial(model, FAMILIES[name].reads_images))
    assert [finding.reason for finding in findings if not finding.holds] == []
    assert {finding.name for finding in findings} >= {*PROPERTIES} - {"image"}


def test_a_position_off_by_one_is_noticed(monkeypatch):
    monkeypatch.setattr(context_module, "next_positions", lambda last, count: last + torch.arange(2, count + 2))
    assert failing("llava", "silent", "check", "restart") == {"silent", "check", "restart"}


def test_an_image_that_is_dropped_is_noticed(monkeypatch):
    prefill = Runner.prefill

    def blind(self, input_ids, kwargs, *, roll_back):
        kept = {k: v for k, v in kwargs.items() if k not in ("pixel_values", "mm_encoder_outputs")}
        return prefill(self, input_ids, kept, roll_back=roll_back)

    monkeypatch.setattr(Runner, "prefill", blind)
    assert failing("llava", "image", "silent") == {"image", "silent"}


def test_a_crop_that_is_skipped_is_noticed(monkeypatch):
    monkeypatch.setattr(Context, "crop", lambda self, count: None)
    assert failing("llama", "silent", "roll-back") == {"silent", "roll-back"}


def test_layers_that_are_cropped_and_should_not_be_are_noticed(monkeypatch):
    monkeypatch.setattr(caches, "crop", lambda cache, count, fixed: cache.crop(-count))
    assert failing("mllama", "silent", "roll-back") == {"silent", "roll-back"}


def test_a_convolution_s_state_that_rows_share_is_noticed(monkeypatch):
    def shared(layer, index):
        states = getattr(layer, "conv_states", None)
        layer = selected(layer, index)
        if states is not None:
            states.update(layer.conv_states)
            layer.conv_states = states
        return layer

    selected = caches._selected
    monkeypatch.setattr(caches, "_selected", shared)
    assert failing("lfm2_vl", "batch") == {"batch"}


def test_a_convolution_that_is_taken_back_too_far_is_noticed(monkeypatch):
    monkeypatch.setattr(Context, "reaches", lambda self, entries: True)
    assert failing("lfm2_vl", "restart") == {"restart"}


def test_a_reminder_that_is_read_too_early_is_noticed(monkeypatch):
    append = Runner.append

    def early(self, context, tokens, vectors=None):
        if vectors is None:
            return append(self, context, tokens)
        return append(self, context, tokens, vectors.roll(1, 0))

    monkeypatch.setattr(Runner, "append", early)
    assert failing("llama", "check", "restart") == {"check", "restart"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_keeps_a_state_is_refused_by_its_configuration_alone(name):
    config = FAMILIES[name].tiny.config()
    reason = caches.obstacle(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config)
    assert reason is not None
    assert "recurrent state, which cannot be taken back" in reason
    assert families.family_of(name) is None


def test_layers_of_a_kind_that_nobody_knows_are_refused_by_the_configuration():
    config = FAMILIES["llama"].tiny.config()
    config.layer_types = ["full_attention", "linear_attention", "compressed_sparse_attention"]
    reason = caches.obstacle(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config)
    assert "layers (compressed sparse attention, linear attention)" in str(reason)


def test_such_a_checkpoint_is_refused_before_its_weights_are_read(tmp_path):
    MambaConfig(num_hidden_layers=1, hidden_size=8).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="cannot be guarded: MambaForCausalLM keeps a recurrent state"):
        load_vlm(str(tmp_path), device="cpu")


@torch.no_grad()
def test_a_cache_layer_that_is_not_known_is_refused_before_the_prompt_is_run(monkeypatch):
    model = cached_tiny_model("llama")
    ids, kwargs = prepare(model, single(model))
    kwargs["past_key_values"].layers[1] = DynamicIndexedLayer()
    monkeypatch.setattr(model.model, "forward", None)
    with pytest.raises(ModelError, match="a cache layer of the kind DynamicIndexedLayer"):
        Runner(model).prefill(ids, kwargs, roll_back=True)


@torch.no_grad()
def test_a_layer_with_other_entries_than_tokens_is_refused_after_the_prompt(monkeypatch):
    model = cached_tiny_model("mllama")
    monkeypatch.setattr(caches, "read_once", lambda model: frozenset())
    with pytest.raises(ModelError, match=r"layer 1 of Mllama\w+ keeps 5 entries for 10 tokens"):
        Runner(model).prefill(*prepare(model, single(model)), roll_back=True)


@pytest.mark.parametrize("name", ["lfm2_vl", "mllama"])
def test_prefixes_of_more_than_keys_and_values_are_not_reused(name):
    model = cached_tiny_model(name)
    with pytest.raises(ModelError, match="keeps more than keys and values; its prefixes cannot be reused"):
        Prefix.read(model, single(model), [5])


def test_a_prompt_that_is_read_both_ways_is_not_shared_in_part():
    model = cached_tiny_model("paligemma2")
    with pytest.raises(ModelError, match="reads a prompt both ways"):
        Shared.read(model, single(model))


def test_every_row_makes_a_configuration_of_its_type_and_variants_stand_side_by_side():
    types: dict[str, int] = {}
    for name, family in FAMILIES.items():
        kind = family.model_type or name
        config = family.tiny.config()
        assert config.model_type == kind
        assert (family.text or kind) == config.get_text_config(decoder=True).model_type
        assert families.is_tested(config) is not bool(family.refused)
        assert bool(family.tiny.image) is family.reads_images
        types[kind] = types.get(kind, 0) + 1
    assert {kind for kind, count in types.items() if count > 1} == {"llava", "internvl", "gemma4", "paligemma"}
    on_another = FAMILIES["llava_next"].tiny.config()
    on_another.text_config = FAMILIES["qwen3"].tiny.config()
    assert not families.is_tested(on_another)
    plain, variant = (tiny_inputs(cached_tiny_model(name))["input_ids"] for name in ("paligemma2", "lfm2_vl"))
    assert plain.shape != variant.shape


class Counted:
    """Stands for the self-check: what it was asked."""

    def __init__(self, reason: str = "") -> None:
        self.asked, self.reason = 0, reason

    def __call__(self, model, trial: Trial) -> Sequence[Finding]:
        self.asked += 1
        assert trial.sees
        assert any(value.is_floating_point() for value in trial.batch.values())
        return [Finding("check", 1.0, 0.1, self.reason)]


@pytest.fixture
def unknown(monkeypatch, tmp_path):
    """A family that no test knows, and nothing remembered."""
    vlm = copy.copy(tiny_vlm("llava"))
    monkeypatch.setattr(checked, "is_tested", lambda config: False)
    monkeypatch.setattr(checked, "_passed", set())
    monkeypatch.setenv("SAFETY_REMINDER_CACHE", str(tmp_path / "cache"))
    return vlm


def test_a_model_of_a_tested_family_is_not_tried(monkeypatch):
    monkeypatch.setattr(checked, "self_check", None)
    checked.require_correct(tiny_vlm("llama"))


def test_a_model_of_another_family_is_tried_once(monkeypatch, unknown, tmp_path):
    counted = Counted()
    monkeypatch.setattr(checked, "self_check", counted)
    GuardedVLM(unknown, random_reminder())
    GuardedVLM(unknown, random_reminder())
    assert counted.asked == 1
    checked._passed.clear()  # as in another process
    checked.require_correct(unknown)
    assert counted.asked == 1
    [about] = json.loads((tmp_path / "cache" / checked.FILE).read_text()).values()
    assert about["model_type"] == "llava"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"other": 1}', "\udcff"])
def test_a_damaged_memory_is_none(monkeypatch, unknown, tmp_path, text):
    counted = Counted()
    monkeypatch.setattr(checked, "self_check", counted)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / checked.FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    checked.require_correct(unknown)
    assert counted.asked == 1
    assert len(json.loads((tmp_path / "cache" / checked.FILE).read_text())) in (1, 2)


def test_a_memory_that_cannot_be_written_costs_another_check_and_nothing_else(monkeypatch, unknown, tmp_path):
    counted = Counted()
    monkeypatch.setattr(checked, "self_check", counted)
    (tmp_path / "cache").write_text("a file")
    checked.require_correct(unknown)
    checked._passed.clear()
    checked.require_correct(unknown)
    assert counted.asked == 2


def test_another_version_of_the_library_is_another_model(monkeypatch, unknown):
    counted = Counted()
    monkeypatch.setattr(checked, "self_check", counted)
    checked.require_correct(unknown)
    monkeypatch.setattr(checked.transformers, "__version__", "99")
    checked.require_correct(unknown)
    assert counted.asked == 2


def test_a_model_that_fails_is_refused_and_not_remembered(monkeypatch, unknown):
    counted = Counted("it does not hold that this is right")
    monkeypatch.setattr(checked, "self_check", counted)
    for _ in range(2):
        with pytest.raises(ModelError, match="cannot be guarded: it does not hold that this is right"):
            GuardedVLM(unknown, random_reminder())
    assert counted.asked == 2


def test_a_processor_that_drops_its_images_is_noticed(monkeypatch, unknown):
    encode = VLM.encode
    dropped = lambda self, batch: {k: v for k, v in encode(self, batch).items() if k != "pixel_values"}  # noqa: E731
    monkeypatch.setattr(VLM, "encode", dropped)
    with pytest.raises(ModelError, match="its processor drops the images"):
        checked.require_correct(unknown)


def test_a_model_that_does_not_write_is_refused():
    model = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    model.generation_config = cached_tiny_model("llama").generation_config
    with pytest.raises(ModelError, match="bert cannot be guarded: BertModel does not write text"):
        GuardedVLM(VLM(model, tiny_vlm("llama").processor), random_reminder())
