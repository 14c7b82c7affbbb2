"""A tokenizer as llama.cpp's vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from gguf import TokenType
from tests.export.tiny import tokenizer

from selfroute.errors import ConfigError
from selfroute.export.vocabulary import overlapping, pre_tokenizer, vocabulary
from selfroute.handoff import HANDOFF_TEXT
from selfroute.prompts import TEMPLATES

OURS: dict[str, Any] = json.loads(tokenizer().backend_tokenizer.to_str())
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
WORDS = {**BYTES, "use_regex": True}
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def split(regex: str) -> dict[str, Any]:
    first = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [first, BYTES]}


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    made = deepcopy(OURS)
    change(made)
    return made


def test_the_embedded_tokenizer_splits_like_smollm() -> None:
    assert pre_tokenizer(OURS) == "smollm"


@pytest.mark.parametrize(
    ("steps", "whole_words", "name"),
    [
        (WORDS, False, "gpt-2"),
        (split(QWEN2), False, "qwen2"),
        (split(LLAMA3), True, "llama-bpe"),
        (split(LLAMA3), False, "smaug-bpe"),
    ],
)
def test_names_of_splittings(steps: dict[str, Any], whole_words: bool, name: str) -> None:
    made = changed(lambda t: (t.update(pre_tokenizer=steps), t["model"].update(ignore_merges=whole_words)))
    assert pre_tokenizer(made) == name


def test_composed_characters_are_allowed() -> None:
    assert pre_tokenizer(changed(lambda t: t.update(normalizer={"type": "NFC"}))) == "smollm"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update(pre_tokenizer=None), "knows no pre-splitting by 'missing'"),
        (lambda t: t.update(pre_tokenizer=BYTES), "knows no pre-splitting by nothing"),
        (lambda t: t.update(pre_tokenizer=split(r"\w+")), r"knows no pre-splitting by \\w\+"),
        (lambda t: t.update(pre_tokenizer={"type": "WhitespaceSplit"}), "knows no pre-splitting by 'WhitespaceSplit'"),
        (lambda t: t.update(pre_tokenizer={**WORDS, "add_prefix_space": True}), "by 'ByteLevel'"),
        (lambda t: t["model"].update(ignore_merges=True), "knows no pre-splitting"),
        (lambda t: t["model"].update(type="Unigram"), "it is a Unigram model"),
        (lambda t: t["model"].update(byte_fallback=True), "only byte-level BPE"),
        (lambda t: t["model"].update(end_of_word_suffix="</w>"), "its BPE has a end_of_word_suffix"),
        (lambda t: t.update(normalizer={"type": "Lowercase"}), "no Lowercase normalizer"),
        (lambda t: t["added_tokens"][3].update(rstrip=True), "is rstrip"),
    ],
)
def test_what_llama_cpp_would_split_differently(change: Callable[[dict[str, Any]], object], words: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot read this tokenizer as it is: .*{words}.*--format hf still works"):
        vocabulary(changed(change), 1000)


def test_kinds_of_tokens() -> None:
    made = vocabulary(OURS, len(tokenizer()) + 2)
    kinds = dict(zip(made.tokens, made.types, strict=True))
    assert kinds["<|im_end|>"] == TokenType.CONTROL
    assert kinds[HANDOFF_TEXT] == kinds["assistant\n"] == TokenType.USER_DEFINED
    assert kinds["Ġa"] == TokenType.NORMAL
    assert made.tokens[-1] == f"[PAD{len(made.tokens) - 1}]" and made.types[-2:] == [TokenType.UNUSED] * 2
    assert made.tokens[: len(tokenizer())] == tokenizer().convert_ids_to_tokens(range(len(tokenizer())))


def test_an_embedding_that_is_too_small() -> None:
    with pytest.raises(ConfigError, match="a token 484, the model's embedding only 100 rows"):
        vocabulary(OURS, 100)


def test_added_tokens_that_overlap_are_found() -> None:
    template = TEMPLATES["think"]
    after = template.user.removeprefix("{question}")
    first, second = overlapping(OURS) or ("", "")
    assert first == after and second.startswith(". You can use")
    kept = [token for token in OURS["added_tokens"] if not token["content"].startswith(". You")]
    assert overlapping({**OURS, "added_tokens": kept}) is None
