"""Pretrained models for training: loaded from a folder, the hub or a GGUF file, with all weights or by LoRA."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from selfroute.backends.torch.chat import keep_system_turn
from selfroute.backends.torch.gguf import gguf_config, gguf_model, gguf_tokenizer, is_gguf
from selfroute.errors import ConfigError

__all__ = [
    "ADAPTER",
    "add_adapter",
    "check_checkpoint",
    "from_adapter",
    "load_config",
    "load_network",
    "load_tokenizer",
    "lora_config",
    "merged",
    "outline",
    "with_adapter",
]

ADAPTER = "adapter"  # folder of a LoRA run's adapter
ALL_LINEAR = "all-linear"
LoraTask = Literal["CAUSAL_LM", "SEQ_CLS"]
# What two checkpoints must agree in to be of one model.
SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")


def load_config(model: str) -> PretrainedConfig:
    """Configuration of a folder, a hub repository or a GGUF file.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    if is_gguf(model):
        return gguf_config(model)
    config: PretrainedConfig = _reached(AutoConfig, model, "model")
    return config


def load_tokenizer(tokenizer: str, config: PretrainedConfig | None = None) -> PreTrainedTokenizerBase:
    """A tokenizer that a policy can be trained with.

    Args:
        config: of the model that it shall fit.

    Raises:
        ConfigError: it cannot be read, has no chat template or one that writes no prompt, or has more tokens than the
            model.
    """
    words: PreTrainedTokenizerBase = (
        gguf_tokenizer(tokenizer) if is_gguf(tokenizer) else _reached(AutoTokenizer, tokenizer, "tokenizer")
    )
    if words.chat_template is None:
        raise ConfigError(f"the tokenizer of '{tokenizer}' has no chat template; train an instruct model")
    keep_system_turn(words, where=tokenizer)
    known = None if config is None else config.get_text_config().vocab_size
    if known is not None and len(words) > known:
        raise ConfigError(
            f"the tokenizer of '{tokenizer}' has {len(words)} tokens and the model's table {known}: they are not of "
            "one model"
        )
    if words.pad_token_id is None:
        words.pad_token = words.eos_token
    return words


def load_network(model: str, *, dtype: torch.dtype = torch.float32, attention: str | None = None) -> PreTrainedModel:
    """The weights of a folder, a hub repository or a GGUF file.

    Raises:
        ConfigError: they cannot be read.
    """
    if is_gguf(model):
        return gguf_model(model, dtype=dtype, attention=attention)
    network: PreTrainedModel = _reached(
        AutoModelForCausalLM, model, "model", dtype=dtype, attn_implementation=attention
    )
    return network


def _reached(kind: Any, place: str, what: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(place, **options)
    except Exception as error:  # no connection, no such repository, a damaged file: the next step is the same
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ConfigError(f"{what} '{place}' cannot be loaded: {reason}; check the name and the connection") from error


# --- LoRA


def lora_config(*, rank: int, alpha: int, dropout: float, targets: Sequence[str], task: LoraTask = "CAUSAL_LM") -> Any:
    """The adapter as peft describes it.

    Args:
        task: what the network is for; the head of "SEQ_CLS" is trained whole.

    Raises:
        ConfigError: peft is not installed, or `targets` mixes all-linear with names.
    """
    if find_spec("peft") is None:
        raise ConfigError("lora needs the package peft; run: pip install 'selfroute[lora]'")
    if not targets:
        raise ConfigError(f"lora.targets is empty; name layers, e.g. [q_proj, v_proj], or [{ALL_LINEAR}]")
    if ALL_LINEAR in targets and len(targets) > 1:
        raise ConfigError(f"lora.targets: {ALL_LINEAR} beside names contradicts itself; give one of the two")
    from peft import LoraConfig

    names: Any = ALL_LINEAR if ALL_LINEAR in targets else list(targets)
    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names, task_type=task)


def add_adapter(network: PreTrainedModel, lora: Mapping[str, Any], *, task: LoraTask = "CAUSAL_LM") -> Any:
    """The network with a fresh adapter around it; its own weights are frozen.

    Args:
        task: as in `lora_config`.

    Raises:
        ConfigError: a target that the model does not have.
    """
    from peft import get_peft_model

    try:
        with _quiet_about_ties():
            return get_peft_model(network, lora_config(**lora, task=task))
    except ValueError as error:
        linear = {name.rpartition(".")[2] for name, part in network.named_modules() if hasattr(part, "in_features")}
        raise ConfigError(
            f"lora.targets: {', '.join(lora['targets'])} is not in this model; it has {', '.join(sorted(linear))}"
        ) from error


