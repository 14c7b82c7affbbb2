"""Written messages for Tickets: what its pair learns to imitate.

The device answers or hands off with a message, by chance and not by what is asked, so that it can ask but does not
know when; where it answers, it is right about what it can read off and guesses the rest. At `leak_rate` its message
tells values that nobody needs, as people's do; training that controls attributes is to end that.

The cloud works requests and messages out, in the words of all splits: it is the large model that reads anything.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, replace

from selfroute.errors import ConfigError
from selfroute.handoff import HANDOFF_TEXT
from selfroute.tasks.tickets import INTENTS, Ticket, Tickets, completion, message, question
from selfroute.train.imitation.writers import Example, Role, TraceStyle

__all__ = ["Messages"]

USED = ("final_handoff_rate", "leak_rate")
_OFFER_RATE = 0.8
_CLOUD_MESSAGES = 0.7  # of what the cloud learns; the rest are whole requests


class Messages:
    """Answers and messages to requests of the train split, for either role.

    Raises:
        ConfigError: the style sets what only a search has.
    """

    template = Tickets.template

    def __init__(self, task: Tickets, style: TraceStyle, role: Role) -> None:
        default = asdict(TraceStyle())
        for name, value in asdict(style).items():
            if name not in USED and value != default[name]:
                raise ConfigError(f"traces.{name}: {value} does nothing for task tickets; known: {', '.join(USED)}")
        self.task = task
        self.style = style
        self.role = role

    @property
    def corpus(self) -> Sequence[str]:
        """Texts whose words the tokenizer knows; the same for both roles."""
        rng = random.Random("tickets/corpus")
        drawn = [self.task.draw(rng, intent, split) for intent in INTENTS * 200 for split in ("train", "test")]
        return [text for ticket in drawn for text in (question(ticket, rng), message(ticket), completion(ticket))]

    def example(self, rng: random.Random) -> Example:
        """One request, and what the role writes."""
        ticket = self.task.draw(rng, rng.choice(INTENTS), "train")
        if self.role == "cloud":
            return self._cloud(ticket, rng)
        offer = rng.random() < _OFFER_RATE
        if offer and rng.random() < self.style.final_handoff_rate:
            return Example(question(ticket, rng), f"{HANDOFF_TEXT} {message(ticket, self._also(ticket, rng))}", offer)
        known = ticket.intent == "mail"
        answer = ticket.answer if known else self.task.draw(rng, ticket.intent, "train").answer
        return Example(question(ticket, rng), f"<answer>{answer}</answer>", offer)

    def _cloud(self, ticket: Ticket, rng: random.Random) -> Example:
        if rng.random() < _CLOUD_MESSAGES:
            also = rng.sample(ticket.unneeded, rng.choice([0, 0, 0, 1, 2]))
            return Example(message(ticket, also), completion(ticket))
        worded = replace(ticket, wording=rng.choice(("seen", "unseen")))
        return Example(question(worded, rng), completion(ticket))

    def _also(self, ticket: Ticket, rng: random.Random) -> list[str]:
        """Values that a message tells beside what it has to."""
        if rng.random() >= self.style.leak_rate:
            return []
        return rng.sample(ticket.unneeded, rng.randint(1, 2))
