"""The batched sampler against transformers.generate, fresh forward passes and plain arithmetic."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
)

from selfroute.backends.torch.sampler import Sampled, Step, draw, sample
from selfroute.errors import ConfigError

VOCABULARY = 48
EOS = [3, 7]
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.4,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": 0,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SMALL, num_key_value_heads=4),
    "llama-tied-gqa": LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SMALL, num_key_value_heads=2),
    "mistral-window": MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=8),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    ),
}


def make(config: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def any_model(request: pytest.FixtureRequest) -> Any:
    return make(CONFIGS[request.param])


@pytest.fixture(scope="module")
def llama() -> Any:
    return make(CONFIGS["llama"])


def prompts_of(*lengths: int, shared: int = 0, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    beginning = [rng.randrange(8, VOCABULARY) for _ in range(shared)]
    return [beginning + [rng.randrange(8, VOCABULARY) for _ in range(length)] for length in lengths]


def run(model: Any, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[Sampled]]:
    given = {"max_new_tokens": 24, "eos_token_ids": EOS, "pad_token_id": 0, "temperature": 0.0, **options}
    return sample(model, prompts, **given)


def generated(model: Any, prompt: Sequence[int], tokens: int, eos: list[int] | None) -> list[int]:
    """One prompt at a time through transformers.generate, greedy and unpadded."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, eos_token_id=eos
    )
    return out[0, len(prompt) :].tolist()


def forward_logprobs(model: Any, prompt: Sequence[int], written: Sequence[int], temperature: float) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *written]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits / temperature, dim=-1)


@pytest.mark.parametrize("shared", [0, 20])
def test_greedy_equals_generate(any_model: Any, shared: int) -> None:
    prompts = prompts_of(5, 1, 12, 9, 3, 7, shared=shared)
    for eos in (EOS, None):
        ours = run(any_model, prompts, eos_token_ids=eos or [])
        assert [row.token_ids for [row] in ours] == [generated(any_model, p, 24, eos) for p in prompts]


def test_rows_end_at_different_lengths(llama: Any) -> None:
    # Guards the test above: without early leavers it would not show that leaving is right.
    rows = [
        row
        for group in run(llama, prompts_of(5, 1, 12, 9), temperature=1.0, samples_per_prompt=8, seed=0)
        for row in group
    ]
    assert len({len(row.token_ids) for row in rows}) > 5
    assert {row.finish_reason for row in rows} == {"stop", "length"}
    for row in rows:
        assert (row.token_ids[-1] in EOS) == (row.finish_reason == "stop")
        assert not set(row.token_ids[:-1]) & set(EOS)
        assert len(row.logprobs) == len(row.token_ids)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_logprobs_equal_a_fresh_forward_pass(any_model: Any, temperature: float) -> None:
    prompts = prompts_of(5, 1, 12, 5, shared=18)
    groups = run(any_model, prompts, temperature=temperature, samples_per_prompt=4, top_p=0.9, seed=1)
    for prompt, group in zip(prompts, groups, strict=True):
        for row in group:
            fresh = forward_logprobs(any_model, prompt, row.token_ids, temperature or 1.0)
            expected = fresh[range(len(row.token_ids)), row.token_ids]
            torch.testing.assert_close(torch.tensor(row.logprobs), expected, atol=1e-4, rtol=0)


def test_top_alternatives_are_the_likeliest_of_the_model(llama: Any) -> None:
    [prompt] = prompts_of(6)
    [[row]] = run(llama, [prompt], top_logprobs=3, temperature=0.8, seed=0)
    fresh = forward_logprobs(llama, prompt, row.token_ids, 0.8)
    assert row.top is not None and len(row.top) == len(row.token_ids)
    for top, all_logprobs in zip(row.top, fresh, strict=True):
        values, ids = all_logprobs.topk(3)
        assert list(top) == ids.tolist()
        assert list(top.values()) == pytest.approx(values.tolist(), abs=1e-4)
    assert run(llama, [prompt], top_logprobs=None)[0][0].top is None
    assert run(llama, [prompt], top_logprobs=0)[0][0].top[0] == {}


def test_long_completions_outgrow_the_first_block(llama: Any) -> None:
    [prompt] = prompts_of(4)
    [[row]] = run(llama, [prompt], eos_token_ids=[], max_new_tokens=300)
    assert row.token_ids == generated(llama, prompt, 300, None)


