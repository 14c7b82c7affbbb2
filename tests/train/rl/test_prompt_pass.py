"""Prompts that are read once: the same numbers and gradient as when each row reads its own, from fewer tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.train.tiny import PROMPTS, policy_trainer
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from selfroute.train.pretrained import add_adapter
from selfroute.train.rl.prompt_pass import distinct, keeps_all, read_prompts
from selfroute.train.rl.view import Pass, plain_pass

SMALL = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 20,
}  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**SMALL, num_key_value_heads=1),
    "qwen2": Qwen2Config(**SMALL, num_key_value_heads=2),
    "learned positions": GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=20),
}


def made(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).double()
    return model.eval()


def rows(lengths: list[int], groups: list[int], tokens: int = 4) -> tuple[Tensor, Tensor]:
    """Ids and mask, (B, P + T), of groups of rows behind prompts of some lengths, padded on both sides."""
    generator, widest = torch.Generator().manual_seed(0), max(lengths)
    ids, mask = [], []
    for length, group in zip(lengths, groups, strict=True):
        prompt = torch.randint(2, 20, (widest,), generator=generator)
        for row in range(group):
            ids.append(torch.cat([prompt, torch.randint(2, 20, (tokens,), generator=generator)]))
            mask.append(torch.tensor([0] * (widest - length) + [1] * (length + 1 + row % tokens)))
    padded = torch.nn.utils.rnn.pad_sequence(mask, batch_first=True)
    return torch.stack(ids), torch.nn.functional.pad(padded, (0, widest + tokens - padded.shape[1]))


def both(model: Any, ids: Tensor, mask: Tensor, tokens: int = 4) -> tuple[Pass, Pass]:
    """Every row by itself, and behind prompts that were read once."""
    every = torch.arange(len(ids))
    read = read_prompts(model, ids[:, :-tokens], mask[:, :-tokens], every)
    assert read is not None
    return (
        plain_pass(model, ids, mask, tokens, temperature=0.7, ends=[3]),
        plain_pass(*read.of(every)(model, ids, mask, tokens), tokens, temperature=0.7, ends=[3]),
    )


def gradient(model: Any, loss: Tensor) -> Tensor:
    own = [value for value in model.parameters() if value.requires_grad]
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, own, materialize_grads=True)])


@pytest.mark.parametrize(("name", "adapter"), [*((name, False) for name in CONFIGS), ("llama", True)])
@settings(max_examples=10)
@given(groups=st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda sizes: max(sizes) > 1), data=st.data())
def test_numbers_and_gradient_are_those_of_reading_every_prompt(
    name: str, adapter: bool, groups: list[int], data: Any
) -> None:
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=len(groups), max_size=len(groups)))
    lengths[0] = max(2, lengths[0])
    model: Any = made(CONFIGS[name])
    if adapter:
        model = add_adapter(model, {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj", "v_proj"]})
    ids, mask = rows(lengths, groups)
    real = mask[:, -4:].bool()
    apart, once = both(model, ids, mask)
    for attribute in ("logps", "entropy", "stop", "logits", "hidden"):
        left, right = getattr(apart, attribute)[real], getattr(once, attribute)[real]
        torch.testing.assert_close(left, right, rtol=0, atol=1e-9)
    left, right = (gradient(model, (each.logps * each.hidden.sum(-1))[real].sum()) for each in (apart, once))
    assert float((left - right).norm() / left.norm()) < 1e-6  # norms of these models compute in float32


def test_some_rows_of_a_batch_are_behind_their_own_prompts() -> None:
    model = made(CONFIGS["llama"])
    ids, mask = rows([5, 2, 3], [2, 3, 2])
    some = torch.tensor([6, 1, 4])
    read = read_prompts(model, ids[:, :-4], mask[:, :-4], some)
    assert read is None  # of these, no two are of one group
    some = torch.tensor([6, 2, 3, 5])
    read = read_prompts(model, ids[:, :-4], mask[:, :-4], some)
    assert read is not None
    part = torch.tensor([5, 2])
    found = plain_pass(*read.of(part)(model, ids[part], mask[part], 4), 4, temperature=1.0)
    alone = plain_pass(model, ids[part], mask[part], 4, temperature=1.0)
    real = mask[part, -4:].bool()
    torch.testing.assert_close(found.logps[real], alone.logps[real], rtol=0, atol=1e-9)


def test_prompts_of_one_token_are_not_read_apart() -> None:
    ids, mask = rows([1, 1], [3, 3])
    assert read_prompts(made(CONFIGS["llama"]), ids[:, :-4], mask[:, :-4], torch.arange(6)) is None


def test_equal_ids_behind_other_padding_are_other_prompts() -> None:
    ids, mask = torch.tensor([[7, 7], [7, 7], [7, 7]]), torch.tensor([[0, 1], [1, 1], [0, 1]])
    once, real, places = distinct(ids, mask)
    assert len(once) == 2
    assert real[places].tolist() == mask.tolist()


def test_a_model_that_forgets_is_told_from_one_that_keeps_all() -> None:
    assert all(keeps_all(config) for config in CONFIGS.values())
    assert not keeps_all(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=3))


class Read:
    """Counts the tokens that a model reads while it learns."""

    def __init__(self) -> None:
        self.tokens = 0

    def __call__(self, module: Any, args: Any, kwargs: Any) -> None:
        if torch.is_grad_enabled():
            self.tokens += kwargs["input_ids"].numel()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_reads_a_prompt_once_unless_states_are_thrown_away(tmp_path: Path, checkpointing: bool) -> None:
    """Checkpointing computes states a second time, and keeps none that rows could share."""
    read = {}
    for once in (True, False):
        trainer = policy_trainer(
            tmp_path,
            activation_checkpointing=checkpointing,
            read_prompts_once=once,
            drop_idle_rows=True,
            part_tokens=1000,
        )
        look = Read()
        trainer.accelerator.unwrap_model(trainer.model).model.register_forward_pre_hook(look, with_kwargs=True)
        trainer.train()
        read[once] = look.tokens
    widest = max(len(prompt.split()) for prompt in PROMPTS)
    assert read[True] == read[False] if checkpointing else read[True] <= read[False] - 5 * widest
