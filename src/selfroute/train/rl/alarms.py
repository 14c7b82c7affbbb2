"""What a run says about itself when it goes wrong: a policy that no longer chooses, prompts that teach nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfroute.grading import Outcome
from selfroute.verify.base import is_solved

__all__ = ["Alarms", "CollapseWarning", "symptoms"]

EXTREME = 0.98  # share of rollouts from which a policy counts as one that no longer chooses
PATIENCE = 5  # such steps in a row before an alarm is raised
# What is the matter, and what to change.
ADVICE = {
    "always asks": (
        "nearly every rollout asks for the cloud",
        "lower reward.cloud or use algorithm gapg, whose filter caps it",
    ),
    "never asks": (
        "hardly any rollout asks for the cloud",
        "raise reward.cloud, or warm up a model that asks sometimes",
    ),
    "nothing solved": (
        "the device solves no prompt of a batch, so that the filter lets nothing in",
        "take easier prompts, a larger group_size, or a device that is warmed up longer",
    ),
    "cloud down": (
        "the cloud answers no call",
        "check its address, key and limits; rollouts that ask are left out meanwhile",
    ),
}

# What to change instead where a price moves until the share is met: there is no reward.cloud to set.
WHERE_PRICED = {
    "always asks": "raise multiplier_rate, so that the price catches up, or want a larger share",
    "never asks": "lower multiplier_rate or multiplier_damping: the price went too high; or warm up a model that asks",
}


def advice(kind: str, *, priced: bool) -> str:
    """What to change.

    Args:
        kind: key of `ADVICE`.
        priced: whether asking has a price that moves, as with `handoff_reward=dual` and `relay`.
    """
    return WHERE_PRICED[kind] if priced and kind in WHERE_PRICED else ADVICE[kind][1]


def symptoms(groups: Sequence[Sequence[Outcome]], *, forced: int, may_ask: bool, filtered: bool) -> list[str]:
    """What is the matter with a step, keys of `ADVICE`.

    Args:
        groups: its outcomes, G of each prompt, the last `forced` of which had no offer to hand off.
        may_ask: whether there is a cloud to ask.
        filtered: whether prompts are filtered by the wanted share.
    """
    free = [outcome for group in groups for outcome in group[: len(group) - forced]]
    asking = [outcome for outcome in free if outcome.wants_cloud]
    asked = len(asking) / len(free)
    solved = any(is_solved(outcome.device_correct) for group in groups for outcome in group)
    found = {
        "always asks": asked >= EXTREME,
        "never asks": asked <= 1.0 - EXTREME and may_ask,
        "nothing solved": filtered and not solved and asked < EXTREME,
        "cloud down": bool(asking) and all(outcome.cloud_correct is None for outcome in asking),
    }
    return [kind for kind, is_so in found.items() if is_so]


class CollapseWarning(UserWarning):
    """A run that learns nothing any more; the message says what to change."""


class Alarms:
    """Counts bad steps in a row, and speaks once per stretch of them.

    Args:
        priced: as in `advice`.

    Attributes:
        messages: all that was said.
    """

    def __init__(self, *, priced: bool = False) -> None:
        self._priced = priced
        self.messages: list[str] = []
        self._steps: dict[str, int] = {}

    def check(self, step: int, found: Sequence[str]) -> list[str]:
        """Note what is the matter in this step, keys of `ADVICE`; returns the messages of what has lasted too long."""
        self._steps = {kind: self._steps.get(kind, 0) + 1 for kind in found}
        new = [
            f"step {step}: {ADVICE[kind][0]} for {PATIENCE} steps; {advice(kind, priced=self._priced)}"
            for kind, steps in self._steps.items()
            if steps == PATIENCE
        ]
        self.messages += new
        return new

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"messages": self.messages, "steps": self._steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.messages, self._steps = list(state["messages"]), dict(state["steps"])
