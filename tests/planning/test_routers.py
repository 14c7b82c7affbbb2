"""Counts of routers' choices: those that the layers use, without padding, on models of either kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.planning import tiny

from selfroute.errors import ConfigError
from selfroute.planning.load import generated_load
from selfroute.planning.routers import count_choices, measured_load, mixture_of
from selfroute.planning.shapes import Mixture


def counts(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
    return count_choices(model, input_ids=ids, attention_mask=torch.ones_like(ids) if mask is None else mask)


@pytest.mark.parametrize("make", [tiny.mixtral, tiny.deepseek])
def test_every_token_is_counted_for_each_of_its_experts(make: Any) -> None:
    ids = tiny.domain(0, 5, length=7)
    found = counts(make(), ids)
    assert found.shape == (2, tiny.EXPERTS), "a dense layer has no router"
    assert found.sum(axis=1).tolist() == [5 * 7 * 2] * 2


@pytest.mark.parametrize("make", [tiny.mixtral, tiny.deepseek])
def test_padding_is_not_counted(make: Any) -> None:
    model, ids = make(), tiny.domain(0, 3, length=6)
    padded = torch.cat([ids, torch.zeros(3, 4, dtype=ids.dtype)], dim=1)
    mask = torch.cat([torch.ones(3, 6), torch.zeros(3, 4)], dim=1).long()
    assert (counts(model, padded, mask) == counts(model, ids)).all()
    assert counts(model, padded).sum() > counts(model, ids).sum(), "unmasked it would be"


def test_the_largest_logits_are_not_what_a_router_with_groups_chooses() -> None:
    model, ids = tiny.deepseek(), tiny.domain(0, 20)
    logits = model(input_ids=ids, output_router_logits=True).router_logits
    naive = np.stack([
        torch.bincount(layer.topk(2).indices.reshape(-1), minlength=tiny.EXPERTS).numpy() for layer in logits
    ])  # fmt: skip
    found = counts(model, ids)
    assert np.abs(naive - found).sum() > 0.2 * found.sum()


def test_for_a_plain_router_they_are() -> None:
    model, ids = tiny.mixtral(), tiny.domain(0, 20)
    logits = model(input_ids=ids, output_router_logits=True).router_logits
    naive = [torch.bincount(layer.topk(2).indices.reshape(-1), minlength=tiny.EXPERTS).tolist() for layer in logits]
    assert counts(model, ids).tolist() == naive


def test_hooks_are_gone_afterwards() -> None:
    model = tiny.mixtral()
    counts(model, tiny.domain(0, 2))
    assert not any(module._forward_hooks for module in model.modules())


def test_the_shape_of_a_model_is_read_from_it() -> None:
    expected = {"layers": 2, "experts": 8, "top_k": 2, "hidden_size": 32}
    assert mixture_of(tiny.mixtral()) == Mixture(**expected)
    assert mixture_of(tiny.deepseek()) == Mixture(**expected, dense=(0,), groups=4)
    assert mixture_of(tiny.mixtral(), bytes_per_value=1.0).bytes_per_token == 32


def test_routers_that_do_not_tell_are_refused() -> None:
    small: dict[str, Any] = {"num_hidden_layers": 1, "vocab_size": tiny.VOCABULARY, "pad_token_id": 0}
    config = transformers.Llama4TextConfig(
        **small, hidden_size=32, intermediate_size=32, intermediate_size_mlp=32, num_attention_heads=4,
        num_key_value_heads=4, num_local_experts=4, num_experts_per_tok=1, interleave_moe_layer_step=1,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"router '.*' \(Llama4Router\) does not return the experts"):
        counts(tiny.made(transformers.Llama4ForCausalLM, config), tiny.domain(0, 2))


def test_a_model_without_experts_is_refused() -> None:
    config = transformers.LlamaConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4
    )
    with pytest.raises(ConfigError, match="LlamaForCausalLM has no routers"):
        counts(tiny.made(transformers.LlamaForCausalLM, config), tiny.domain(0, 2))


def test_sources_are_counted_apart() -> None:
    from selfroute.train.imitation.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    config = transformers.MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    model = tiny.made(transformers.MixtralForCausalLM, config)
    prompts = ["Using the numbers [3, 5, 7]", "create", "an equation"]
    both = measured_load(model, tokenizer, [prompts, prompts[:1]], about="a test's")
    alone = measured_load(model, tokenizer, [prompts[:1]], about="a test's")
    assert both.visits.shape == (2, 1, 4)
    assert (both.visits[1] == alone.visits[0]).all() and both.visits[0].sum() > both.visits[1].sum()
    with pytest.raises(ConfigError, match="there are no prompts"):
        measured_load(model, tokenizer, [[]], about="a test's")


def test_a_load_of_another_model_is_refused() -> None:
    load = generated_load(Mixture(layers=2, experts=8, top_k=2))
    with pytest.raises(ConfigError, match="has 2 layers × 8 experts, the model 3 × 8"):
        load.per_token(Mixture(layers=3, experts=8, top_k=2))
