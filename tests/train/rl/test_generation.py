"""What writes rollouts on a CPU in bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from selfroute.train.rl.generation import half_copy

IDS = torch.arange(1, 25).reshape(2, 12)


def network() -> Any:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=True, pad_token_id=0,
    )  # fmt: skip
    network: Any = LlamaForCausalLM(shape)
    return network.eval()


def trained(lora: bool) -> Any:
    """A policy as a trainer holds it: adapters that have moved, TRL's head, accelerate's autocast."""
    plain = network()
    model: Any = plain
    if lora:
        model = get_peft_model(plain, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    add_fused_lm_head(plain, temperature=1.0, cast_lm_head_to_fp32=False, outputs=("log_probs",))
    inner = model.forward

    def cast(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return inner(*args, **kwargs)

    model.forward = cast
    return model


@pytest.mark.parametrize("lora", [False, True])
def test_the_copy_says_what_the_policy_says(lora: bool) -> None:
    model = trained(lora)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    with torch.no_grad():
        wanted = model(input_ids=IDS).logits.float()
        writer = half_copy(model)
        assert {parameter.dtype for parameter in writer.parameters()} == {torch.bfloat16}
        found = writer(input_ids=IDS).logits.float()
        base = network()(input_ids=IDS).logits
    assert (found - wanted).abs().max() < 0.03
    if lora:
        assert (found - base).abs().max() > 0.3
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert "forward" in vars(model)


def test_the_copy_follows_the_policy() -> None:
    model = trained(lora=True)
    with torch.no_grad():
        was = half_copy(model)(input_ids=IDS).logits
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.neg_()
        assert (half_copy(model)(input_ids=IDS).logits - was).abs().max() > 0.3


def test_positions_keep_their_precision() -> None:
    assert {values.dtype for values in half_copy(trained(lora=False)).buffers()} == {torch.float32}
