"""What a training run will hold in memory, by arithmetic alone: no torch, no weights.

The estimate follows Korthikanti et al. (arXiv 2205.05198), counted anew for decoders with rotary positions, grouped
keys, gated feed-forward layers and fused attention, as transformers computes them. It leaves out what no formula
knows: the allocator's gaps, the libraries' own buffers, and the activations that a compiler saves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfroute.errors import ConfigError

__all__ = [
    "Memory",
    "Network",
    "Pass",
    "activation_bytes",
    "cache_bytes",
    "logit_bytes",
    "lora_parameters",
    "network_of",
    "parameters",
    "predict",
]

FULL, HALF = 4, 2  # bytes of float32 and bfloat16
# Bytes of optimiser state per trained parameter, by the beginning of TRL's `optim`; AdamW keeps two float32 numbers.
OPTIMIZER_BYTES = {"sgd": 0, "adafactor": 0, "adamw_8bit": 2, "adamw_bnb_8bit": 2, "paged_adamw_8bit": 2, "adamw": 8}
# Full copies of the logits of a pass: as the model writes them, divided by the temperature, and their gradient.
LOGIT_COPIES = 3


@dataclass(frozen=True, slots=True)
class Network:
    """The sizes of a decoder.

    Attributes:
        query_bias: whether the projections to queries, keys and values have a bias, as Qwen2's.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool = True
    query_bias: bool = False

    @property
    def query_width(self) -> int:
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_size


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward and backward pass, and the rollouts behind it.

    Attributes:
        rows: attempts in the pass.
        prompt: tokens of the longest prompt.
        completion: most tokens of an attempt.
        rollouts: attempts that are written at once.
    """

    rows: int
    prompt: int
    completion: int
    rollouts: int

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one process.

    Attributes:
        weights: with their bfloat16 copy, if there is one.
        gradients: with the buckets that several processes exchange.
        activations: kept by one pass for its way back.
        cache: keys and values of the rollouts; 0 where vLLM holds them in a share of its own.
        reference: a frozen copy of the weights, and what moves it.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    cache: float
    reference: float = 0.0

    @property
    def fixed(self) -> float:
        """What is held all the time."""
        return self.weights + self.gradients + self.optimizer + self.reference

    @property
    def peak(self) -> float:
        """Most at once: rollouts are written before the pass, and their cache is freed."""
        return self.fixed + max(self.activations + self.logits, self.cache)


def network_of(config: Mapping[str, Any]) -> Network:
    """The sizes in a model's `config.json`.

    Raises:
        ConfigError: one of them is missing, as for architectures that are no plain decoders.
    """
    try:
        heads = int(config["num_attention_heads"])
        return Network(
            hidden=int(config["hidden_size"]),
            inner=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_size=int(config.get("head_dim") or config["hidden_size"] // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", True)),
            query_bias=config.get("model_type") == "qwen2" or bool(config.get("attention_bias")),
        )
    except KeyError as error:
        kind = config.get("model_type", "this kind of")
        raise ConfigError(f"no memory estimate for a {kind} model: its configuration has no {error}") from None


def _linears(network: Network) -> tuple[tuple[int, int], ...]:
    """Inputs and outputs of a layer's linear maps."""
    h, i, q, kv = network.hidden, network.inner, network.query_width, network.kv_width
    return (h, q), (h, kv), (h, kv), (q, h), (h, i), (h, i), (i, h)


def parameters(network: Network) -> int:
    """Weights of the whole model."""
    layer = sum(ins * outs for ins, outs in _linears(network)) + 2 * network.hidden
    if network.query_bias:
        layer += network.query_width + 2 * network.kv_width
    tables = network.vocabulary * network.hidden * (1 if network.tied else 2)
    return network.layers * layer + tables + network.hidden


def lora_parameters(network: Network, rank: int) -> int:
    """Weights of an adapter on all linear maps of the layers."""
    return network.layers * sum(rank * (ins + outs) for ins, outs in _linears(network))


def activation_bytes(network: Network, work: Pass, *, half: bool, checkpointing: bool) -> float:
    """What a pass keeps for its way back, logits aside.

    Per token and layer: the inputs of the linear maps and the parts of the gated product in the type of the pass;
    what the two norms read, normalise and pass on in float32; queries, keys and values before and after the rotation.
    With checkpointing only each layer's input stays, and one layer is computed anew at a time.
    """
    part = HALF if half else FULL
    h, i, q, kv = network.hidden, network.inner, network.query_width, network.kv_width
    norms = 2 * (2 * FULL * h + part * h)
    attention = part * (3 * q + 4 * kv)
    gated = part * 4 * i
    layer = norms + attention + gated
    tokens = work.rows * work.tokens
    if checkpointing:
        return float(tokens * (network.layers * FULL * h + layer))
    return float(tokens * (network.layers * layer + 2 * FULL * h))


def logit_bytes(network: Network, work: Pass) -> float:
    """The logits of a pass's completions, in float32."""
    return float(LOGIT_COPIES * FULL * work.rows * (work.completion + 1) * network.vocabulary)


def cache_bytes(network: Network, work: Pass, *, half: bool) -> float:
    """Keys and values of all rollouts that are written at once, each as long as it may be."""
    part = HALF if half else FULL
    return float(2 * network.layers * network.kv_width * work.tokens * work.rollouts * part)


def optimizer_bytes(optim: str) -> int:
    """Bytes of optimiser state per trained parameter."""
    longest = sorted(OPTIMIZER_BYTES, key=len, reverse=True)
    return next((OPTIMIZER_BYTES[name] for name in longest if optim.startswith(name)), OPTIMIZER_BYTES["adamw"])


def predict(
    network: Network,
    work: Pass,
    *,
    total: int,
    trained: int,
    half: bool = False,
    checkpointing: bool = False,
    processes: int = 1,
    sharded: bool = False,
    own_rollouts: bool = True,
    optim: str = "adamw",
    reference: bool = False,
    moving: bool = False,
) -> Memory:
    """Bytes of one process of a run.

    Args:
        total, trained: parameters of the model, and those with a gradient.
        half: passes in bfloat16 over float32 weights.
        checkpointing: activations are computed anew on the way back.
        processes, sharded: under FSDP weights, gradients and optimiser are divided by the processes; one layer is
            whole at a time, with the token table.
        own_rollouts: written here, not by vLLM.
        reference, moving: whether there is a frozen copy of the weights, and whether it has an AdamW of its own.
    """
    parts = processes if sharded else 1
    copies = 2 if processes > 1 and not sharded else 1
    gathered = 0.0
    if sharded and processes > 1:
        table = network.vocabulary * network.hidden
        one = (total - table) / max(1, network.layers) + table
        gathered = one * (HALF if half else FULL)
    copy = 0.0 if not half or sharded else float(HALF * total)
    return Memory(
        weights=FULL * total / parts + copy + gathered,
        gradients=FULL * trained * copies / parts,
        optimizer=float(optimizer_bytes(optim)) * trained / parts,
        activations=activation_bytes(network, work, half=half, checkpointing=checkpointing),
        logits=logit_bytes(network, work),
        cache=cache_bytes(network, work, half=half) if own_rollouts else 0.0,
        reference=float(reference) * (FULL + moving * (FULL + optimizer_bytes("adamw"))) * total,
    )