def test_a_limit_for_each_prompt(llama: Any) -> None:
    prompts = prompts_of(5, 5, 2)
    ours = run(llama, prompts, eos_token_ids=[], max_new_tokens=[1, 9, 4])
    assert [row.token_ids for [row] in ours] == [
        generated(llama, p, n, None) for p, n in zip(prompts, [1, 9, 4], strict=True)
    ]
    assert {row.finish_reason for [row] in ours} == {"length"}


class TestRandomness:
    def test_same_seed_same_samples(self, llama: Any) -> None:
        prompts = prompts_of(5, 8)
        first, again, other = (
            run(llama, prompts, temperature=1.0, samples_per_prompt=4, seed=seed) for seed in (3, 3, 4)
        )
        assert first == again
        assert first != other
        assert len({tuple(row.token_ids) for row in first[0]}) == 4

    def test_without_a_seed_torchs_generator_decides(self, llama: Any) -> None:
        runs = []
        for seed in (5, 5, 6):
            torch.manual_seed(seed)
            runs.append(run(llama, prompts_of(5), temperature=1.0))
        assert runs[0] == runs[1] != runs[2]

    def test_a_prompts_own_seed_holds_in_any_company(self, llama: Any) -> None:
        prompts = prompts_of(5, 8, 3)
        together = run(llama, prompts, temperature=1.0, seed=[7, 8, 9])
        for prompt, seed, group in zip(prompts, [7, 8, 9], together, strict=True):
            [alone] = run(llama, [prompt], temperature=1.0, seed=[seed])
            assert alone[0].token_ids == group[0].token_ids

    @pytest.mark.parametrize("top_p", [1.0, 0.6])
    def test_first_token_follows_the_distribution(self, llama: Any, top_p: float) -> None:
        [prompt] = prompts_of(6)
        n = 4000
        [group] = run(llama, [prompt], samples_per_prompt=n, max_new_tokens=1, temperature=1.5, top_p=top_p, seed=0)
        counts = torch.bincount(torch.tensor([row.token_ids[0] for row in group]), minlength=VOCABULARY)
        probs = forward_logprobs(llama, prompt, [0], 1.5)[0].exp()
        expected = nucleus(probs.tolist(), top_p)
        assert (counts / n).tolist() == pytest.approx(expected, abs=4 * (0.25 / n) ** 0.5)
        assert all(count == 0 for count, p in zip(counts.tolist(), expected, strict=True) if p == 0)


def nucleus(probs: list[float], top_p: float) -> list[float]:
    """The smallest set of likeliest tokens that reaches `top_p`, renormalised; a plain loop."""
    kept: list[float] = [0.0] * len(probs)
    mass = 0.0
    for i in sorted(range(len(probs)), key=lambda i: -probs[i]):
        if mass >= top_p:
            break
        kept[i] = probs[i]
        mass += probs[i]
    return [p / mass for p in kept]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from([0.0, 1e-9, 0.1, 1.0, 3.0]), min_size=2, max_size=12).filter(any),
    st.one_of(st.sampled_from([0.0, 1 - 2**-24]), st.floats(0, 1, exclude_max=True, width=32)),
    st.floats(0.01, 1.0),
)
def test_never_draws_what_has_no_probability(weights: list[float], uniform: float, top_p: float) -> None:
    probs = torch.tensor([weights]) / sum(weights)
    [drawn] = draw(probs, torch.tensor([uniform]), top_p).tolist()
    assert weights[drawn] > 0
    # Everything strictly likelier is kept first, so it must not fill the nucleus by itself.
    assert sum(w for w in weights if w > weights[drawn]) / sum(weights) < top_p + 1e-6


