"""The pool of keys and values: readers that change their rows while the worker is at a pass, and shared beginnings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from selfroute.backends.torch.kv_pool import KVPool, Row

SYSTEM = [5, 9, 2, 7] * 5


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


SIZES: dict[str, Any] = {
    "vocab_size": 16, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
LLAMA = LlamaConfig(**SIZES)
# Its first layer sees everything, its second one six tokens back.
WINDOWED = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=6, max_window_layers=1)


def pool_of(config: PretrainedConfig, rows: int = 4) -> KVPool:
    torch.manual_seed(0)
    return KVPool(AutoModelForCausalLM.from_config(config).eval(), rows)


@pytest.fixture
def pool() -> KVPool:
    return pool_of(LLAMA)


@contextmanager
def reading(pool: KVPool) -> Iterator[list[tuple[int, int]]]:
    """Shapes (rows, tokens) of the passes meanwhile."""
    shapes: list[tuple[int, int]] = []

    def note(module: object, args: object, given: dict[str, Any]) -> None:
        shapes.append(tuple(given["input_ids"].shape))

    hook = pool.model.register_forward_pre_hook(note, with_kwargs=True)
    yield shapes
    hook.remove()


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


@torch.inference_mode()
def test_equal_new_rows_are_read_once(pool: KVPool) -> None:
    with reading(pool) as shapes:
        pool.append([Row() for _ in range(3)], [[*SYSTEM, 1]] * 3, [1] * 3)
    assert shapes == [(1, 21), (3, 1)]


@torch.inference_mode()
def test_a_new_row_reads_what_no_row_that_is_held_begins_with(pool: KVPool) -> None:
    pool.append([one := Row()], [[*SYSTEM, 1, 3, 5]], [1])
    with reading(pool) as shapes:
        pool.append([other := Row()], [[*SYSTEM, 1, 4]], [1])
    assert shapes == [(2, 1)]  # the other one rides along
    for row in (one, other):
        pool.free(row)
    with reading(pool) as shapes:
        pool.append([Row()], [[*SYSTEM, 1, 4]], [1])
    assert shapes == [(1, 22)]
    assert pool.held == 1


@torch.inference_mode()
def test_what_a_row_has_forgotten_is_not_taken_over(pool: KVPool) -> None:
    pool.append([one := Row()], [[*SYSTEM, 1, 3]], [1])
    one.tokens = 18
    pool.append([other := Row()], [[*SYSTEM, 1, 3]], [1])
    pool.append([one], [[4, 4]], [1])
    (seen,) = pool.append([other], [[2]], [1])
    (expected,) = pool_of(LLAMA).append([Row()], [[*SYSTEM, 1, 3, 2]], [1])
    torch.testing.assert_close(seen.logits, expected.logits)


PIECES = st.tuples(st.integers(0, 5), st.sampled_from([0, 14, 18, 20]), st.lists(st.integers(0, 15), min_size=1))
MOVES = st.lists(st.lists(PIECES, min_size=1, max_size=5, unique_by=lambda piece: piece[0]), min_size=1, max_size=6)


@pytest.mark.parametrize("config", [LLAMA, WINDOWED], ids=["everything", "windows"])
@settings(max_examples=60, deadline=None)
@given(moves=MOVES, cuts=st.lists(st.integers(0, 3), min_size=6, max_size=6))
@torch.inference_mode()
def test_a_row_sees_the_same_whoever_is_beside_it(config: PretrainedConfig, moves: Any, cuts: list[int]) -> None:
    pool, rows = pool_of(config), [Row() for _ in range(6)]
    known: list[list[int]] = [[] for _ in rows]
    for move, cut in zip(moves, cuts, strict=False):
        move = move[: pool.rows]
        appends = [[*SYSTEM[: 0 if rows[at].tokens else shared], *ids] for at, shared, ids in move]
        for (at, *_), append in zip(move, appends, strict=True):
            known[at] += append
        seen = pool.append([rows[at] for at, *_ in move], appends, [1] * len(move))
        for (at, *_), one in zip(move, seen, strict=True):
            (expected,) = pool_of(config).append([Row()], [known[at]], [1])
            torch.testing.assert_close(one.logits, expected.logits, rtol=1e-4, atol=1e-5)
        at = move[0][0]
        if cut == 3:
            pool.free(rows[at])
            known[at] = []
        elif cut < len(known[at]):
            del known[at][len(known[at]) - cut :]
            rows[at].tokens = len(known[at])
