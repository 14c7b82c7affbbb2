"""A model's weights under llama.cpp's names, in llama.cpp's order, in a type of GGUF.

Pure: names, shapes and numbers. Files are the matter of `selfroute.export.gguf_file`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selfroute.errors import ConfigError

if TYPE_CHECKING:
    from gguf import MODEL_ARCH, GGMLQuantizationType

__all__ = ["ARCHITECTURES", "TYPES", "Plan", "architecture", "encode", "permute", "plan", "rope_factors", "storage"]

Array = NDArray[Any]
Shape = tuple[int, ...]

# `model_type` in config.json, and its name in `gguf.MODEL_ARCH`.
ARCHITECTURES: Mapping[str, str] = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
TYPES = ("f16", "q8_0")


@dataclass(frozen=True, slots=True)
class Plan:
    """Where one tensor goes.

    Attributes:
        source: its name in the model's `state_dict`.
        name: its name in GGUF.
        heads: for queries and keys that have to be permuted, their number of heads; else 0.
    """

    source: str
    name: str
    heads: int = 0


def architecture(config: Mapping[str, Any]) -> MODEL_ARCH:
    """llama.cpp's architecture of a `config.json`.

    Raises:
        ConfigError: not supported, or with a part that llama.cpp does not compute.
    """
    from gguf import MODEL_ARCH

    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES:
        raise ConfigError(
            f"unsupported architecture '{kind}'; GGUF is written for {', '.join(ARCHITECTURES)}; --format hf works"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise ConfigError(f"unsupported activation '{config['hidden_act']}'; llama.cpp computes {kind} with silu")
    if config.get("use_sliding_window"):
        raise ConfigError(f"unsupported: {kind} with a sliding window; llama.cpp computes it with full attention")
    return MODEL_ARCH[ARCHITECTURES[kind]]


def plan(config: Mapping[str, Any], names: Mapping[str, Shape]) -> list[Plan]:
    """Where each tensor goes, in the model's own order.

    Args:
        config: the model's `config.json`.
        names: names and shapes of its `state_dict`.

    Raises:
        ConfigError: a tensor that the architecture does not have, as of an adapter that was not merged.
    """
    from gguf import get_tensor_name_map

    arch = architecture(config)
    known = get_tensor_name_map(arch, int(config["num_hidden_layers"]))
    planned = []
    for source in names:
        if source == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue  # llama.cpp takes the embedding
        name = known.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ConfigError(f"the model has a tensor '{source}', which {arch.name} does not have in llama.cpp")
        planned.append(Plan(source, name, _heads(config, source)))
    return planned


def _heads(config: Mapping[str, Any], source: str) -> int:
    """transformers rotates pairs half a head apart, llama.cpp's LLAMA neighbours: queries and keys change places."""
    if config["model_type"] != "llama":
        return 0
    heads = int(config["num_attention_heads"])
    if ".self_attn.q_proj." in source:
        return heads
    return int(config.get("num_key_value_heads") or heads) if ".self_attn.k_proj." in source else 0


def permute(weights: Array, heads: int) -> Array:
    """Queries or keys of shape (heads · size, …) from transformers' order to that of llama.cpp's LLAMA."""
    if heads == 0:
        return weights
    size = weights.shape[0] // heads
    halves = weights.reshape(heads, 2, size // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def storage(shape: Shape, kind: str) -> GGMLQuantizationType:
    """How a tensor is stored: vectors in F32, matrices in `kind`, or in F16 if their rows do not divide into blocks."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if len(shape) == 1:
        return GGMLQuantizationType.F32
    wanted = GGMLQuantizationType[kind.upper()]
    return wanted if shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0 else GGMLQuantizationType.F16


def encode(weights: Array, kind: GGMLQuantizationType, name: str) -> Array:
    """Weights in float32 in a type of GGUF.

    Raises:
        ConfigError: a weight that is not finite, or that F16 cannot hold.
    """
    from gguf import GGMLQuantizationType, quants

    largest = float(np.abs(weights).max(initial=0.0))
    if not np.isfinite(largest):
        raise ConfigError(f"tensor '{name}' has weights that are not finite; the training has failed")
    # A block of Q8_0 has a scale in F16, 1/127 of its largest weight.
    most = float(np.finfo(np.float16).max) * (127 if kind is GGMLQuantizationType.Q8_0 else 1)
    if kind is not GGMLQuantizationType.F32 and largest > most:
        raise ConfigError(f"tensor '{name}' has a weight of {largest:.3g}, which {kind.name} cannot hold")
    return quants.quantize(np.ascontiguousarray(weights, dtype=np.float32), kind)


def rope_factors(config: Mapping[str, Any], frequencies: Array) -> Array | None:
    """By what llama.cpp has to divide its rotary frequencies to get those of the model; None if they are the same.

    Args:
        frequencies: of the model, half a head of them.

    Raises:
        ConfigError: they change with the length of the text, or llama.cpp would compute others.
    """
    rope = config["rope_parameters"]
    kind, half = rope.get("rope_type", "default"), len(frequencies)
    plain = float(rope["rope_theta"]) ** -(np.arange(half, dtype=np.float64) / half)
    factors = plain / frequencies.astype(np.float64)
    if np.allclose(factors, 1.0, rtol=1e-5):
        return None
    if kind != "llama3" or config["model_type"] != "llama":
        raise ConfigError(f"unsupported rotary embedding '{kind}' of a {config['model_type']} model; --format hf works")
    return factors.astype(np.float32)