def merged(network: Any) -> PreTrainedModel:
    """The plain model with the adapter added to its weights; other networks as they are.

    Where the adapter is on one of two tied matrices, embedding and head, they are two from then on: added to the shared
    one it would change both, and the model would be another one than was trained.
    """
    if not hasattr(network, "merge_and_unload"):
        plain: PreTrainedModel = network
        return plain
    _untie(network.get_base_model())
    with _quiet_about_ties():
        plain = network.merge_and_unload()
    if plain.config.tie_word_embeddings and not _is_tied(plain):
        plain.config.tie_word_embeddings = False
        plain.all_tied_weights_keys = {}  # by which transformers leaves the head out of a saved folder
    return plain


def _untie(network: Any) -> None:
    """Give the head weights of its own, if it or the embedding that it shares them with has an adapter."""
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    if head is None or not any(hasattr(part, "active_adapters") for part in (embedding, head)):
        return
    plain = _without_adapter(head)
    if plain.weight is _without_adapter(embedding).weight:
        plain.weight = torch.nn.Parameter(plain.weight.detach().clone(), requires_grad=False)


def _without_adapter(part: Any) -> Any:
    """The layer below peft's wrappers, some of which keep a copy of it."""
    while inner := part._modules.get("base_layer", part._modules.get("original_module")):
        part = inner
    return part


def _is_tied(network: Any) -> bool:
    """Whether embedding and head are equal."""
    head = network.get_output_embeddings()
    return head is None or torch.equal(head.weight, network.get_input_embeddings().weight)


@contextmanager
def _quiet_about_ties() -> Iterator[None]:
    """Without peft's warnings that merging tied layers is left to the caller: `merged` does it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*(tie_word_embeddings|no longer tied)", category=UserWarning)
        yield


def outline(
    config: PretrainedConfig, lora: Mapping[str, Any] | None, *, task: LoraTask = "CAUSAL_LM"
) -> tuple[int, int]:
    """Parameters of the network that a configuration describes, in all and trained, without any weights.

    Args:
        task: as in `lora_config`; a `SEQ_CLS` network has one number in place of its vocabulary.

    Raises:
        ConfigError: the configuration is of no language model, or as `add_adapter`.
    """
    try:
        with torch.device("meta"):
            network: Any = _bare(config, task)
            network = network if lora is None else add_adapter(network, lora, task=task)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"no network can be built from this configuration: {' '.join(str(error).split())}") from error
    sizes = [(part.numel(), part.requires_grad) for part in network.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def _bare(config: PretrainedConfig, task: LoraTask) -> Any:
    if task == "CAUSAL_LM":
        return AutoModelForCausalLM.from_config(config)
    scored = copy.deepcopy(config)
    scored.num_labels = 1
    return AutoModelForSequenceClassification.from_config(scored)


def from_adapter(model: str, adapter: Path) -> PreTrainedModel:
    """The plain model with a saved adapter added to its weights."""
    return with_adapter(load_network(model), adapter)


def with_adapter(network: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """A plain model with a saved adapter added to its weights."""
    from peft import PeftModel

    with _quiet_about_ties():
        return merged(PeftModel.from_pretrained(network, str(adapter)))


# --- checkpoints


def check_checkpoint(checkpoint: str, config: PretrainedConfig, lora: Mapping[str, Any] | None) -> None:
    """See that a run to go on with trained this model in this way.

    Raises:
        ConfigError: it is of another model, of all weights where LoRA is asked for or the other way round, or of
            another rank, alpha or choice of layers.
    """
    adapter = Path(checkpoint, "adapter_config.json")
    if adapter.is_file() != (lora is not None):
        was, now = ("LoRA", "all weights") if adapter.is_file() else ("all weights", "LoRA")
        raise ConfigError(f"'{checkpoint}' trained {was}, the recipe {now}; set lora as it was, or take another out=")
    if lora is not None:
        _check_adapter(checkpoint, json.loads(adapter.read_text(encoding="utf-8")), config, lora)
        return
    file = Path(checkpoint, "config.json")
    if not file.is_file():
        return  # shards of FSDP; accelerate compares their shapes
    stored, wanted = json.loads(file.read_text(encoding="utf-8")), config.to_dict()
    for name in SHAPE:
        if name in stored and stored[name] != wanted.get(name):
            raise ConfigError(
                f"'{checkpoint}' is of another model: its {name} is {stored[name]}, not {wanted.get(name)}; "
                "name the model it was, or take another out="
            )


def _check_adapter(
    checkpoint: str, stored: Mapping[str, Any], config: PretrainedConfig, lora: Mapping[str, Any]
) -> None:
    with torch.device("meta"):
        adapted = add_adapter(AutoModelForCausalLM.from_config(config), lora)
    targets = adapted.peft_config["default"].target_modules
    wanted = {name: lora[name] for name in ("rank", "alpha", "dropout")} | {"targets": sorted(targets)}
    names = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
    found = {name: stored.get(key) for name, key in names.items()} | {"targets": sorted(stored["target_modules"])}
    for name, value in wanted.items():
        if found[name] != value:
            raise ConfigError(
                f"'{checkpoint}' has lora.{name} {found[name]}, the recipe {value}; set it as it was, or take "
                "another out="
            )
