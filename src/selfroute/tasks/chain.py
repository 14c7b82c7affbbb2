"""Chain: sums of products modulo 100, one step per product, in any order.

A problem is `9*7+4*6+8*3 mod 100`. A step takes one product that has not been taken and adds it to what was there;
every result is written with two digits::

    <think>4*6=24+00=24;9*7=63+24=87;8*3=24+87=11;</think><answer>11</answer>

It was made to tell apart the ways in which two models can share one answer. A device that is trained on it lacks
knowledge in two ways, each of which a third of the problems asks for: a multiplier that it never saw, and one that it
learned wrongly, by the rule of `believed`. Since the order is free it is also unsure where nothing is wrong, at the
beginning of each step. Everything else both models can know. The shipped device goes on from Countdown's, where the
multiplier that it never saw here occurs in other words.

Splits cannot overlap: a problem's split is a hash of its terms, order ignored.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from selfroute.errors import ConfigError
from selfroute.tasks.base import Row
from selfroute.verify.base import Verdict
from selfroute.verify.extract import tagged_answer

__all__ = [
    "DEFAULT_LIMITS",
    "KINDS",
    "MULTIPLIERS",
    "Chain",
    "Kind",
    "Term",
    "believed",
    "completion",
    "question",
    "split_of",
    "step",
]

Term = tuple[int, int]  # a number from 2 to 9 and its multiplier
Kind = Literal["known", "unseen", "wrong"]

KINDS: tuple[Kind, ...] = ("known", "unseen", "wrong")
NUMBERS = MULTIPLIERS = range(2, 10)
DEFAULT_LIMITS: Mapping[str, int] = {"train": 5_000, "validation": 1_000, "test": 1_000}
MODULUS = 100
LARGE = 6
# Share of the problem space per split, in percent: train below 80, validation below 90, test the rest.
_TRAIN_BELOW, _VALIDATION_BELOW = 80, 90
_STEP = re.compile(r"(\d)\*(\d)=(\d{2})\+(\d{2})=(\d{2});", re.ASCII)
_ANSWER = re.compile(r"\d{1,6}", re.ASCII)
_OPENING, _CLOSING = "<think>", "</think>"


def product(term: Term) -> int:
    return term[0] * term[1]


def believed(term: Term) -> int:
    """The product as one gets it who takes the multiplier for the next one with large numbers: 6 times 8 is 54."""
    number, multiplier = term
    return number * (multiplier + 1) if number >= LARGE else product(term)


def step(term: Term, result: int, before: int) -> str:
    """One line of a calculation: the term, its result, what was there before, and their sum."""
    return f"{term[0]}*{term[1]}={result:02}+{before:02}={(result + before) % MODULUS:02};"


def completion(terms: Sequence[Term], *, wrong: int | None = None) -> str:
    """The whole calculation in the order of `terms`, with its answer.

    Args:
        wrong: the multiplier whose products are as `believed`.
    """
    steps, total = [], 0
    for term in terms:
        result = believed(term) if term[1] == wrong else product(term)
        steps.append(step(term, result, total))
        total = (total + result) % MODULUS
    return f"{_OPENING}{''.join(steps)}{_CLOSING}<answer>{total:02}</answer>"


def question(terms: Sequence[Term]) -> str:
    """As it is asked, without the final full stop, which the prompt template adds."""
    return f"{'+'.join(f'{number}*{multiplier}' for number, multiplier in terms)} mod {MODULUS}"


def split_of(terms: Sequence[Term]) -> str:
    """The one split that may hold these terms."""
    key = question(sorted(terms))
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
    return "train" if bucket < _TRAIN_BELOW else "validation" if bucket < _VALIDATION_BELOW else "test"


class Chain:
    """Sums of products modulo 100, two-thirds of them beyond what the embedded device knows.

    Of every three rows one has terms that the device knows alone, one has one or two with the multiplier that it never
    saw, and one has one or two with the multiplier that it learned wrongly.

    Args:
        seed: draws the problems; the same seed gives the same rows.
        limit: rows per split; None gives 5,000 train, 1,000 validation and 1,000 test rows.
        fewest, most: terms of a problem.
        unseen: the multiplier that a device in training never sees.
        wrong: the one that it learns as `believed`.

    Raises:
        ConfigError: an option outside its range, or a problem space too small for `limit`.
    """

    name = "chain"
    template = "think"
    step_end = ";"

    def __init__(
        self,
        *,
        seed: int = 0,
        limit: int | None = None,
        fewest: int = 3,
        most: int = 4,
        unseen: int = 7,
        wrong: int = 8,
    ) -> None:
        if not 2 <= fewest <= most <= len(NUMBERS):
            raise ConfigError(f"fewest={fewest}, most={most}: needs 2 <= fewest <= most <= 8")
        for option, value in (("unseen", unseen), ("wrong", wrong)):
            if value not in MULTIPLIERS:
                raise ConfigError(f"{option} must be a multiplier from 2 to 9, not {value}")
        if unseen == wrong:
            raise ConfigError(f"unseen and wrong are both {wrong}; a multiplier that nobody saw is not learned wrongly")
        if limit is not None and limit < 1:
            raise ConfigError(f"limit must be at least 1, not {limit}")
        self.seed = seed
        self.limit = limit
        self.fewest = fewest
        self.most = most
        self.unseen = unseen
        self.wrong = wrong

    def multipliers(self, *, seen: bool = True, right: bool = True) -> list[int]:
        """All of them, or without the one that a device never saw, or the one that it learned wrongly."""
        left_out = {self.unseen} if not seen else set()
        left_out |= {self.wrong} if not right else set()
        return [multiplier for multiplier in MULTIPLIERS if multiplier not in left_out]

    def draw(self, rng: random.Random, multipliers: Sequence[int]) -> tuple[Term, ...]:
        """The terms of one problem of any split, in random order; no number stands twice."""
        numbers = rng.sample(NUMBERS, rng.randint(self.fewest, self.most))
        return tuple((number, rng.choice(multipliers)) for number in numbers)

    def problem(self, rng: random.Random, kind: Kind) -> tuple[Term, ...]:
        """The terms of one problem of a kind, of any split."""
        terms = list(self.draw(rng, self.multipliers(seen=False, right=False)))
        if kind == "known":
            return tuple(terms)
        special = self.unseen if kind == "unseen" else self.wrong
        for place in rng.sample(range(len(terms)), rng.randint(1, 2)):
            terms[place] = (terms[place][0], special)
        return tuple(terms)

    def rows(self, split: str) -> Iterator[Row]:
        """Rows of "train", "validation" or "test"; their kinds take turns."""
        if split not in DEFAULT_LIMITS:
            raise ConfigError(f"unknown split '{split}' of task 'chain'; use one of {', '.join(DEFAULT_LIMITS)}")
        count = self.limit if self.limit is not None else DEFAULT_LIMITS[split]
        rng = random.Random(f"chain/{split}/{self.seed}")
        seen: set[tuple[Term, ...]] = set()
        for _ in range(10_000 + 100 * count):
            kind = KINDS[len(seen) % len(KINDS)]
            terms = self.problem(rng, kind)
            key = tuple(sorted(terms))
            if key in seen or split_of(terms) != split:
                continue
            seen.add(key)
            yield _row(terms, kind)
            if len(seen) == count:
                return
        raise ConfigError(f"chain has fewer than {count} different '{split}' problems; lower limit")

    def verify(self, row: Row, completion: str) -> Verdict:
        """The answer is the first `<answer>` outside the reasoning; a leading zero may be left out."""
        answer = tagged_answer(completion)
        if answer is None:
            return Verdict(False, reason="no answer")
        if not _ANSWER.fullmatch(answer):
            return Verdict(False, answer[:200], "not a number")
        correct = int(answer) == int(row.gold)
        return Verdict(correct, answer, "" if correct else f"{int(answer)} is not {int(row.gold)}")

    def gold_completion(self, row: Row) -> str:
        return completion(row.fields["terms"])

    def steps(self, row: Row) -> list[str]:
        """The gold completion, step by step; the last is the answer."""
        return [piece for piece in re.split(f"(?<={self.step_end})", self.gold_completion(row)) if piece]

    def judge_step(self, row: Row, before: str, written: str) -> bool:
        """Whether a step follows from right steps before it, in whatever order they were taken.

        Args:
            before: the completion so far, every step of it right.
            written: the step, to its `step_end` or to the end of the completion.
        """
        done = _STEP.findall(before)
        total = int(done[-1][4]) if done else 0
        left = Counter(row.fields["terms"]) - Counter((int(n), int(m)) for n, m, *_ in done)
        if not left:
            return f"{before}{written}".endswith(f"{_CLOSING}<answer>{total:02}</answer>")
        taken = _STEP.fullmatch(written.removeprefix("" if before else _OPENING))
        if taken is None:
            return False
        term = (int(taken[1]), int(taken[2]))
        return term in left and taken[0] == step(term, product(term), total)


def _row(terms: tuple[Term, ...], kind: Kind) -> Row:
    total = sum(map(product, terms)) % MODULUS
    asked = question(terms)
    return Row(id=asked.split(" ")[0], question=asked, gold=f"{total:02}", fields={"terms": terms, "kind": kind})
