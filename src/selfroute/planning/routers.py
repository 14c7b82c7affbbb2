"""Which experts the routers of a mixture model choose, counted on given prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selfroute.backends.torch.loading import load_model
from selfroute.errors import ConfigError
from selfroute.planning.load import Load
from selfroute.planning.prompts import read_prompts
from selfroute.planning.shapes import Mixture

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["count_choices", "load_measured", "measured_load", "mixture_of"]

_MOST_TOKENS = 2048  # of one prompt
_BATCH = 16


def measured_load(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[Sequence[str]],
    *,
    about: str,
) -> Load:
    """Visits of a model's experts on prompts.

    Args:
        sources: the prompts of each source of tokens.
        about: the model and the prompts in words.

    Raises:
        ConfigError: no prompts, or no routers that tell what they choose.
    """
    if not sources or not all(sources):
        raise ConfigError("load.measured: there are no prompts; name a file with one per line, or JSON Lines")
    counted = [
        sum(count_choices(model, **_encoded(tokenizer, prompts[i : i + _BATCH], model))
            for i in range(0, len(prompts), _BATCH))
        for prompts in sources
    ]  # fmt: skip
    return Load(np.stack([np.asarray(counts) for counts in counted]), about)


def load_measured(
    *, model: str, prompts: tuple[Path, ...], strategy: str | None = None, mixture: Mixture | None
) -> Load:
    """Load a mixture model and count what its routers choose.

    Args:
        model: folder or hub repository of any mixture model of transformers.
        prompts: one file or evaluation folder for each source, see `selfroute.planning.prompts.read_prompts`.
        strategy: of evaluation folders: only what this strategy sent to the cloud.
        mixture: in place of what the model's configuration tells; None takes that.

    Raises:
        ConfigError: there is no such model, or there are no prompts.
    """
    sources = [read_prompts(path, strategy=strategy) for path in prompts]
    loaded, tokenizer = load_model(model)
    which = f" that {strategy} sent to the cloud" if strategy else ""
    told = f"measured: routers of {Path(model).name} on {sum(map(len, sources))} prompts{which}"
    measured = measured_load(loaded, tokenizer, sources, about=told)
    return replace(measured, mixture=mixture or mixture_of(loaded))


def _encoded(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], model: PreTrainedModel) -> dict[str, Any]:
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    found = tokenizer(list(prompts), return_tensors="pt", padding=True, truncation=True, max_length=_MOST_TOKENS)
    return {name: found[name].to(model.device) for name in ("input_ids", "attention_mask")}


def count_choices(model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> NDArray[np.float64]:
    """How often each expert is chosen by tokens that are no padding, shape (layers, experts).

    Hooks take what a router returns last, the indices that its layer uses. The k largest `router_logits` are another
    thing: routers like DeepSeek's add a bias and leave whole groups of experts out before they choose.

    Args:
        input_ids, attention_mask: shape (prompts, tokens); the mask is 0 at padding.

    Raises:
        ConfigError: the model has no routers, or they do not return what they choose.
    """
    import torch

    routers = _routers(model)
    kept = attention_mask.reshape(-1).bool()
    with _recording(routers) as chosen, torch.inference_mode():
        model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    experts = _experts(model)
    rows = []
    for name, indices in zip(routers, chosen, strict=True):
        if indices is None or indices.ndim != 2 or len(indices) != len(kept) or indices.is_floating_point():
            raise ConfigError(
                f"load.measured: router '{name}' ({type(routers[name]).__name__}) does not return the experts it "
                "chooses; record with a serving engine and read its dump"
            )
        rows.append(torch.bincount(indices[kept].reshape(-1), minlength=experts).cpu().numpy())
    return np.stack(rows).astype(np.float64)


def mixture_of(model: PreTrainedModel, **known: Any) -> Mixture:
    """The shape of a mixture model, as far as its configuration tells.

    Args:
        known: further fields of `Mixture`, or other values for them.

    Raises:
        ConfigError: it has no routers.
    """
    config = model.config.get_text_config()
    rows = [_layer_number(name) for name in _routers(model)]
    found: dict[str, Any] = {
        "layers": len(rows),
        "experts": _experts(model),
        "top_k": int(config.num_experts_per_tok),
        "dense": tuple(sorted(set(range(config.num_hidden_layers)) - set(rows))),
        "groups": int(getattr(config, "n_group", None) or 1),
        "hidden_size": int(config.hidden_size),
    }
    return Mixture(**found | known)


def _layer_number(name: str) -> int:
    """Of `model.layers.3.mlp.gate` it is 3."""
    return next(int(part) for part in name.split(".") if part.isdigit())


def _experts(model: PreTrainedModel) -> int:
    config = model.config.get_text_config()
    for name in ("num_local_experts", "num_experts", "n_routed_experts"):
        if isinstance(count := getattr(config, name, None), int):
            return count
    raise ConfigError(
        f"load.measured: the configuration of {type(model).__name__} does not say how many experts it has"
    )


def _routers(model: PreTrainedModel) -> dict[str, Any]:
    """The modules whose logits transformers records as `router_logits`, by name, in order."""
    kinds: list[Any] = []
    for module in model.modules():
        recorded = (getattr(module, "_can_record_outputs", None) or {}).get("router_logits")
        listed: list[Any] = recorded if isinstance(recorded, list) else [recorded]
        kinds += [one.target_class for one in listed if getattr(one, "target_class", None) is not None]
    found = {name: module for name, module in model.named_modules() if kinds and isinstance(module, tuple(kinds))}
    if not found:
        raise ConfigError(
            f"load.measured: {type(model).__name__} has no routers that transformers knows; take a mixture-of-experts "
            "model, or record with a serving engine"
        )
    return found


@contextmanager
def _recording(routers: dict[str, Any]) -> Iterator[list[Any]]:
    """What each router returns last in a forward pass."""
    chosen: list[Any] = [None] * len(routers)

    def keep(number: int) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            chosen[number] = output[-1] if isinstance(output, tuple | list) else None

        return hook

    handles = [module.register_forward_hook(keep(number)) for number, module in enumerate(routers.values())]
    try:
        yield chosen
    finally:
        for handle in handles:
            handle.remove()
