"""The pool of keys and values where readers change their rows while the worker is at a pass."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from selfroute.backends.torch.kv_pool import KVPool, Row


class Cut(Row):
    """A row that its reader cuts by a token as soon as the worker has looked at it once."""

    __slots__ = ("armed",)

    @property
    def tokens(self) -> int:  # type: ignore[override]
        held: int = Row.tokens.__get__(self)  # type: ignore[attr-defined]
        if getattr(self, "armed", False):
            self.armed = False
            self.tokens = held - 1
        return held

    @tokens.setter
    def tokens(self, value: int) -> None:
        Row.tokens.__set__(self, value)  # type: ignore[attr-defined]


@pytest.fixture
def pool() -> KVPool:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return KVPool(AutoModelForCausalLM.from_config(config).eval(), 4)


@torch.inference_mode()
def test_a_row_that_rides_along_may_be_cut_during_a_pass(pool: KVPool) -> None:
    idle, working, alone = Cut(), Row(), Row()
    pool.append([idle, working], [[1] * 20, [2, 3]], [1, 1])
    while idle.tokens < pool._block.capacity[1]:  # no room is left behind it
        pool.append([idle], [[1]], [1])
    idle.armed = True
    (seen,) = pool.append([working], [[4]], [1])
    assert not idle.armed
    (expected,) = KVPool(pool.model, 4).append([alone], [[2, 3, 4]], [1])
    torch.testing.assert_close(seen.logits, expected.logits)
