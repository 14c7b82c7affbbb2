"""The embedded pairs: small models that come with the package, so that everything runs offline."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from selfroute.backends.base import Backend
from selfroute.backends.best_of import BestOfN
from selfroute.backends.exits import exits as load_exits
from selfroute.backends.files import ModelFiles, folder_window
from selfroute.backends.torch.loading import load_model
from selfroute.backends.transformers import TransformersBackend
from selfroute.errors import ConfigError
from selfroute.prompts import TrainedPrompt, read_prompt

__all__ = [
    "ASSETS",
    "Asset",
    "accepts_own_check",
    "asset_path",
    "embedded",
    "embedded_files",
    "embedded_prompt",
    "embedded_task",
    "embedded_window",
    "provenance",
]


@dataclass(frozen=True, slots=True)
class Asset:
    """A model of the package.

    Attributes:
        folder: below `assets`.
        task: that it was trained on.
        samples: how many answers it may write for one prompt.
        exits: it is the first layers of another, with exits.
    """

    folder: str
    task: str = "countdown"
    samples: int = 1
    exits: bool = False


ASSETS = {
    "device": Asset("device"),
    "device-gapg": Asset("device_gapg"),
    "cloud": Asset("cloud", samples=8),
    "chain-device": Asset("chain_device", "chain"),
    "chain-cloud": Asset("chain_cloud", "chain"),
    "chain-exits": Asset("chain_exits", "chain", exits=True),
}


def embedded(name: str, *, samples: int | None = None, max_batch: int = 256, root: str | Path | None = None) -> Backend:
    """A model that comes with the package, in float32 on the CPU.

    Args:
        name: for Countdown "device" (before training), "device-gapg" (after it) or "cloud"; for Chain "chain-device",
            "chain-cloud", or "chain-exits", the first two layers of the latter with exits.
        samples: most answers per prompt; the first whose own written check says yes is given. By default 8 for
            the cloud of Countdown and 1 for the others.
        max_batch: most prompts at once.
        root: the assets' folder, if not the package's own.

    Raises:
        ConfigError: unknown name, or the weights are not installed.
    """
    folder = asset_path(name, root=root)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"embedded model '{name}' is not installed: no config.json in {folder}; reinstall selfroute, or make the "
            "pair with its recipe"
        )
    # The weights are stored in half the bytes; on a CPU float32 is faster and greedy decoding repeatable.
    where: dict[str, Any] = {"tokenizer_path": folder.parent / "tokenizer", "dtype": "float32", "device": "cpu"}
    if ASSETS[name].exits:
        return load_exits(folder, name=name, max_batch=max_batch, **where)
    model, tokenizer = load_model(folder, **where)
    backend = TransformersBackend(name, model, tokenizer, max_batch=max_batch)
    count = ASSETS[name].samples if samples is None else samples
    return backend if count == 1 else BestOfN(backend, count, accepts_own_check)


def asset_path(name: str, *, root: str | Path | None = None) -> Path:
    """Folder of an embedded model; its tokenizer lies beside it in `tokenizer`.

    Raises:
        ConfigError: unknown name.
    """
    if name not in ASSETS:
        raise ConfigError(f"no embedded model '{name}'; known: {', '.join(ASSETS)}")
    return _root(root) / ASSETS[name].folder


def embedded_files(name: str) -> ModelFiles:
    """The files of an embedded model.

    Raises:
        ConfigError: unknown name.
    """
    folder = asset_path(name)
    return ModelFiles(str(folder), str(folder.parent / "tokenizer"))


def embedded_prompt(name: str) -> TrainedPrompt | None:
    """The prompt that an embedded model was trained with.

    Raises:
        ConfigError: unknown name, or its file is damaged.
    """
    return read_prompt(asset_path(name))


def embedded_window(name: str) -> int | None:
    """Tokens that an embedded model holds.

    Raises:
        ConfigError: unknown name.
    """
    return folder_window(asset_path(name))


def embedded_task(name: str) -> str:
    """Name of the task that an embedded model was made for.

    Raises:
        ConfigError: unknown name.
    """
    asset_path(name)
    return ASSETS[name].task


def provenance(name: str, *, root: Path | None = None) -> dict[str, Any]:
    """How an embedded model was made: recipe, seed, commit, hardware, time, held-out accuracy.

    Raises:
        ConfigError: unknown name, or the package has no record of it.
    """
    folder = asset_path(name, root=root)
    file = folder.parent / "provenance.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"no record of embedded model '{name}' in {file}; reinstall selfroute") from error
    return dict(record)


def accepts_own_check(completion: str) -> bool:
    """Whether a completion of the pair says itself that it found the target: its last attempt ends in "y"."""
    attempts, closed, _ = completion.partition("</think>")
    return bool(closed) and attempts.rstrip("\n").endswith("y")


def _root(root: str | Path | None) -> Path:
    # The package is always installed as files: torch reads weights from a path.
    return Path(root) if root is not None else Path(str(files("selfroute") / "assets"))
