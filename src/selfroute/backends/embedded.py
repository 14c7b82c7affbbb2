"""The embedded pair: two small models for Countdown that come with the package, so that everything runs offline."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from selfroute.backends.base import Backend
from selfroute.backends.best_of import BestOfN
from selfroute.backends.files import ModelFiles
from selfroute.backends.transformers import TransformersBackend, load_model
from selfroute.errors import ConfigError

__all__ = ["accepts_own_check", "asset_path", "embedded", "embedded_files", "embedded_task", "provenance"]


@dataclass(frozen=True, slots=True)
class _Asset:
    """A model of the package: its folder, how many answers it may write for one prompt, its template and its task."""

    folder: str
    samples: int = 1
    template: str | None = "think"
    task: str = "countdown"


# The cloud was trained without a system prompt.
_ASSETS = {"device": _Asset("device"), "device-gapg": _Asset("device_gapg"), "cloud": _Asset("cloud", 8, None)}


def embedded(name: str, *, samples: int | None = None, max_batch: int = 256, root: str | Path | None = None) -> Backend:
    """A model that comes with the package, in float32 on the CPU.

    Args:
        name: "device" (before training), "device-gapg" (after it) or "cloud".
        samples: most answers per prompt; the first whose own written check says yes is given. By default 8 for
            the cloud and 1 for the devices.
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
    model, tokenizer = load_model(folder, tokenizer_path=folder.parent / "tokenizer", dtype="float32", device="cpu")
    backend = TransformersBackend(name, model, tokenizer, max_batch=max_batch)
    count = _ASSETS[name].samples if samples is None else samples
    return backend if count == 1 else BestOfN(backend, count, accepts_own_check)


def asset_path(name: str, *, root: str | Path | None = None) -> Path:
    """Folder of an embedded model; its tokenizer lies beside it in `tokenizer`.

    Raises:
        ConfigError: unknown name.
    """
    if name not in _ASSETS:
        raise ConfigError(f"no embedded model '{name}'; known: {', '.join(_ASSETS)}")
    return _root(root) / _ASSETS[name].folder


def embedded_files(name: str) -> ModelFiles:
    """The files of an embedded model.

    Raises:
        ConfigError: unknown name.
    """
    folder = asset_path(name)
    return ModelFiles(str(folder), str(folder.parent / "tokenizer"), _ASSETS[name].template)


def embedded_task(name: str) -> str:
    """Name of the task that an embedded model was made for.

    Raises:
        ConfigError: unknown name.
    """
    asset_path(name)
    return _ASSETS[name].task


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
