"""What is known after the device has answered, and scores that need no training: higher means send.

* Log-probabilities of the answer's own tokens: their mean and their least (arXiv 2404.10136 compares these and other
  quantiles as deferral rules), and the entropy of each token's distribution.
* Self-consistency (arXiv 2203.11171): the share of further answers that agree, as a cascade in arXiv 2310.03094.
* Self-verification: P(True) of arXiv 2207.05221, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from selfroute.errors import UnsupportedByBackend
from selfroute.types import Token
from selfroute.verify.extract import after_reasoning, boxed, tagged_answer
from selfroute.verify.quantities import read_number

__all__ = [
    "VERDICT_QUESTION",
    "Evidence",
    "disagreement",
    "doubt_in",
    "final_answer",
    "mean_entropy",
    "mean_surprise",
    "most_surprise",
    "self_doubt",
]

_UNDECIDED = 0.5
_LONGEST_LINE = 500


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a score may look at.

    Attributes:
        question: without the words of the prompt template.
        answer: what the device wrote; empty if it handed off.
        tokens: the answer's tokens, where log-probabilities were asked for.
        samples: further answers of the device to the same prompt.
        doubt: what the device says to its own answer, as the probability that it is wrong; None if not asked.
    """

    question: str
    answer: str = ""
    tokens: tuple[Token, ...] = ()
    samples: tuple[str, ...] = ()
    doubt: float | None = None


# --- log-probabilities -------------------------------------------------------------------------------------------


def mean_surprise(evidence: Evidence) -> float:
    """Mean negative log-probability of the answer's tokens, in nats.

    Raises:
        UnsupportedByBackend: there are none.
    """
    surprises = _surprises(evidence)
    return sum(surprises) / len(surprises)


def most_surprise(evidence: Evidence) -> float:
    """Negative log-probability of the least likely token, in nats.

    Raises:
        UnsupportedByBackend: there are none.
    """
    return max(_surprises(evidence))


def mean_entropy(evidence: Evidence) -> float:
    """Mean entropy of the tokens' distributions, in nats; what the alternatives leave over counts as one outcome.

    Raises:
        UnsupportedByBackend: there are no log-probabilities.
    """
    tokens = _tokens(evidence)
    return sum(map(_entropy, tokens)) / len(tokens)


def _surprises(evidence: Evidence) -> list[float]:
    return [min(-token.logprob, 100.0) for token in _tokens(evidence)]


def _tokens(evidence: Evidence) -> tuple[Token, ...]:
    if evidence.tokens:
        return evidence.tokens
    if not evidence.answer:  # nothing was written: the least sure of all answers
        return (Token("", -100.0),)
    raise UnsupportedByBackend(
        "the device gives no log-probabilities, which this strategy needs; use one that reads text: answer_features"
    )


def _entropy(token: Token) -> float:
    chances = [math.exp(min(0.0, logprob)) for logprob in {token.text: token.logprob, **token.top}.values()]
    rest = max(0.0, 1.0 - sum(chances))
    return -sum(chance * math.log(chance) for chance in (*chances, rest) if chance > 0)


# --- self-consistency --------------------------------------------------------------------------------------------


def disagreement(evidence: Evidence) -> float:
    """Share of the further answers whose result differs from the answer's, in [0, 1]; 1 if it has no result."""
    own = final_answer(evidence.answer)
    if not own or not evidence.samples:
        return 1.0
    return sum(final_answer(sample) != own for sample in evidence.samples) / len(evidence.samples)


def final_answer(text: str) -> str:
    """The result of an answer in one spelling, for comparing answers of one question; empty if there is none.

    The first `<answer>` element, else the last box, else the line after `####`, else the last line. A number is
    spelt as a fraction, other text in lower case with single spaces.
    """
    outside, marked = after_reasoning(text), tagged_answer(text)
    box = boxed(outside if marked is None else marked)
    marked = marked if box is None else box
    if marked is None and "####" in outside:
        marked = outside.rpartition("####")[2].strip().partition("\n")[0]
    if marked is not None:
        return _spelt_number(marked) or _spelt(marked)
    line = outside.strip().rpartition("\n")[2]
    return _last_number(line) or _spelt(line)


def _spelt_number(text: str) -> str:
    number = read_number(text)
    return "" if number is None else str(number)


def _last_number(line: str) -> str:
    """The last number of a line of prose."""
    for word in reversed(line[-_LONGEST_LINE:].split()):
        if spelt := _spelt_number(word.strip("*_.,;:()[]{}\"'")):
            return spelt
    return ""


def _spelt(text: str) -> str:
    return " ".join(text.lower().split())[:_LONGEST_LINE]


# --- self-verification -------------------------------------------------------------------------------------------


VERDICT_QUESTION = (
    "Is the answer that you have just given right?\n(A) True\n(B) False\nReply with the letter alone: A or B."
)
"""What the device is asked about its own answer, in the same conversation; after arXiv 2207.05221, section 4.1."""


def doubt_in(text: str, tokens: Sequence[Token] = ()) -> float:
    """The probability that the answer is wrong, as a reply to `VERDICT_QUESTION` tells it.

    With log-probabilities P(B) / (P(A) + P(B)) at the first token that may be one of them; else 0, 1, or 0.5 for a
    reply that is neither.
    """
    for token in tokens:
        chances = {"a": 0.0, "b": 0.0}
        for spelling, logprob in {token.text: token.logprob, **token.top}.items():
            if (letter := _letter(spelling)) is not None:
                chances[letter] += math.exp(min(0.0, logprob))
        if total := sum(chances.values()):
            return chances["b"] / total
    letter = _letter(text)
    return _UNDECIDED if letter is None else float(letter == "b")


def _letter(text: str) -> str | None:
    words = text.strip(" \n\t().:*\"'").lower().split()
    first = words[0].strip("().:*") if words else ""
    return {"a": "a", "b": "b", "true": "a", "false": "b"}.get(first)


def self_doubt(evidence: Evidence) -> float:
    """The device's doubt in its own answer, in [0, 1]; 1 if it gave none."""
    if not evidence.answer:
        return 1.0
    return _UNDECIDED if evidence.doubt is None else evidence.doubt
