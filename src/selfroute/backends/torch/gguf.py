"""GGUF files read into transformers: unpacked into plain weights that can be trained and saved.

Importing this module loads no torch. llama.cpp runs the same files as they are and much faster; see
`selfroute.backends.llama_cpp`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from struct import unpack_from
from typing import TYPE_CHECKING, Any

from selfroute.backends.llama_cpp import check_file
from selfroute.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["check_gguf", "gguf_config", "gguf_model", "gguf_tokenizer", "is_gguf"]

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Byte-level BPE whose splitting transformers does not set: llama.cpp's names, and its regexes one after the other.
_SPLITS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "roberta-bpe", "modern-bert"), (_GPT2,)),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), (r"\p{N}", _GPT2)
    ),
}
# Those that take a word of the vocabulary whole, whatever the merges make of it.
_WHOLE_WORDS = frozenset(
    ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken")
)


def is_gguf(place: str | Path) -> bool:
    """Whether a place is named like a GGUF file."""
    return str(place).lower().endswith(".gguf")


def check_gguf(path: str | Path) -> Path:
    """See that a file is GGUF and can be unpacked here.

    Raises:
        ConfigError: it is none, or the package `gguf` is not installed.
    """
    file = Path(path).expanduser()
    check_file(file)
    if find_spec("gguf") is None:
        raise ConfigError(f"'{path}' cannot be unpacked without the package gguf; run: pip install 'gguf>=0.17'")
    return file


def gguf_config(path: str | Path) -> PretrainedConfig:
    """The model's configuration.

    Raises:
        ConfigError: as `check_gguf`, or an architecture that transformers does not read.
    """
    from transformers import AutoConfig

    config: PretrainedConfig = _read(AutoConfig, check_gguf(path))
    return config


def gguf_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer with the chat template of the file.

    Raises:
        ConfigError: as `gguf_config`, or text is split in a way that is not known here.
    """
    from transformers import AutoTokenizer

    file = check_gguf(path)
    tokenizer: PreTrainedTokenizerBase = _read(AutoTokenizer, file)
    _split_as_llama_cpp(tokenizer, file)
    return tokenizer


def _split_as_llama_cpp(tokenizer: Any, file: Path) -> None:
    """Cut text where llama.cpp does before the merges; transformers takes what it does not know for GPT-2's way.

    GPT-2 keeps the digits of a number together, where SmolLM2 and others read them one by one: the same text would be
    other tokens than those that the model was trained on.

    Raises:
        ConfigError: neither this module nor transformers knows the way.
    """
    from tokenizers import Regex, pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    from transformers.integrations.gguf.reader import read_gguf_metadata

    facts, _ = read_gguf_metadata(str(file))
    if facts.get("tokenizer.ggml.model") != "gpt2":
        return
    name, backend = str(facts.get("tokenizer.ggml.pre", "default")), tokenizer.backend_tokenizer
    backend.model.ignore_merges = name in _WHOLE_WORDS
    if name in GGUF_PRE_TOKENIZER_SPLITS:
        return
    if name not in _SPLITS:
        raise ConfigError(
            f"'{file}': its tokenizer splits text the way '{name}', which is not known here, and other tokens than it "
            "was trained on would be read; name the folder or repository that the file was made from"
        )
    cuts: list[Any] = [pre_tokenizers.Split(Regex(regex), behavior="isolated") for regex in _SPLITS[name]]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def gguf_model(path: str | Path, *, dtype: torch.dtype, attention: str | None = None) -> PreTrainedModel:
    """The model with all weights unpacked to `dtype`.

    Raises:
        ConfigError: as `gguf_config`.
    """
    from transformers import AutoModelForCausalLM, GgufConfig

    file = check_gguf(path)
    model: Any = _read(
        AutoModelForCausalLM,
        file,
        config=gguf_config(file),
        dtype=dtype,
        attn_implementation=attention,
        quantization_config=GgufConfig(dequantize=True),
    )
    # Nothing is left in blocks; with this mark transformers would neither train nor save the model.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    # peft looks for a config.json there at every checkpoint; a folder of GGUF files has none.
    model.name_or_path = model.config.name_or_path = ""
    _parsed.clear()
    network: PreTrainedModel = model
    return network


_parsed: dict[tuple[str, int], Any] = {}


@contextmanager
def _parsed_once() -> Iterator[None]:
    """transformers parses the file anew for configuration, tokenizer and weights, which takes long for a vocabulary of
    49,152 words, and makes gguf's table of names anew for every module of the network; with this it gets what it got
    the last time."""
    gguf: Any = import_module("gguf")
    whole, name_map = gguf.GGUFReader, gguf.get_tensor_name_map
    parse = _without_texts(whole)

    def kept(path: str) -> Any:
        key = (str(path), Path(path).stat().st_mtime_ns)
        if key not in _parsed:
            _parsed.clear()
            _parsed[key] = parse(path)
        return _parsed[key]

    gguf.GGUFReader, gguf.get_tensor_name_map = kept, lru_cache(maxsize=1)(name_map)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = whole, name_map


def _without_texts(reader: Any) -> Any:
    """gguf's reader that counts the texts of a list and reads none: transformers takes no more than the number of words
    here, and has another reader for the tokenizer's."""
    kinds: Any = import_module("gguf").GGUFValueType

    class Counting(reader):  # type: ignore[misc]
        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            of_texts = raw_type == kinds.ARRAY and self._get(orig_offs, "u4")[0] == kinds.STRING
            if not of_texts or self.byte_order != "I":  # of a machine with the other order of bytes
                return super()._get_field_parts(orig_offs, raw_type)
            kind, count = self._get(orig_offs, "u4"), self._get(orig_offs + 4, "u8")
            end = orig_offs + 12
            for _ in range(count[0]):
                end += 8 + int(unpack_from("=Q", self.data, end)[0])
            return end - orig_offs, [kind, count, kind[:0].view("u1")], [2] * int(count[0]), [kinds.ARRAY, kinds.STRING]

    return Counting


def _read(kind: Any, file: Path, **options: Any) -> Any:
    try:
        with _parsed_once():
            return kind.from_pretrained(str(file.parent), gguf_file=file.name, **options)
    except Exception as error:  # a damaged file fails in as many ways as the reader has lines
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ConfigError(f"transformers cannot read '{file}': {reason}; is the file whole?") from error
