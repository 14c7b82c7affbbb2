"""What a small model learns from: a writer of questions and completions for each task that has one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

__all__ = ["TOLD_SHARES", "Example", "Role", "TraceStyle", "Worded", "Writer"]

Role = Literal["device", "cloud"]
TOLD_SHARES = tuple(percent / 100 for percent in range(5, 100, 5))


@dataclass(frozen=True, slots=True)
class TraceStyle:
    """How a completion is written; what a task's writer does not do must stay as it is.

    Attributes:
        attempts: most attempts before the search gives up.
        solution_rate: probability that an attempt is the known solution.
        handoff_rate: probability of a hand-off before each attempt; only where it is offered.
        final_handoff_rate: the same after the search, whether it found the target or not. It must
            not be small: the policy gradient of a rare action is small too.
        largest: largest intermediate result of a random attempt.
        told_rate: probability that a device's prompt with the offer also names a wanted call share, any of
            `TOLD_SHARES`, so that the imitating model reads the number; which problems to ask for it still does not
            know.
        told: what comes at that rate: "each" hand-off, before an attempt or after the search, or the "last" alone.
            From the last alone a small model does not learn to read: it is one decision of a hundred tokens.
        call_rate: probability that a device's completion calls for tokens of the cloud before each of its own, as
            `selfroute.calls` has it: it learns how a call is written, and not when. What follows is its own text.
        call_tokens: most tokens that such a call asks for.
        shown_rate: probability that a cloud's prompt shows what a device tried, as `context: attempt` does.
        shown: what the cloud does with it: "continue" the search behind its last line, or "ignore" it.
        leak_rate: probability that a message for the cloud tells private values that nobody needs.
    """

    attempts: int = 6
    solution_rate: float = 0.1
    handoff_rate: float = 0.03
    final_handoff_rate: float = 0.5
    largest: int = 100
    told_rate: float = 0.0
    told: Literal["each", "last"] = "last"
    call_rate: float = 0.0
    call_tokens: int = 9
    shown_rate: float = 0.0
    shown: Literal["continue", "ignore"] = "continue"
    leak_rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Example:
    """One completion to imitate, and what its prompt says.

    Attributes:
        offer: whether a device's prompt offers the hand-off.
        share: the wanted call share that it names, if any.
        attempt: what a cloud's prompt shows of a device's attempt.
    """

    question: str
    completion: str
    offer: bool = False
    share: float | None = None
    attempt: str = ""


class Writer(Protocol):
    """Writes examples of one task's train split for one role; the same random state gives the same example.

    Attributes:
        template: name of the task's prompt template.
    """

    template: str
    style: TraceStyle
    role: Role

    def example(self, rng: random.Random) -> Example: ...


@runtime_checkable
class Worded(Protocol):
    """Optional: a writer whose models have a tokenizer of its own words.

    Attributes:
        corpus: texts to make it from.
    """

    @property
    def corpus(self) -> Sequence[str]: ...
