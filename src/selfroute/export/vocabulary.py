"""A Hugging Face tokenizer as llama.cpp's vocabulary, or the reason why it cannot be one.

llama.cpp has the rules by which text is split before the merges built in and knows them by name. The name is found
from the rules themselves, not from a fingerprint of a published vocabulary: a tokenizer trained by ourselves has a
vocabulary that nobody has seen and still a splitting that llama.cpp knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfroute.errors import ConfigError

__all__ = ["Vocabulary", "overlapping", "pre_tokenizer", "vocabulary"]

_DIGITS = r"\p{N}"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# What splits the text, one regex after the other, and whether a word of the vocabulary is taken whole.
_NAMES: Mapping[tuple[tuple[str, ...], bool], str] = {
    ((_GPT2,), False): "gpt-2",
    ((_DIGITS, _GPT2), False): "smollm",
    ((_WORDS % r"\p{N}{1,3}",), True): "llama-bpe",
    ((_WORDS % r"\p{N}{1,3}",), False): "smaug-bpe",
    ((_WORDS % _DIGITS,), False): "qwen2",
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What llama.cpp has to know of a tokenizer, its merges and marks aside.

    Attributes:
        pre: llama.cpp's name for the splitting.
        tokens: by id; added tokens as they are written, others in GPT-2's alphabet of bytes.
        types: one of `gguf.TokenType` for each.
    """

    pre: str
    tokens: list[str]
    types: list[int]


def vocabulary(tokenizer: Mapping[str, Any], size: int) -> Vocabulary:
    """Read a `tokenizer.json`.

    Args:
        size: rows of the model's embedding; those without a token are filled up with unused ones.

    Raises:
        ConfigError: llama.cpp would split some text in another way, or has no such vocabulary; says which part.
    """
    from gguf import TokenType

    pre = pre_tokenizer(tokenizer)
    added = list(tokenizer.get("added_tokens") or ())
    _check_added(added)
    known = {int(number): str(text) for text, number in tokenizer["model"]["vocab"].items()}
    kinds = dict.fromkeys(known, TokenType.NORMAL)
    for token in added:
        known[token["id"]] = token["content"]
        kinds[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    if max(known) >= size:
        raise _refused(f"it has a token {max(known)}, the model's embedding only {size} rows")
    return Vocabulary(
        pre,
        [known.get(number, f"[PAD{number}]") for number in range(size)],
        [int(kinds.get(number, TokenType.UNUSED)) for number in range(size)],
    )


def pre_tokenizer(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name for the way in which a `tokenizer.json` splits text.

    Raises:
        ConfigError: llama.cpp knows no such way, or it is no byte-level BPE.
    """
    model = tokenizer["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise _refused(f"it is a {model.get('type')} model, and only byte-level BPE is supported")
    for option in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(option):
            raise _refused(f"its BPE has a {option}")
    normalizer = (tokenizer.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):
        raise _refused(f"llama.cpp has no {normalizer} normalizer")
    splits = tuple(_splits(tokenizer.get("pre_tokenizer") or {"type": "missing"}))
    name = _NAMES.get((splits, bool(model.get("ignore_merges"))))
    if name is None:
        raise _refused(f"llama.cpp knows no pre-splitting by {' then '.join(splits) or 'nothing'}")
    return name


def _splits(step: Mapping[str, Any]) -> Iterator[str]:
    """The regexes by which a step splits; for one that is no such regex its name, which no name of llama.cpp fits."""
    kind = step["type"]
    if kind == "Sequence":
        for inner in step["pretokenizers"]:
            yield from _splits(inner)
    elif kind == "Digits" and step.get("individual_digits"):
        yield _DIGITS
    elif kind == "ByteLevel" and not step.get("add_prefix_space"):
        # Without its regex it only spells bytes.
        yield from [_GPT2] if step.get("use_regex", True) else []
    elif kind == "Split" and step["behavior"] == "Isolated" and not step.get("invert") and "Regex" in step["pattern"]:
        yield step["pattern"]["Regex"]
    else:
        yield f"'{kind}'"


def _check_added(added: Sequence[Mapping[str, Any]]) -> None:
    for token in added:
        for option in ("single_word", "lstrip", "rstrip"):
            if token.get(option):
                raise _refused(f"its added token {token['content']!r} is {option}")


def overlapping(tokenizer: Mapping[str, Any]) -> tuple[str, str] | None:
    """Two added tokens that llama.cpp tells apart in another way where the end of one begins the other.

    transformers takes the one that begins first, llama.cpp the longest: they agree if the first is the longest.
    """
    texts = [token["content"] for token in tokenizer.get("added_tokens") or ()]
    encoded = [text.encode() for text in texts]
    for left in encoded:
        for right in encoded:
            shared = range(1, min(len(left), len(right)))
            if left != right and len(left) <= len(right) and any(left.endswith(right[:n]) for n in shared):
                return left.decode(), right.decode()
    return None


def _refused(reason: str) -> ConfigError:
    return ConfigError(f"llama.cpp cannot read this tokenizer as it is: {reason}; --format hf still works")
