"""GGUF files read into transformers: unpacked into plain weights that can be trained and saved.

Importing this module loads no torch. llama.cpp runs the same files as they are and much faster; see
`selfroute.backends.llama_cpp`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfroute.backends.llama_cpp import check_file
from selfroute.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["check_gguf", "gguf_config", "gguf_model", "gguf_tokenizer", "is_gguf"]


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
        ConfigError: as `gguf_config`.
    """
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = _read(AutoTokenizer, check_gguf(path))
    return tokenizer


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
    _parsed.clear()
    network: PreTrainedModel = model
    return network


_parsed: dict[tuple[str, int], Any] = {}


@contextmanager
def _parsed_once() -> Iterator[None]:
    """transformers parses the file anew for configuration, tokenizer and weights, which takes long for a vocabulary of
    49,152 words; with this it gets the parsed file of the last time."""
    gguf: Any = import_module("gguf")
    parse = gguf.GGUFReader

    def kept(path: str) -> Any:
        key = (str(path), Path(path).stat().st_mtime_ns)
        if key not in _parsed:
            _parsed.clear()
            _parsed[key] = parse(path)
        return _parsed[key]

    gguf.GGUFReader = kept
    try:
        yield
    finally:
        gguf.GGUFReader = parse


def _read(kind: Any, file: Path, **options: Any) -> Any:
    try:
        with _parsed_once():
            return kind.from_pretrained(str(file.parent), gguf_file=file.name, **options)
    except Exception as error:  # a damaged file fails in as many ways as the reader has lines
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ConfigError(f"transformers cannot read '{file}': {reason}; is the file whole?") from error
