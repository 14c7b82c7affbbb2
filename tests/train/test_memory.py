"""The arithmetic of memory: known sizes of published models, what grows with what, and a real pass beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config

from selfroute.errors import ConfigError
from selfroute.train.memory import (
    Network,
    Pass,
    activation_bytes,
    cache_bytes,
    logit_bytes,
    lora_parameters,
    network_of,
    optimizer_bytes,
    parameters,
    predict,
)

MODELS = Path(__file__).resolve().parents[2] / "recipes" / "paper" / "models"
PUBLISHED = {
    "Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen2.5-3B-Instruct": 3_085_938_688,
    "Llama-3.2-1B-Instruct": 1_235_814_400,
    "Llama-3.2-3B-Instruct": 3_212_749_824,
}

sizes = st.integers(1, 6)
networks = st.builds(
    Network,
    hidden=st.integers(1, 8).map(lambda n: 16 * n),
    inner=st.integers(1, 300),
    layers=sizes,
    heads=st.sampled_from([2, 4, 8]),
    kv_heads=st.sampled_from([1, 2]),
    head_size=st.sampled_from([8, 16]),
    vocabulary=st.integers(2, 500),
    tied=st.booleans(),
    query_bias=st.booleans(),
)
passes = st.builds(
    Pass, rows=sizes, prompt=st.integers(1, 50), completion=st.integers(1, 50), rollouts=st.integers(1, 64)
)


def config_of(network: Network) -> LlamaConfig | Qwen2Config:
    kind = Qwen2Config if network.query_bias else LlamaConfig
    return kind(
        vocab_size=network.vocabulary,
        hidden_size=network.hidden,
        intermediate_size=network.inner,
        num_hidden_layers=network.layers,
        num_attention_heads=network.heads,
        num_key_value_heads=network.kv_heads,
        head_dim=network.head_size,
        tie_word_embeddings=network.tied,
        pad_token_id=0, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_models_have_their_published_sizes(name: str) -> None:
    network = network_of(json.loads((MODELS / name / "config.json").read_text(encoding="utf-8")))
    assert parameters(network) == PUBLISHED[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(MODELS / name))
    assert model.num_parameters() == PUBLISHED[name]


@settings(max_examples=20)
@given(networks)
def test_parameters_are_those_of_the_network(network: Network) -> None:
    config = config_of(network)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert network_of(config.to_dict()) == network
    assert parameters(network) == model.num_parameters()


@settings(max_examples=20)
@given(networks, sizes)
def test_an_adapter_is_as_large_as_peft_makes_it(network: Network, rank: int) -> None:
    from peft import LoraConfig, get_peft_model

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(network))
        adapted = get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"))
    trained, _ = adapted.get_nb_trainable_parameters()
    assert lora_parameters(network, rank) == trained


@given(networks, passes, st.booleans())
def test_more_of_anything_takes_more(network: Network, work: Pass, half: bool) -> None:
    more = Pass(work.rows + 1, work.prompt + 1, work.completion + 1, work.rollouts + 1)
    for checkpointing in (False, True):
        at = [activation_bytes(network, w, half=half, checkpointing=checkpointing) for w in (work, more)]
        assert 0 < at[0] < at[1]
    assert 0 < logit_bytes(network, work) < logit_bytes(network, more)
    assert 0 < cache_bytes(network, work, half=half) < cache_bytes(network, more, half=half)
    assert activation_bytes(network, work, half=True, checkpointing=False) < activation_bytes(
        network, work, half=False, checkpointing=False
    )


@given(networks, passes)
def test_lora_checkpointing_and_shards_save_memory(network: Network, work: Pass) -> None:
    total = parameters(network)
    full = predict(network, work, total=total, trained=total)
    lora = predict(network, work, total=total, trained=lora_parameters(network, 1))
    assert full.fixed == 16 * total
    assert full.peak == full.fixed + max(full.activations + full.logits, full.cache)
    assert (lora.weights, lora.activations) == (full.weights, full.activations)
    shards = predict(network, work, total=total, trained=total, processes=2, sharded=True)
    assert (shards.gradients, shards.optimizer) == (full.gradients / 2, full.optimizer / 2)
    copies = predict(network, work, total=total, trained=total, processes=2)
    assert (copies.gradients, copies.optimizer) == (2 * full.gradients, full.optimizer)
    assert predict(network, work, total=total, trained=total, own_rollouts=False).cache == 0


@pytest.mark.parametrize(
    ("optim", "bytes_each"), [("adamw_torch_fused", 8), ("adamw_8bit", 2), ("sgd", 0), ("lion_32bit", 8)]
)
def test_optimisers(optim: str, bytes_each: int) -> None:
    assert optimizer_bytes(optim) == bytes_each


def test_a_model_that_is_no_plain_decoder_is_named() -> None:
    with pytest.raises(ConfigError, match="no memory estimate for a mamba model: its configuration has no 'num_att"):
        network_of({"model_type": "mamba", "hidden_size": 8})


@pytest.mark.parametrize("rows", [1, 3])
def test_the_activations_of_a_real_pass_are_near_the_estimate(rows: int) -> None:
    network = Network(hidden=128, inner=384, layers=4, heads=4, kv_heads=2, head_size=32, vocabulary=64)
    model = LlamaForCausalLM(config_of(network))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(input_ids=torch.ones(rows, 64, dtype=torch.long), logits_to_keep=1)
    estimate = activation_bytes(network, Pass(rows, 32, 32, rows), half=False, checkpointing=False)
    assert output.logits.requires_grad
    assert sum(kept.values()) == pytest.approx(estimate, rel=0.25)
