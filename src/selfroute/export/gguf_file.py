"""One GGUF file: what stands in its head, and its tensors one by one, so that one at a time is in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfroute.backends.carried import GGUF_KEY
from selfroute.export import tensors
from selfroute.export.tensors import Array
from selfroute.export.vocabulary import Vocabulary, vocabulary

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

__all__ = ["GGUFModel", "check", "write_gguf"]

_ROPE_FREQS = "rope_freqs.weight"


@dataclass(frozen=True, slots=True)
class GGUFModel:
    """A model as `write_gguf` takes it.

    Attributes:
        name: shown by llama.cpp.
        config: its `config.json`.
        shapes: of its `state_dict`.
        read: the tensor of a name, in float32.
        frequencies: rotary frequencies, half a head of them.
        folder: holds its `tokenizer.json`, `tokenizer_config.json` and chat template.
        add_bos: whether a prompt begins with the beginning-of-sequence token.
        ends: tokens that end an answer, the tokenizer's own first.
        prompt: that of its training, as `selfroute.prompts.TrainedPrompt.text` writes it; empty if it is not known.
    """

    name: str
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Array]
    frequencies: Array
    folder: Path
    add_bos: bool
    ends: tuple[int, ...]
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    read: Callable[[], Array]


def write_gguf(model: GGUFModel, path: Path, kind: str, on_tensor: Callable[[], None] = lambda: None) -> None:
    """Write a model to `path`, which may hold a part of it if this fails.

    Args:
        kind: one of `selfroute.export.tensors.TYPES`.
        on_tensor: called after each tensor.

    Raises:
        ConfigError: llama.cpp cannot have this model or its tokenizer; says why. Nothing is written then.
        ModuleNotFoundError: the package gguf is not installed.
    """
    from gguf import MODEL_ARCH_NAMES, GGUFWriter

    arch = tensors.architecture(model.config)
    words = vocabulary(_json(model.folder / "tokenizer.json"), int(model.config["vocab_size"]))
    listed = list(_tensors(model, kind))
    writer = GGUFWriter(path, MODEL_ARCH_NAMES[arch])
    try:
        _add_model(writer, model, kind)
        _add_vocabulary(writer, model, words)
        for tensor in listed:
            writer.add_tensor_info(tensor.name, *_stored(tensor), raw_dtype=tensor.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in listed:
            writer.write_tensor_data(tensors.encode(tensor.read(), tensor.kind, tensor.name))
            on_tensor()
    finally:
        writer.close()


def check(model: GGUFModel) -> None:
    """Refuse what `write_gguf` would refuse, without reading a weight.

    Raises:
        ConfigError: as `write_gguf`.
    """
    vocabulary(_json(model.folder / "tokenizer.json"), int(model.config["vocab_size"]))
    list(_tensors(model, tensors.TYPES[0]))


def _json(file: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return read


def _tensors(model: GGUFModel, kind: str) -> Iterator[_Tensor]:
    factors = tensors.rope_factors(model.config, model.frequencies)
    if factors is not None:
        yield _Tensor(_ROPE_FREQS, factors.shape, tensors.storage(factors.shape, kind), lambda: factors)
    for one in tensors.plan(model.config, model.shapes):
        shape = model.shapes[one.source]

        def read(one: tensors.Plan = one) -> Array:
            return tensors.permute(model.read(one.source), one.heads)

        yield _Tensor(one.name, shape, tensors.storage(shape, kind), read)


def _stored(tensor: _Tensor) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and bytes of what will be written, as the writer wants them: of blocks, the shape is in bytes."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    plain = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}.get(tensor.kind, np.uint8)
    items, size = GGML_QUANT_SIZES[tensor.kind]
    count = int(np.prod(tensor.shape)) // items * size
    if plain is np.uint8:
        return (*tensor.shape[:-1], tensor.shape[-1] // items * size), np.dtype(plain), count
    return tensor.shape, np.dtype(plain), count


def _add_model(writer: GGUFWriter, model: GGUFModel, kind: str) -> None:
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    config = model.config
    heads = int(config["num_attention_heads"])
    size = int(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_type("model")
    writer.add_name(model.name)
    if model.prompt:
        writer.add_string(GGUF_KEY, model.prompt)
    writer.add_file_type(LlamaFileType[f"MOSTLY_{kind.upper()}"])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float(config["rope_parameters"]["rope_theta"]))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))


def _add_vocabulary(writer: GGUFWriter, model: GGUFModel, words: Vocabulary) -> None:
    from gguf import SpecialVocab

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    marks = SpecialVocab(model.folder, load_merges=True, n_vocab=len(words.tokens))
    # What precedes a prompt is read off the prompt itself: the tokenizer's own habit may differ from the template's.
    marks.add_special_token = {"bos": model.add_bos, "eos": False}
    # The first two further ends of an answer have names of their own: end of turn, end of message.
    marks.special_token_ids |= dict(zip(("eos", "eot", "eom"), model.ends, strict=False))
    marks.add_to_gguf(writer, quiet=True)
