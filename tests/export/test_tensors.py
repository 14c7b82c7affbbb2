"""Names, order and types of the weights in GGUF."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from selfroute.errors import ConfigError
from selfroute.export.tensors import architecture, encode, permute, plan, rope_factors, storage

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
}
NAMES = {
    "model.embed_tokens.weight": (10, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.k_proj.weight": (4, 8),
    "model.layers.0.self_attn.v_proj.weight": (4, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 16),
    "model.norm.weight": (8,),
    "lm_head.weight": (10, 8),
}


def test_names_and_heads_of_a_llama() -> None:
    planned = {one.name: one.heads for one in plan(LLAMA, NAMES)}
    assert planned == {
        "token_embd.weight": 0,
        "blk.0.attn_q.weight": 4,
        "blk.0.attn_k.weight": 2,
        "blk.0.attn_v.weight": 0,
        "blk.0.ffn_down.weight": 0,
        "output_norm.weight": 0,
        "output.weight": 0,
    }


def test_a_tied_output_is_left_out() -> None:
    assert "output.weight" not in {one.name for one in plan({**LLAMA, "tie_word_embeddings": True}, NAMES)}


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_qwen_is_not_permuted(kind: str) -> None:
    assert {one.heads for one in plan({**LLAMA, "model_type": kind}, NAMES)} == {0}


def test_a_head_goes_from_halves_to_neighbours() -> None:
    weights = np.arange(16.0).reshape(8, 2)
    assert permute(weights, 2)[:, 0].tolist() == [0, 4, 2, 6, 8, 12, 10, 14]
    assert permute(weights[:, 0], 2).tolist() == [0, 4, 2, 6, 8, 12, 10, 14]
    assert permute(weights, 0) is weights


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gemma3"}, "unsupported architecture 'gemma3'.*llama, qwen2, qwen3"),
        ({"hidden_act": "gelu"}, "unsupported activation 'gelu'"),
        ({"use_sliding_window": True}, "sliding window"),
    ],
)
def test_what_llama_cpp_does_not_compute(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        architecture({**LLAMA, **change})


def test_a_tensor_of_an_adapter_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lora_A.*does not have"):
        plan(LLAMA, {"model.layers.0.self_attn.q_proj.lora_A.weight": (4, 8)})


def test_vectors_stay_exact_and_short_rows_are_not_cut_into_blocks() -> None:
    assert storage((64,), "q8_0") is GGMLQuantizationType.F32
    assert storage((3, 64), "q8_0") is GGMLQuantizationType.Q8_0
    assert storage((3, 48), "q8_0") is GGMLQuantizationType.F16
    assert storage((3, 48), "f16") is GGMLQuantizationType.F16


@pytest.mark.parametrize("value", [np.inf, np.nan, 7e4])
def test_a_weight_that_cannot_be_written(value: float) -> None:
    with pytest.raises(ConfigError, match="tensor 'w' has"):
        encode(np.full((1, 32), value, dtype=np.float32), GGMLQuantizationType.F16, "w")


def test_a_large_weight_fits_in_blocks() -> None:
    encode(np.full((1, 32), 7e4, dtype=np.float32), GGMLQuantizationType.Q8_0, "w")


def test_rotary_frequencies() -> None:
    plain = 10_000.0 ** -(np.arange(4) / 4)
    assert rope_factors(LLAMA, plain) is None
    scaled = {**LLAMA, "rope_parameters": {"rope_type": "llama3", "rope_theta": 10_000.0}}
    factors = rope_factors(scaled, plain / np.array([1, 1, 2, 8]))
    assert factors is not None and factors.tolist() == pytest.approx([1, 1, 2, 8])
    for kind, rope in (("llama", "yarn"), ("qwen2", "llama3")):
        other = {**LLAMA, "model_type": kind, "rope_parameters": {"rope_type": rope, "rope_theta": 10_000.0}}
        with pytest.raises(ConfigError, match=f"rotary embedding '{rope}' of a {kind} model"):
            rope_factors(other, plain / 8)
