"""The first layers of a model, with exits, as `selfroute train` with `algorithm: exits` leaves them: a device.

By itself it answers from its last exit, as any model of transformers. Importing this module loads no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfroute.backends.layers import ExitRule, Whole
from selfroute.backends.torch.loading import check_folder, load_model
from selfroute.backends.transformers import TransformersBackend
from selfroute.errors import ConfigError
from selfroute.types import Message, Sampling

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from selfroute.backends.torch.exits import Exit, LayerSession

__all__ = ["EXITS_FILE", "ExitBackend", "check_exits", "exits", "save_exits"]

EXITS_FILE = "exits.json"
_WEIGHTS_FILE = "exits.safetensors"


class ExitBackend(TransformersBackend):
    """The first layers of a model, with exits; see `selfroute.backends.layers.Exiting`.

    Args:
        name: how errors and reports call it.
        model: the layers up to the last exit, with that as its norm and head.
        tokenizer: with a chat template.
        early: the other exits, by the number of layers before them, rising.
        whole: the model that they are of.
        max_batch: most prompts at once.

    Raises:
        ConfigError: the model's layers do not run apart, or an exit stands outside them.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        early: Sequence[tuple[int, Exit]],
        whole: Whole,
        *,
        max_batch: int = 64,
    ) -> None:
        super().__init__(name, model, tokenizer, max_batch=max_batch)
        from selfroute.backends.torch.exits import Exit

        cut: Any = self.cut
        last = (cut.layers, Exit(cut.base.norm, cut.head))
        self._exits = [*early, last]
        self.exits = tuple(layers for layers, _ in self._exits)
        if sorted(set(self.exits)) != list(self.exits) or self.exits[0] < 1:
            raise ConfigError(f"{name}: exits behind {list(self.exits)} layers; they must rise from 1")
        self.whole = whole

    def exiting(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        rule: ExitRule,
        send: Callable[[int, Any], object] | None,
    ) -> LayerSession:
        """See `selfroute.backends.layers.Exiting`."""
        from selfroute.backends.torch.layers import copies

        if len(rule.thresholds) != len(self.exits):
            raise ConfigError(
                f"thresholds: {len(rule.thresholds)} values, and {self.name} has exits behind {list(self.exits)} "
                "layers; give one for each, or one for all"
            )
        if rule.keys == "copy" and not copies(self.cut):
            raise ConfigError(f"keys: copy is not known for the layers of {self.name}; write keys: recompute")
        return self._layer_session(messages, sampling, rule, send, self._exits)


def exits(
    folder: str | Path,
    *,
    name: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    max_batch: int = 64,
    tokenizer_path: str | Path | None = None,
) -> ExitBackend:
    """The first layers of a model, with exits that `algorithm: exits` made.

    Args:
        folder: of that training, with `exits.json`.
        name, dtype, device, max_batch: as of `transformers`.
        tokenizer_path: where the tokenizer lies, if not in the folder.

    Raises:
        ConfigError: there is no such folder, or it cannot be read.
    """
    path = check_exits(folder)
    facts = _facts(path)
    model, tokenizer = load_model(path, tokenizer_path=tokenizer_path, dtype=dtype, device=device)
    early = _early(path, model, facts["exits"][:-1])
    return ExitBackend(name or str(folder), model, tokenizer, early, facts["whole"], max_batch=max_batch)


def check_exits(folder: str | Path) -> Path:
    """The folder, if it holds a model with exits.

    Raises:
        ConfigError: it does not.
    """
    path = Path(folder).expanduser()
    if not (path / EXITS_FILE).is_file():
        raise ConfigError(f"'{folder}' has no {EXITS_FILE}; give a folder that algorithm: exits made")
    check_folder(path)
    _facts(path)
    return path


def save_exits(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    found: Sequence[tuple[int, Exit]],
    whole: Whole,
) -> None:
    """Write a device: the layers of a whole model up to the last exit, and all exits.

    Args:
        tokenizer: None for one that lies elsewhere.
        found: exits by the number of layers before them, rising.
    """
    from safetensors.torch import save_file

    from selfroute.backends.torch.exits import first_layers

    first_layers(model, *found[-1]).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    weights = {
        f"{layers}.{key}": value.detach().cpu().contiguous()
        for layers, leave in found[:-1]
        for key, value in leave.state_dict().items()
    }
    save_file(weights, folder / _WEIGHTS_FILE)
    about = {"selfroute": 1, "exits": [layers for layers, _ in found], "whole": asdict(whole)}
    (folder / EXITS_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _facts(path: Path) -> dict[str, Any]:
    try:
        about = json.loads((path / EXITS_FILE).read_text(encoding="utf-8"))
        found = {"exits": [int(layers) for layers in about["exits"]], "whole": Whole.of(about["whole"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"'{path / EXITS_FILE}' cannot be read: {error}; train the exits anew") from None
    return found


def _early(path: Path, model: PreTrainedModel, layers: Sequence[int]) -> list[tuple[int, Exit]]:
    """All exits but the last, which the model itself has."""
    from safetensors.torch import load_file

    from selfroute.backends.torch.exits import new_exit

    try:
        weights = load_file(path / _WEIGHTS_FILE)
        early = []
        for number in layers:
            leave = new_exit(model)
            own = {
                key.removeprefix(f"{number}."): value for key, value in weights.items() if key.startswith(f"{number}.")
            }
            leave.load_state_dict(own)
            early.append((number, leave.to(device=model.device, dtype=model.dtype)))
    except (OSError, RuntimeError) as error:
        what = str(error).splitlines()[0]
        raise ConfigError(f"'{path / _WEIGHTS_FILE}' cannot be read: {what}; train the exits anew") from None
    return early
