"""Tiny models as GGUF: read back tensor for tensor, and by llama.cpp."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, dequantize
from tests.export.tiny import LLAMA3_ROPE, model, tokenizer

from selfroute.export.run import export
from selfroute.export.tensors import permute
from selfroute.handoff import HANDOFF_TEXT
from selfroute.tasks.countdown import Countdown, question

WORDS = tokenizer()
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, untied, with biases": ("llama", {"tie_word_embeddings": False, "attention_bias": True}),
    "llama with llama3's rotary embedding": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16, "tie_word_embeddings": False}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind: str) -> Any:
    arch, options = KINDS[kind]
    return model(arch, WORDS, **options)


def fields(reader: GGUFReader) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items()}


@every_kind
def test_every_tensor_comes_back(kind: str, tmp_path: Path) -> None:
    source = made(kind)
    export(source, WORDS, tmp_path / "out", name="tiny", formats=["gguf"])
    state = {name: weight.numpy() for name, weight in source.state_dict().items()}
    if source.config.tie_word_embeddings:
        del state["lm_head.weight"]
    heads = {"attn_q": 4, "attn_k": 2} if kind.startswith("llama") else {}
    for kind_of_file, tolerance in (("f16", 1e-3), ("q8_0", 1e-2)):
        read = {one.name: one for one in GGUFReader(tmp_path / "out" / f"tiny-{kind_of_file}.gguf").tensors}
        seen = set()
        for name, part in PARTS.items():
            for layer in range(2) if "{}" in name else [0]:
                if (expected := state.get(part.format(layer))) is None:
                    continue
                tensor = read[name.format(layer)]
                seen.add(tensor.name)
                expected = permute(expected, heads.get(name.split(".")[-2], 0))
                found = dequantize(tensor.data, tensor.tensor_type).reshape(expected.shape)
                assert tensor.tensor_type == stored(expected, kind_of_file), tensor.name
                np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
        assert seen == set(read) - {"rope_freqs.weight"}


def stored(weights: np.ndarray[Any, Any], kind: str) -> GGMLQuantizationType:
    """Vectors are exact; the rows of 48 of `ffn_down` do not divide into blocks of 32."""
    if weights.ndim == 1:
        return GGMLQuantizationType.F32
    return GGMLQuantizationType.F16 if kind == "f16" or weights.shape[1] % 32 else GGMLQuantizationType.Q8_0


# GGUF's names and transformers'; written out here, so that a mistake of the package's table would show.
PARTS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "blk.{}.attn_norm.weight": "model.layers.{}.input_layernorm.weight",
    "blk.{}.ffn_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    "blk.{}.attn_q_norm.weight": "model.layers.{}.self_attn.q_norm.weight",
    "blk.{}.attn_k_norm.weight": "model.layers.{}.self_attn.k_norm.weight",
    **{
        f"blk.{{}}.{ours}.{end}": f"model.layers.{{}}.{theirs}.{end}"
        for ours, theirs in {
            "attn_q": "self_attn.q_proj",
            "attn_k": "self_attn.k_proj",
            "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_gate": "mlp.gate_proj",
            "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj",
        }.items()
        for end in ("weight", "bias")
    },
}


def test_the_head_of_the_file(tmp_path: Path) -> None:
    export(made("qwen2"), WORDS, tmp_path / "out", name="tiny", formats=["gguf"], types=["q8_0"])
    found = fields(GGUFReader(tmp_path / "out" / "tiny-q8_0.gguf"))
    expected = {
        "general.architecture": "qwen2",
        "general.name": "tiny",
        "general.file_type": 7,
        "qwen2.context_length": 512,
        "qwen2.embedding_length": 32,
        "qwen2.block_count": 2,
        "qwen2.feed_forward_length": 48,
        "qwen2.attention.head_count": 4,
        "qwen2.attention.head_count_kv": 2,
        "qwen2.attention.key_length": 8,
        "qwen2.rope.dimension_count": 8,
        "qwen2.rope.freq_base": 10_000.0,
        "qwen2.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": WORDS.bos_token_id,
        "tokenizer.ggml.eos_token_id": WORDS.eos_token_id,
        "tokenizer.ggml.padding_token_id": WORDS.pad_token_id,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": WORDS.chat_template,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert len(found["tokenizer.ggml.tokens"]) == len(WORDS) + 3
    assert len(found["tokenizer.ggml.merges"]) > 100


def test_eight_bits_take_about_half_the_space(tmp_path: Path) -> None:
    source = model("llama", WORDS, hidden_size=64, intermediate_size=96, head_dim=16)
    export(source, WORDS, tmp_path / "out", name="tiny", formats=["gguf"])
    weights = sum(weight.numel() for weight in source.parameters())
    for kind, bits in (("f16", 16), ("q8_0", 8.5)):
        reader = GGUFReader(tmp_path / "out" / f"tiny-{kind}.gguf")
        assert sum(int(one.n_bytes) for one in reader.tensors) == pytest.approx(weights * bits / 8, rel=0.02)


def conversations(count: int) -> list[list[dict[str, str]]]:
    problems = Countdown(limit=count).problems("test", count)
    asked = [[{"role": "user", "content": question(one.numbers, one.target)}] for one in problems]
    odd = "Größe 1234,5 – it's  two\n\n\tlines 你好 🙂"
    return [*asked, [{"role": "system", "content": f"{HANDOFF_TEXT}<think>"}, {"role": "user", "content": odd}]]


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def next_token(source: Any, prompt: list[int]) -> list[float]:
    """Log-probabilities of what comes next."""
    import torch

    with torch.no_grad():
        return list(source(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1).tolist())


@every_kind
def test_llama_cpp_reads_and_computes_the_same(kind: str, tmp_path: Path) -> None:
    """All of it: the names, the order of the heads, biases, rotary frequencies, the tokenizer, the template."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed; pip install 'selfroute[llamacpp]'")
    from selfroute.backends.llama_cpp import LlamaCppBackend

    source = made(kind)
    export(source, WORDS, tmp_path / "out", name="tiny", formats=["gguf"], types=["f16"])
    with LlamaCppBackend(tmp_path / "out" / "tiny-f16.gguf", slots=1, context_tokens=256, threads=1) as backend:
        base = backend.base_url.removesuffix("/v1")
        for messages in conversations(5):
            text = WORDS.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = WORDS(text, add_special_tokens=False)["input_ids"]
            assert post(f"{base}/apply-template", {"messages": messages})["prompt"] == text
            read = post(f"{base}/tokenize", {"content": text, "add_special": True, "parse_special": True})
            assert read["tokens"] == ids
            # llama.cpp tells no probabilities of a piece of a character: "a" is written, whatever the model says.
            asked = {"prompt": ids, "n_predict": 1, "n_probs": 20, "logit_bias": [["a", 1000.0]], "cache_prompt": False}
            (found,) = post(f"{base}/completion", asked)["completion_probabilities"]
            expected = next_token(source, ids)
            likeliest = {one["id"]: one["logprob"] for one in found["top_logprobs"]}
            assert len(likeliest) == 20
            # The weights are rounded to F16; a head in the wrong order, or a bias left out, moves them by more.
            assert likeliest == pytest.approx({token: expected[token] for token in likeliest}, abs=0.2)
