"""What a run will ask of models behind endpoints, said before it does: calls, and dollars where prices are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from selfroute.backends.cache import AnswerCache, answer_key
from selfroute.budget.estimate import most_used
from selfroute.config import BACKENDS, Spec, make_backend
from selfroute.prices import Price
from selfroute.types import Message, Sampling, Usage

__all__ = ["announce", "in_words"]

Say = Callable[[str], object]

TYPICAL_TOKENS = 256  # of an answer; what a model writes is not known before
CHARACTERS_PER_TOKEN = 4


def announce(
    say: Say | None,
    role: str,
    spec: Spec,
    prompts: Sequence[Sequence[Message]],
    sampling: Sampling,
    *,
    cache: Path | None = None,
    most: int | None = None,
    price: Price | None = None,
) -> None:
    """Say in a line what a run will ask of a model, if it is behind an endpoint; nothing is asked.

    Args:
        role: of the model, as a recipe has it.
        prompts: all that it may be asked, each once.
        cache: file of answers that are known, which cost nothing.
        most: calls at most, if fewer than there are prompts.
        price: None counts calls alone.
    """
    if say is None or not (spec.name in BACKENDS and BACKENDS[spec.name].remote):
        return
    model = make_backend(spec, where=role)
    known = AnswerCache(cache) if cache is not None and cache.is_file() else None
    missing = [
        prompt for prompt in prompts if known is None or known.get(answer_key(model.identity, prompt, sampling)) is None
    ]
    if known is not None:
        known.close()
    say(
        in_words(
            f"{role} '{model.name}'",
            missing,
            sampling,
            of=len(prompts),
            most=most,
            price=price,
            each=model.most_answers,
        )
    )


def in_words(
    name: str,
    prompts: Sequence[Sequence[Message]],
    sampling: Sampling,
    *,
    of: int,
    most: int | None = None,
    price: Price | None = None,
    each: int = 1,
) -> str:
    """The line: calls at most, what they cost with answers of 256 tokens, and at the very most.

    The bound reckons as a budget reserves: a token per byte of the prompt, and answers as long as they may be. A price
    of 0 is one of a model that costs nothing.

    Args:
        prompts: those without a known answer.
        of: prompts in all.
        most: calls at most, if fewer.
        each: answers that a call may write.
    """
    calls = len(prompts) if most is None else min(most, len(prompts))
    known = f" ({of - len(prompts):,} more answers are known)" if of > len(prompts) else ""
    line = f"{name}: up to {calls:,} paid calls{known}"
    if price is None:
        return f"{line}; what they cost is not known without prices"
    share = calls / len(prompts) if prompts else 0.0
    typical = sum(price.cost_usd(_typical(prompt, sampling, each)) for prompt in prompts) * share
    bound = sum(most_used(prompt, sampling, price, answers=each).cost_usd for prompt in prompts) * share
    return f"{line}, about {typical:.2f} USD with answers of {_length(sampling)} tokens, at most {bound:.2f} USD"


def _typical(prompt: Sequence[Message], sampling: Sampling, answers: int) -> Usage:
    characters = sum(len(message.content) for message in prompt)
    return Usage(-(-characters // CHARACTERS_PER_TOKEN), _length(sampling) * answers)


def _length(sampling: Sampling) -> int:
    return min(TYPICAL_TOKENS, sampling.max_tokens)
