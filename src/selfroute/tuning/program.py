"""A prompt as a program: words that stay, slots of whole sentences, and slots of demonstrations, each with choices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

from selfroute import environment
from selfroute.errors import ConfigError
from selfroute.prompts import Demonstration, PromptTemplate, TrainedPrompt
from selfroute.tuning.base import Choices, Distributions

__all__ = [
    "OUTCOMES",
    "OrderSlot",
    "Outcome",
    "Program",
    "SentenceSlot",
    "ShotSlot",
    "orders",
    "probabilities_in",
    "written",
]

Outcome = Literal["solved", "handed_off", "wrongly_kept"]
OUTCOMES: tuple[Outcome, ...] = ("solved", "handed_off", "wrongly_kept")


@dataclass(frozen=True, slots=True)
class SentenceSlot:
    """A place for a whole sentence of the device's system prompt; an empty one leaves it out.

    Attributes:
        offers: whether it is the sentence that offers the hand-off, and so is left out of a forced attempt.
    """

    name: str
    choices: tuple[str, ...]
    offers: bool = False


@dataclass(frozen=True, slots=True)
class ShotSlot:
    """A place for a demonstration of an outcome; None leaves it empty."""

    name: str
    outcome: Outcome
    choices: tuple[Demonstration | None, ...]


@dataclass(frozen=True, slots=True)
class OrderSlot:
    """The order in which demonstrations are shown: a small model often does what it was shown last.

    Attributes:
        choices: names of all shot slots, in an order each.
    """

    name: str
    choices: tuple[tuple[str, ...], ...]


def orders(outcomes: Sequence[Outcome]) -> tuple[tuple[str, ...], ...]:
    """Orders of shot slots that differ in their outcomes; the first is the one that was given."""
    found: dict[tuple[Outcome, ...], tuple[str, ...]] = {}
    for order in permutations(range(len(outcomes))):
        found.setdefault(tuple(outcomes[i] for i in order), tuple(shot_name(i) for i in order))
    return tuple(found.values())


def shot_name(place: int) -> str:
    """The name of a shot slot by its place in the recipe, from 0."""
    return f"shot{place + 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Everything that a tuner chooses from.

    Attributes:
        base: words that stay; its `help` stands where no slot offers the hand-off.
        sentences: in their order in the system prompt; what workers agree on, so an order of shots is among them.
        shots: in the order of their turns, unless a slot of `sentences` has another.

    Raises:
        ConfigError: two slots of one name, or one without choices.
    """

    base: PromptTemplate
    sentences: tuple[SentenceSlot | OrderSlot, ...] = ()
    shots: tuple[ShotSlot, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for slot in self.slots:
            if not slot.choices:
                raise ConfigError(f"slots.{slot.name}: [] has no choices; give sentences, '' for none, or leave it out")
            if slot.name in seen:
                raise ConfigError(f"slots.{slot.name}: two slots have this name; rename one")
            seen.add(slot.name)

    @property
    def slots(self) -> tuple[SentenceSlot | OrderSlot | ShotSlot, ...]:
        return (*self.sentences, *self.shots)

    @property
    def sizes(self) -> list[int]:
        """Choices of each slot, sentences first."""
        return [len(slot.choices) for slot in self.slots]

    def template(self, choices: Choices) -> PromptTemplate:
        """The template of one choice per slot.

        Args:
            choices: for `slots`; those behind the last sentence may be left out, which shows nothing.
        """
        chosen = list(zip(self.sentences, choices, strict=False))
        said = [(slot.offers, slot.choices[k]) for slot, k in chosen if isinstance(slot, SentenceSlot)]
        offers = [text for is_offer, text in said if is_offer]
        words = [text for is_offer, text in said if not is_offer]
        order = next((slot.choices[k] for slot, k in chosen if isinstance(slot, OrderSlot)), None)
        own = zip(self.shots, choices[len(self.sentences) :], strict=False)
        shown = {slot.name: slot.choices[k] for slot, k in own}
        return replace(
            self.base,
            system=_joined([self.base.system, *words]),
            help=_joined(offers) if offers else self.base.help,
            demonstrations=tuple(one for name in order or shown if (one := shown.get(name)) is not None),
        )

    def longest(self) -> PromptTemplate:
        """The template of the longest choice of every slot, which takes the most room."""
        return self.template(tuple(_longest(slot.choices) for slot in self.slots))


def written(
    program: Program, choices: Choices, probabilities: Distributions, prompt: TrainedPrompt, about: Mapping[str, Any]
) -> str:
    """The text of a `program.json`: a `selfroute.json` with the slots beside it, to read and to tune on from.

    Args:
        choices: one for each slot, or for the sentences alone.
        probabilities: likewise.
        prompt: how the device is asked; its template becomes the program's.
        about: what the program was tuned on, ready for JSON.
    """
    slots = [
        {
            "name": slot.name,
            "kind": _kind(slot),
            "chosen": chosen,
            "choices": [
                {"probability": round(float(p), 4), "choice": _shown(choice)}
                for p, choice in zip(probability, slot.choices, strict=True)
            ],
        }
        for slot, chosen, probability in zip(program.slots, choices, probabilities, strict=False)
    ]
    facts = {**json.loads(replace(prompt, template=program.template(choices)).text()), "program": {"slots": slots}}
    facts["program"] |= {"version": environment.versions().get("selfroute"), **about}
    return json.dumps(facts, ensure_ascii=False, indent=2) + "\n"


def probabilities_in(file: Path, program: Program, *, where: str, whole: bool = True) -> Distributions:
    """The probabilities that a `program.json` holds, to tune on from.

    Args:
        whole: it must have no further slots.

    Raises:
        ConfigError: it cannot be read, or is one of other slots.
    """
    import numpy as np

    try:
        slots = json.loads(file.read_text(encoding="utf-8"))["program"]["slots"]
        held = [(str(slot["name"]), [choice["choice"] for choice in slot["choices"]]) for slot in slots]
        found = [[float(choice["probability"]) for choice in slot["choices"]] for slot in slots]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{where}: '{file}' is no program ({reason}); name a program.json that tuning wrote"
        ) from None
    wanted = [(slot.name, [_shown(choice) for choice in slot.choices]) for slot in program.slots]
    if held[: None if whole else len(wanted)] != wanted:
        other = next((f"'{a[0]}'" for a, b in zip(wanted, held, strict=False) if a != b), f"{len(held)} slots")
        raise ConfigError(
            f"{where}: '{file}' is a program of other slots: {other} differs; give the recipe the same slots, pools "
            "and seed, or leave it out"
        )
    return tuple(np.array(one) / sum(one) for one in found)


def _kind(slot: SentenceSlot | OrderSlot | ShotSlot) -> str:
    if isinstance(slot, ShotSlot):
        return slot.outcome
    return "sentence" if isinstance(slot, SentenceSlot) else "order"


def _shown(choice: str | Demonstration | tuple[str, ...] | None) -> Any:
    if isinstance(choice, Demonstration):
        return {"question": choice.question, "reply": choice.reply}
    return ", ".join(choice) if isinstance(choice, tuple) else choice


def _joined(sentences: Sequence[str]) -> str:
    return " ".join(sentence.strip() for sentence in sentences if sentence.strip())


def _longest(choices: Sequence[str | Demonstration | tuple[str, ...] | None]) -> int:
    def length(choice: str | Demonstration | tuple[str, ...] | None) -> int:
        return len(choice.question) + len(choice.reply) if isinstance(choice, Demonstration) else len(choice or "")

    return max(range(len(choices)), key=lambda k: length(choices[k]))
