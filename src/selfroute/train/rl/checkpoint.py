"""What a resumed run needs beside weights, optimiser and generators: the state of named parts, in one file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from selfroute.errors import ConfigError

__all__ = ["STATE_FILE", "Part", "restore_parts", "save_parts"]

# Written last and at once: a checkpoint that holds it is complete. The name is that of version 0.1, whose runs go on.
STATE_FILE = "gapg_state.json"


@runtime_checkable
class Part(Protocol):
    """Something that remembers what earlier steps did."""

    def state(self) -> Any:
        """Ready for JSON, the same on every process; asked for on all of them at once."""
        ...

    def restore(self, state: Any) -> None:
        """Go on where `state` was taken.

        Raises:
            ConfigError: the state is that of another run.
        """
        ...


def save_parts(folder: Path, states: Mapping[str, Any]) -> None:
    """Write the states into a checkpoint, at once."""
    unfinished = folder / f"{STATE_FILE}.part"
    unfinished.write_text(json.dumps(states), encoding="utf-8")
    os.replace(unfinished, folder / STATE_FILE)


def restore_parts(folder: Path, parts: Mapping[str, Part]) -> None:
    """Hand every part its state.

    Raises:
        ConfigError: the checkpoint is not finished, was written without one of the parts, or is another run's.
    """
    file = folder / STATE_FILE
    if not file.exists():
        raise ConfigError(f"'{folder}' has no {STATE_FILE}: not a finished checkpoint of reinforcement learning")
    states = json.loads(file.read_text(encoding="utf-8"))
    for name, part in parts.items():
        if name not in states:
            raise ConfigError(f"'{folder}' holds no state of '{name}': it was written by a run without it; start anew")
        try:
            part.restore(states[name])
        except ConfigError as error:
            raise ConfigError(f"'{folder}' {error}") from None
