"""Tokenizers of GGUF files, against llama.cpp's own reading of the same file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.export.tiny import model

from selfroute.errors import ConfigError

pytest.importorskip("gguf", reason="gguf is not installed; pip install 'selfroute[export]'")

# Merges that join what a splitting keeps apart: digits with digits, with the space before them, and with letters.
MERGES = [("1", "2"), ("Ġ", "1"), ("Ġ", "Ġ"), ("a", "b"), ("Ġ", "ab"), ("12", "3"), ("'", "s"), ("ab", "1"), ("4", "5")]
TEXTS = [
    "What is 123 + 4567?",
    "x:  12  45",
    " 1",
    "ab12 ab's  3rd\n\n 7",
    "1212345 12,345.6",
    "² ٣ 12",
]


def words(kind: str) -> Any:
    """A byte-level tokenizer that splits like a named one."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    whole = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    llama3 = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+"
    )
    steps = {
        "gpt-2": [whole],
        "smollm": [pre_tokenizers.Digits(individual_digits=True), whole],
        "llama-bpe": [pre_tokenizers.Split(Regex(llama3), behavior="isolated"), bare],
    }
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = ["<|end|>", *alphabet, *("".join(pair) for pair in MERGES)]
    made = Tokenizer(
        models.BPE({text: i for i, text in enumerate(vocabulary)}, MERGES, ignore_merges=kind == "llama-bpe")
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(steps[kind])
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="<|end|>",
        pad_token="<|end|>",
        chat_template="{% for message in messages %}{{ message['content'] }} {% endfor %}",
    )


def written(kind: str, folder: Path) -> tuple[Any, Path]:
    from selfroute.export.run import export

    tokenizer = words(kind)
    export(model("llama", tokenizer), tokenizer, folder, name="tiny", formats=["gguf"], types=["f16"])
    return tokenizer, folder / "tiny-f16.gguf"


def post(url: str, body: dict[str, Any]) -> Any:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as response:
        return json.load(response)


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe"])
def test_a_tokenizer_is_read_as_llama_cpp_reads_it(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed; pip install 'selfroute[llamacpp]'")
    from selfroute.backends.llama_cpp import LlamaCppBackend
    from selfroute.backends.torch.gguf import gguf_tokenizer

    _, file = written(kind, tmp_path)
    read = gguf_tokenizer(file)
    with LlamaCppBackend(file, slots=1, context_tokens=256, threads=1) as backend:
        url = f"{backend.base_url.removesuffix('/v1')}/tokenize"
        for text in TEXTS:
            theirs = post(url, {"content": text, "add_special": False, "parse_special": True})["tokens"]
            assert read(text, add_special_tokens=False)["input_ids"] == theirs, text


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    from selfroute.backends.torch.gguf import gguf_tokenizer

    original, file = written("smollm", tmp_path_factory.mktemp("digits"))
    return original, gguf_tokenizer(file)


@settings(deadline=None)
@given(st.text(alphabet="12 ab's.\n٣²", max_size=12))
def test_what_was_exported_is_read_again(both: tuple[Any, Any], text: str) -> None:
    original, read = both
    assert read(text)["input_ids"] == original(text)["input_ids"]


def test_a_splitting_that_nobody_here_knows_is_named(tmp_path: Path) -> None:
    from selfroute.backends.torch.gguf import gguf_tokenizer

    _, file = written("smollm", tmp_path)
    content = file.read_bytes()
    assert content.count(b"smollm") == 1
    file.write_bytes(content.replace(b"smollm", b"klingo"))
    with pytest.raises(ConfigError, match="its tokenizer splits text the way 'klingo', which is not known here"):
        gguf_tokenizer(file)


@pytest.mark.parametrize("says", [True, False])
def test_weights_and_the_number_of_words_are_read(says: bool, tmp_path: Path) -> None:
    """Where the file does not say how many words there are, they are counted."""
    import torch

    from selfroute.backends.torch.gguf import gguf_config, gguf_model
    from selfroute.export.run import export

    tokenizer = words("smollm")
    made = model("llama", tokenizer)
    export(made, tokenizer, tmp_path, name="tiny", formats=["gguf"], types=["f16"])
    file = tmp_path / "tiny-f16.gguf"
    if not says:
        file.write_bytes(file.read_bytes().replace(b"llama.vocab_size", b"llama.other_size"))
    assert gguf_config(file).vocab_size == made.config.vocab_size
    read = gguf_model(file, dtype=torch.float32).state_dict()
    for name, weight in made.state_dict().items():
        assert torch.allclose(read[name], weight, atol=1e-3), name
