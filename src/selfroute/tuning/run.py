"""A run of tuning: what it knows is written after every update, so that a killed one goes on as the same run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from selfroute.errors import BudgetExceeded, ConfigError
from selfroute.tuning.base import Measure, Tuner

__all__ = ["Part", "Rounds", "Saved", "tune_alone"]


class Part(Protocol):
    """A part of a run that remembers something."""

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...


@dataclass(slots=True)
class Saved:
    """The parts of a run in a file that is whole or not there.

    Attributes:
        identity: what the run depends on; a file of another run is refused.
    """

    file: Path
    identity: Mapping[str, Any]
    parts: Mapping[str, Part] = field(default_factory=dict)

    def write(self) -> None:
        """Write all parts as they are."""
        states = {name: part.state() for name, part in self.parts.items()}
        partial = self.file.with_name(f".{self.file.name}.{os.getpid()}.tmp")
        partial.write_text(json.dumps({"identity": self.identity, "parts": states}), encoding="utf-8")
        partial.replace(self.file)

    def read(self) -> bool:
        """Put all parts where they were; False where there is no file.

        Raises:
            ConfigError: the file is damaged, or another run's.
        """
        try:
            held = json.loads(self.file.read_text(encoding="utf-8"))
            identity, states = held["identity"], held["parts"]
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"resume: '{self.file}' cannot be read ({error}); tune in another out=") from None
        if differs := [key for key in self.identity if identity.get(key) != self.identity[key]]:
            raise ConfigError(
                f"resume: '{self.file.parent}' holds a run with another {differs[0]}; give the recipe as it was, or "
                "another out="
            )
        for name, part in self.parts.items():
            part.restore(states[name])
        return True


@dataclass(slots=True)
class Rounds:
    """How many rounds a tuner has had."""

    count: int = 0

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"count": self.count}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.count = int(state["count"])


async def tune_alone(
    tuner: Tuner, measure: Measure, *, rounds: Rounds, draws: int, on_round: Callable[[], bool]
) -> str:
    """Ask a tuner and tell it, round by round, until `on_round` says that it is enough or the budget ends.

    Args:
        rounds: counted on.
        draws: choices asked for at once, which are measured on the same rows.

    Returns:
        Why it ended, as engines say it.
    """
    while True:
        choices = tuner.ask(draws)
        try:
            rewards = await measure(choices, rounds.count)
        except BudgetExceeded:
            return "budget"
        tuner.tell(choices, rewards)
        rounds.count += 1
        if on_round():
            return "enough"
