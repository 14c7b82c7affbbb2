"""A prompt as a program: words that stay, slots of whole sentences, and slots of demonstrations, each with choices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from selfroute import environment
from selfroute.errors import ConfigError
from selfroute.prompts import Demonstration, PromptTemplate, TrainedPrompt
from selfroute.tuning.base import Choices, Distributions

__all__ = ["OUTCOMES", "Outcome", "Program", "SentenceSlot", "ShotSlot", "probabilities_in", "written"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Everything that a tuner chooses from.

    Attributes:
        base: words that stay; its `help` stands where no slot offers the hand-off.
        sentences: in their order in the system prompt.
        shots: in the order of their turns.

    Raises:
        ConfigError: two slots of one name, or one without choices.
    """

    base: PromptTemplate
    sentences: tuple[SentenceSlot, ...] = ()
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
    def slots(self) -> tuple[SentenceSlot | ShotSlot, ...]:
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
        chosen = [slot.choices[k] for slot, k in zip(self.sentences, choices, strict=False)]
        offers = [text for slot, text in zip(self.sentences, chosen, strict=True) if slot.offers]
        words = [text for slot, text in zip(self.sentences, chosen, strict=True) if not slot.offers]
        shown = [slot.choices[k] for slot, k in zip(self.shots, choices[len(self.sentences) :], strict=False)]
        return replace(
            self.base,
            system=_joined([self.base.system, *words]),
            help=_joined(offers) if offers else self.base.help,
            demonstrations=tuple(one for one in shown if one is not None),
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
            "kind": "sentence" if isinstance(slot, SentenceSlot) else slot.outcome,
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


def _shown(choice: str | Demonstration | None) -> Any:
    return {"question": choice.question, "reply": choice.reply} if isinstance(choice, Demonstration) else choice


def _joined(sentences: Sequence[str]) -> str:
    return " ".join(sentence.strip() for sentence in sentences if sentence.strip())


def _longest(choices: Sequence[str | Demonstration | None]) -> int:
    def length(choice: str | Demonstration | None) -> int:
        return len(choice.question) + len(choice.reply) if isinstance(choice, Demonstration) else len(choice or "")

    return max(range(len(choices)), key=lambda k: length(choices[k]))
