"""Tiny families that read text only."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from safety_reminder.models.tiny_families.base import TEXT, Tiny

_SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
_ROUTED = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


def text(model_type: str, **changes: Any) -> Tiny:
    return Tiny(lambda: AutoConfig.for_model(model_type, **{**TEXT, **changes}))


LLAMA = text("llama")
QWEN2 = text("qwen2")
QWEN3 = text("qwen3", head_dim=8)
QWEN3_MOE = text("qwen3_moe", head_dim=8, **_ROUTED)
MISTRAL = text("mistral", sliding_window=12, head_dim=8)
MIXTRAL = text("mixtral", **_ROUTED)
GEMMA = text("gemma", head_dim=8)
GEMMA2 = text("gemma2", head_dim=8, sliding_window=12, layer_types=_SLIDING, query_pre_attn_scalar=8)
GEMMA3 = text("gemma3_text", head_dim=8, sliding_window=12, layer_types=_SLIDING, query_pre_attn_scalar=8)
GEMMA3N = text(
    "gemma3n_text",
    head_dim=8,
    num_hidden_layers=6,
    intermediate_size=48,
    sliding_window=12,
    layer_types=["sliding_attention", "full_attention"] * 3,
    hidden_size_per_layer_input=8,
    vocab_size_per_layer_input=128,
    num_kv_shared_layers=2,
    laurel_rank=8,
    altup_num_inputs=2,
    activation_sparsity_pattern=[0.0] * 6,
)
GPT_OSS = text("gpt_oss", head_dim=8, sliding_window=12, layer_types=_SLIDING, **_ROUTED)
PHI3 = text("phi3", sliding_window=None)
DEEPSEEK_V3 = text(
    "deepseek_v3",
    num_key_value_heads=4,
    n_routed_experts=4,
    n_shared_experts=1,
    n_group=2,
    topk_group=1,
    num_experts_per_tok=2,
    moe_intermediate_size=24,
    first_k_dense_replace=1,
    kv_lora_rank=16,
    q_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=8,
    v_head_dim=8,
)
COHERE2 = text("cohere2", sliding_window=12, layer_types=_SLIDING)
OLMO2 = text("olmo2")
GRANITE = text("granite")
GLM4 = text("glm4", head_dim=8)
SMOLLM3 = text("smollm3")
LFM2 = text("lfm2", layer_types=["conv", "full_attention", "conv"], full_attn_idxs=[1], block_auto_adjust_ff_dim=False)
LLAMA4 = text(
    "llama4_text",
    head_dim=8,
    intermediate_size_mlp=48,
    num_local_experts=2,
    num_experts_per_tok=1,
    attention_chunk_size=8,
    num_hidden_layers=4,
)
MAMBA = text("mamba", state_size=4)
RWKV = text("rwkv", attention_hidden_size=32)
QWEN3_NEXT = text("qwen3_next", head_dim=8, layer_types=["linear_attention", "full_attention", "linear_attention"])
JAMBA = text("jamba", num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False)
FALCON_H1 = text("falcon_h1", mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8)
BAMBA = text("bamba", attn_layer_indices=[1], mamba_n_heads=8, mamba_d_head=8)
RECURRENT_GEMMA = text("recurrent_gemma")
