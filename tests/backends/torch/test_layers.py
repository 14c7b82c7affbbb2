"""Models in parts: equal to themselves, other kinds of models, and those that are more than their layers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from selfroute.backends.embedded import embedded
from selfroute.backends.torch.layers import Cut, Part, copies, drawn, weights_of
from selfroute.errors import ConfigError, NotInstalled

SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
}
IDS = [(i * 7 + 3) % 61 for i in range(24)]


def made(config: Any) -> Any:
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def llama() -> Any:
    return made(LlamaConfig(**SIZES))


@torch.inference_mode()
def in_blocks(part: Part, states: torch.Tensor, ends: list[int]) -> torch.Tensor:
    borders = [0, *ends, len(states)]
    return torch.cat([part.run(states[a:b]) for a, b in pairwise(borders)])


@torch.inference_mode()
def error(model: Any, cut: Cut, at: int, ends: list[int], more: list[int]) -> float:
    """Of the logits of a model that is cut, as a part of the largest one."""
    whole = model(torch.tensor([IDS])).logits[0]
    states = in_blocks(cut.part(0, at), cut.embed(IDS), ends)
    logits = cut.logits(in_blocks(cut.part(at, cut.layers), states, more))
    return float((logits - whole).abs().max() / whole.abs().max())


ends = st.lists(st.integers(0, 24), max_size=4).map(sorted)


@settings(max_examples=25)
@given(st.integers(1, 4), ends, ends)
def test_a_cut_model_is_the_whole_one_whatever_comes_when(
    llama: Any, at: int, first: list[int], then: list[int]
) -> None:
    assert error(llama, Cut("llama", llama), at, first, then) < 1e-5


@pytest.mark.parametrize("name", ["chain-cloud", "chain-device"])
def test_the_embedded_pair_too(name: str) -> None:
    model: Any = embedded(name)
    cut = Cut(name, model.model)
    assert max(error(model.model, cut, at, [9], list(range(1, 24))) for at in (1, cut.layers - 1)) < 1e-5


@pytest.mark.slow
def test_so_does_a_pretrained_model_and_its_states_stand_rounding() -> None:
    import numpy as np

    from selfroute.backends.llama_cpp import find_smollm2
    from selfroute.backends.transformers import TransformersBackend
    from selfroute.network.states import Block, decode_states, encode_states

    try:
        place = find_smollm2()
    except NotInstalled as failure:
        pytest.skip(str(failure))
    whole = TransformersBackend.load(place, name="smollm2", dtype="float32", device="cpu")
    ids = whole.ids_of("The sky is blue because air scatters short waves of light more than long ones, and so")
    with torch.inference_mode():
        own = whole.model(torch.tensor([ids])).logits[0]
        for at in (6, 15):
            states = in_blocks(whole.cut.part(0, at), whole.cut.embed(ids), [5, 6, 12])
            for codec, worst in (("fp32", 1e-5), ("fp16", 1e-2), ("int8", 5e-2)):
                data = encode_states(Block(0, states.numpy()), codec)  # type: ignore[arg-type]
                carried = torch.from_numpy(np.array(decode_states(data, width=whole.cut.width).states))
                logits = whole.cut.logits(in_blocks(whole.cut.part(at, whole.cut.layers), carried, [9]))
                assert float((logits - own).abs().max() / own.abs().max()) < worst, (at, codec)


@pytest.mark.parametrize("config", [Qwen3Config, MistralConfig])
def test_so_are_others_of_llamas_kin(config: Any) -> None:
    extra = {"sliding_window": None} if config is MistralConfig else {}
    model = made(config(**SIZES, **extra))
    assert error(model, Cut("model", model), 2, [5], [6, 7]) < 1e-5


def test_parts_with_other_borders_and_whole_answers_share_a_model(llama: Any) -> None:
    cut = Cut("llama", llama)
    with torch.inference_mode():
        states = cut.embed(IDS)
        one, other = cut.part(0, 3), cut.part(0, 2)
        one.run(states[:8]), other.run(states[:5])
        llama(torch.tensor([IDS]))
        assert torch.allclose(cut.part(2, 3).run(cut.part(0, 2).run(states)), cut.part(0, 3).run(states), atol=1e-5)
        assert (one.length, one.computed, other.length, other.computed) == (8, 24, 5, 10)


@pytest.mark.parametrize("config", [LlamaConfig, Qwen3Config])
def test_copied_keys_and_values_are_those_of_an_input_that_stays_as_it_is(config: Any) -> None:
    # Layers that add nothing leave their input as it is: then copying is exact.
    model = made(config(**SIZES))
    cut = Cut("model", model)
    with torch.inference_mode():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.layers[4].self_attn.o_proj.weight.fill_(0.1)
        states = cut.embed(IDS)
        run, copied = cut.part(2, 5), cut.part(2, 5)
        run.run(states[:20])
        copied.run(states[:5])
        copied.copy(states[5:20])
        assert torch.allclose(run.run(states[20:]), copied.run(states[20:]), atol=1e-5)
    assert copies(cut) and copied.length == 24 and copied.computed == 9 * 3


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (GPT2Config(n_embd=24, n_layer=2, n_head=2, vocab_size=61), "a gpt2 model has no embed_tokens"),
        (Gemma2Config(**SIZES), "its layers have sliding_attention"),
        (MistralConfig(**SIZES, sliding_window=64), "its layers have sliding_attention"),
    ],
)  # fmt: skip
def test_models_that_a_cut_does_not_know_are_refused(config: Any, match: str) -> None:
    model = made(config)
    with pytest.raises(ConfigError, match=match):
        Cut("other", model)


def test_a_model_that_is_more_than_its_layers_is_refused() -> None:
    config = GraniteConfig(**SIZES, embedding_multiplier=3.0, logits_scaling=2.0)
    model = made(config)
    with pytest.raises(ConfigError, match="more than its layers"):
        Cut("granite", model)


def test_a_token_is_drawn_by_its_luck_alone() -> None:
    logits = torch.tensor([0.0, 2.0, 1.0])
    assert drawn(logits, temperature=0, top_p=1, luck=0.99)[0] == 1
    found = [drawn(logits, temperature=1, top_p=1, luck=i / 1000)[0] for i in range(1000)]
    share = [found.count(token) / 1000 for token in range(3)]
    assert share == pytest.approx(torch.softmax(logits, 0).tolist(), abs=2e-3)
    assert {drawn(logits, temperature=1, top_p=0.5, luck=i / 50)[0] for i in range(50)} == {1}
    assert drawn(logits, temperature=2, top_p=1, luck=0.5)[1] == pytest.approx(
        float(torch.log_softmax(logits / 2, 0)[drawn(logits, temperature=2, top_p=1, luck=0.5)[0]])
    )


def test_weights_that_differ_in_one_bit_have_other_fingerprints(llama: Any) -> None:
    before = weights_of(llama)
    assert before == weights_of(llama) and len(bytes.fromhex(before)) == 8
    weight = llama.model.layers[3].mlp.up_proj.weight
    with torch.no_grad():
        old = float(weight[0, 0])
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
        assert weights_of(llama) != before
        weight[0, 0] = old
    assert weights_of(llama) == before