class TestForbid:
    def test_a_token_is_never_written(self, llama: Any) -> None:
        prompts = prompts_of(5, 8)
        banned = {row.token_ids[0] for [row] in run(llama, prompts)}
        table = torch.zeros(1, VOCABULARY, dtype=torch.int32)
        table[0, list(banned)] = -1
        for temperature in (0.0, 1.0):
            groups = run(llama, prompts, temperature=temperature, samples_per_prompt=8, seed=0, forbid=table)
            assert not any(banned & set(row.token_ids) for group in groups for row in group)

    def test_a_pair_is_never_written_but_its_tokens_are(self, llama: Any) -> None:
        prompts = prompts_of(5)
        free = run(llama, prompts, eos_token_ids=[])[0][0].token_ids
        first, second = free[:2]
        table = torch.zeros(2, VOCABULARY, dtype=torch.int32)
        table[:, first] = 1
        table[1, second] = -1
        groups = run(llama, prompts, eos_token_ids=[], temperature=1.5, samples_per_prompt=64, seed=0, forbid=table)
        rows = [row.token_ids for row in groups[0]]
        assert any(first in row for row in rows) and any(second in row for row in rows)
        assert not any(pair == (first, second) for row in rows for pair in pairwise(row))

    def test_logprobs_are_those_of_the_free_model(self, llama: Any) -> None:
        [prompt] = prompts_of(5)
        table = torch.zeros(1, VOCABULARY, dtype=torch.int32)
        table[0, run(llama, [prompt])[0][0].token_ids[0]] = -1
        [[row]] = run(llama, [prompt], forbid=table)
        fresh = forward_logprobs(llama, prompt, row.token_ids, 1.0)
        assert row.logprobs[0] == pytest.approx(float(fresh[0, row.token_ids[0]]), abs=1e-4)
        assert row.logprobs[0] < float(fresh[0].max()) - 1e-3


class TestOnStep:
    def test_sees_every_token_and_ends_rows(self, llama: Any) -> None:
        seen: dict[int, list[int]] = {}
        logprobs: dict[int, list[float]] = {}

        def stop_row_2_after_three(step: Step) -> Collection[int]:
            for row, token, logprob in zip(step.rows, step.token_ids, step.logprobs, strict=True):
                seen.setdefault(row, []).append(token)
                logprobs.setdefault(row, []).append(logprob)
            return [2] if len(seen[2]) == 3 else []

        groups = run(
            llama, prompts_of(5, 9), temperature=1.0, samples_per_prompt=3, seed=2, on_step=stop_row_2_after_three
        )
        rows = [row for group in groups for row in group]
        assert {i: row.token_ids for i, row in enumerate(rows)} == seen
        assert {i: row.logprobs for i, row in enumerate(rows)} == logprobs
        assert len(rows[2].token_ids) == 3
        assert rows[2].finish_reason == "stop"

    def test_an_error_of_the_callback_comes_through_and_leaves_the_model_as_it_was(self, llama: Any) -> None:
        def fail(step: Step) -> Collection[int]:
            raise KeyError("mine")

        llama.train()
        try:
            with pytest.raises(KeyError, match="mine"):
                run(llama, prompts_of(5), on_step=fail)
            assert llama.training
        finally:
            llama.eval()


def test_dropout_is_off_while_sampling_in_training_mode() -> None:
    model = make(LlamaConfig(**SMALL, num_key_value_heads=4, attention_dropout=0.9))
    expected = run(model, prompts_of(5))
    model.train()
    assert run(model, prompts_of(5)) == expected
    assert model.training


def test_equal_prompts_are_read_once(llama: Any) -> None:
    sizes: list[tuple[int, ...]] = []
    hook = llama.register_forward_pre_hook(
        lambda _, __, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        [a, b] = prompts_of(4, 6, shared=20)
        groups = run(llama, [a, b, a], samples_per_prompt=5, max_new_tokens=2, eos_token_ids=[])
    finally:
        hook.remove()
    assert sizes == [(1, 20), (2, 6), (15, 1)]
    assert groups[0] == groups[2] != groups[1]


def test_no_prompts(llama: Any) -> None:
    assert run(llama, []) == []


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[]], {}, "prompt 0 has no tokens"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ([[1]], {"max_new_tokens": [1, 2]}, "2 values for 1 prompts"),
        ([[1]], {"samples_per_prompt": 0}, "samples_per_prompt is 0"),
        ([[1]], {"temperature": -0.5}, "temperature is -0.5"),
        ([[1]], {"top_p": 0.0}, "top_p is 0.0"),
        ([[1]], {"top_p": 1.5}, "top_p is 1.5"),
        ([[1]], {"temperature": 1.0, "seed": [1, 2]}, "seed has 2 values"),
    ],
)
def test_bad_arguments_are_named(llama: Any, prompts: list[list[int]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(llama, prompts, **options)


def test_a_recurrent_model_is_refused() -> None:
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(ConfigError, match="mamba model keeps a"):
        run(make(config), prompts_of(5))
