"""Written calculations for Chain: what its embedded pair learns to imitate.

The cloud learns all multipliers. The device never sees one of them, and learns another by a wrong rule, as
`selfroute.tasks.chain` says. Both take the products in random order: which comes next cannot be told.

Where the device is offered a hand-off, calculations break off at random places, before a step or after the last one,
so that it can ask but does not know when.
"""

from __future__ import annotations

import random
from dataclasses import asdict

from selfroute.errors import ConfigError
from selfroute.handoff import HANDOFF_TEXT
from selfroute.tasks.chain import Chain, Term, completion, question, split_of
from selfroute.train.imitation.writers import Example, Role, TraceStyle

__all__ = ["Calculations"]

USED = ("handoff_rate", "final_handoff_rate", "call_rate", "call_tokens")


class Calculations:
    """Written calculations of train problems, for either role.

    Raises:
        ConfigError: the style sets what only a search has.
    """

    template = Chain.template

    def __init__(self, task: Chain, style: TraceStyle, role: Role) -> None:
        default = asdict(TraceStyle())
        for name, value in asdict(style).items():
            if name not in USED and value != default[name]:
                raise ConfigError(f"traces.{name}: {value} does nothing for task chain; known: {', '.join(USED)}")
        self.task = task
        self.style = style
        self.role = role

    def problem(self, rng: random.Random) -> tuple[Term, ...]:
        """The terms of one problem of the train split, of the multipliers that the role sees."""
        multipliers = self.task.multipliers(seen=self.role == "cloud")
        while True:
            terms = self.task.draw(rng, multipliers)
            if split_of(terms) == "train":
                return terms

    def example(self, rng: random.Random) -> Example:
        """One question and its calculation, with or without the offer to hand off."""
        terms = self.problem(rng)
        order = rng.sample(terms, len(terms))
        if self.role == "cloud":
            return Example(question(terms), completion(order))
        offer = rng.random() < 0.5
        text = completion(order, wrong=self.task.wrong)
        return Example(question(terms), self._broken_off(text, rng) if offer else text, offer)

    def _broken_off(self, text: str, rng: random.Random) -> str:
        """The calculation up to a hand-off, or all of it."""
        steps, end = text.split("</think>")
        written = "<think>"
        for step in steps.removeprefix("<think>").split(self.task.step_end)[:-1]:
            if rng.random() < self.style.handoff_rate:
                return f"{written}{HANDOFF_TEXT}"
            written += step + self.task.step_end
        if rng.random() < self.style.final_handoff_rate:
            return f"{written}{HANDOFF_TEXT}"
        return f"{written}</think>{end}"
