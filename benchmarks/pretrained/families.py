"""Families of short problems at several difficulties, each with its working where one can be written.

Half are our own; the others are reasoning-gym's (arXiv 2505.24760), at settings small enough for a model of 135 M
parameters. Which of them a benchmark takes is decided by `survey.py`, by a rule that was fixed before it ran.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from selfroute.errors import ConfigError

WORDS = (
    "apple", "river", "stone", "cloud", "table", "green", "horse", "paper", "light", "water", "bread", "chair",
    "clock", "dance", "eagle", "flame", "glass", "house", "inner", "jelly", "knife", "lemon", "money", "night",
    "ocean", "piano", "queen", "robin", "sugar", "tiger", "uncle", "voice", "whale", "xenon", "youth", "zebra",
    "amber", "brick", "crane", "daisy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        work: what is written before the answer; empty where the answer comes at once.
    """

    question: str
    answer: str
    work: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """Problems of one kind and one difficulty.

    Attributes:
        kind: what it is called without its difficulty.
        level: from 1, the easiest.
        draw: problems without end, other ones for another seed.
        slips: how often the recorded cloud is wrong. Letters are what large models slip on, too.
    """

    kind: str
    level: int
    draw: Callable[[int], Iterator[Problem]] = field(repr=False)
    slips: float = 0.05

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.level}"


# --- our own --------------------------------------------------------------------------------------------------------


def number(rng: random.Random, digits: int) -> int:
    return rng.randrange(10 ** (digits - 1), 10**digits)


def added(rng: random.Random, terms: int, digits: int) -> Problem:
    values = [number(rng, digits) for _ in range(terms)]
    total, lines = values[0], []
    for value in values[1:]:
        lines.append(f"{total} + {value} = {total + value}")
        total += value
    return Problem(f"Compute {' + '.join(map(str, values))}.", str(total), "\n".join(lines))


def subtracted(rng: random.Random, digits: int) -> Problem:
    high, low = sorted((number(rng, digits), number(rng, digits)), reverse=True)
    return Problem(f"Compute {high} - {low}.", str(high - low), f"{high} - {low} = {high - low}")


def multiplied(rng: random.Random, digits: int) -> Problem:
    one, other = rng.randrange(3, 10), number(rng, digits)
    parts = [int(digit) * 10**place for place, digit in enumerate(reversed(str(other))) if digit != "0"]
    said = [f"{one} * {part} = {one * part}" for part in reversed(parts)]
    work = "\n".join([*said, f"total {one * other}"]) if len(parts) > 1 else said[0]
    return Problem(f"Compute {one} * {other}.", str(one * other), work)


def remainder(rng: random.Random, digits: int) -> Problem:
    by, value = rng.randrange(3, 10), number(rng, digits)
    whole = value // by * by
    return Problem(
        f"What is the remainder of {value} divided by {by}?", str(value - whole), f"{whole} is a multiple of {by}"
    )


def paid(rng: random.Random, things: int) -> Problem:
    bought = rng.sample(("pen", "book", "cup", "ball", "lamp", "cap"), things)
    counts, prices = ([rng.randrange(2, 10) for _ in bought] for _ in range(2))
    listed = ", ".join(f"a {thing} costs {price}" for thing, price in zip(bought, prices, strict=True))
    asked = " and ".join(f"{n} {thing}s" for thing, n in zip(bought, counts, strict=True))
    parts = [n * price for n, price in zip(counts, prices, strict=True)]
    lines = [f"{n} * {price} = {part}" for n, price, part in zip(counts, prices, parts, strict=True)]
    total = [f"{' + '.join(map(str, parts))} = {sum(parts)}"] if things > 1 else []
    return Problem(f"{listed.capitalize()}. What do {asked} cost?", str(sum(parts)), "\n".join([*lines, *total]))


def later(rng: random.Random, most: int) -> Problem:
    start, more = rng.randrange(24 * 60), rng.randrange(5, most)
    end = (start + more) % (24 * 60)
    clock = f"{end // 60:02d}:{end % 60:02d}"
    return Problem(f"It is {start // 60:02d}:{start % 60:02d}. What time is it {more} minutes later?", clock)


def reversed_word(rng: random.Random, letters: int) -> Problem:
    word = rng.choice(WORDS)[:letters] if letters <= 5 else rng.choice(WORDS) + rng.choice(WORDS)[: letters - 5]
    spelled = " ".join(word)
    return Problem(f"Write '{word}' backwards.", word[::-1], f"{spelled} -> {' '.join(word[::-1])}")


def letter_at(rng: random.Random, letters: int) -> Problem:
    word = (rng.choice(WORDS) + rng.choice(WORDS))[:letters]
    place = rng.randrange(1, letters + 1)
    return Problem(f"What is letter number {place} of '{word}'?", word[place - 1])


def sorted_numbers(rng: random.Random, count: int) -> Problem:
    values = rng.sample(range(10, 100), count)
    return Problem(f"Sort from small to large: {', '.join(map(str, values))}", ", ".join(map(str, sorted(values))))


def greatest(rng: random.Random, places: int) -> Problem:
    whole = rng.randrange(1, 10)
    values = sorted({f"{whole}.{rng.randrange(1, 10 ** rng.randint(1, places))}" for _ in range(3)}, key=float)
    told = rng.sample(values, len(values))
    return Problem(f"Which is the largest: {', '.join(told)}?", values[-1])


def drawn(write: Callable[..., Problem], seed: int, /, **options: Any) -> Iterator[Problem]:
    rng = random.Random(f"{write.__name__}/{sorted(options.items())}/{seed}")
    while True:
        yield write(rng, **options)


# --- reasoning-gym's ------------------------------------------------------------------------------------------------


def of_gym(name: str, seed: int, /, **options: Any) -> Iterator[Problem]:
    try:
        import reasoning_gym
    except ImportError:
        raise ConfigError(f"family '{name}' needs reasoning-gym: pip install 'selfroute[tasks]'") from None
    for block in count():
        rows = reasoning_gym.create_dataset(name, seed=(seed * 1000 + block) * 1_000_000, size=500, **options)
        for entry in rows:
            if answer := " ".join(str(entry["answer"]).split()):  # of base_conversion's zero, say, it has none
                yield Problem(" ".join(str(entry["question"]).split()), answer)


# --- the table ------------------------------------------------------------------------------------------------------


def own(write: Callable[..., Problem], levels: Sequence[Mapping[str, Any]], slips: float = 0.05) -> list[Family]:
    return [
        Family(write.__name__, level, partial(drawn, write, **options), slips)
        for level, options in enumerate(levels, 1)
    ]


def gym(name: str, levels: Sequence[Mapping[str, Any]], slips: float = 0.05) -> list[Family]:
    return [Family(name, level, partial(of_gym, name, **options), slips) for level, options in enumerate(levels, 1)]


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in [
        *own(added, [{"terms": 2, "digits": 2}, {"terms": 3, "digits": 2}, {"terms": 3, "digits": 3}]),
        *own(subtracted, [{"digits": 2}, {"digits": 3}]),
        *own(multiplied, [{"digits": 1}, {"digits": 2}, {"digits": 3}]),
        *own(remainder, [{"digits": 2}, {"digits": 3}]),
        *own(paid, [{"things": 1}, {"things": 2}, {"things": 3}]),
        *own(later, [{"most": 60}, {"most": 300}]),
        *own(reversed_word, [{"letters": 3}, {"letters": 4}, {"letters": 5}], 0.2),
        *own(letter_at, [{"letters": 4}, {"letters": 7}], 0.2),
        *own(sorted_numbers, [{"count": 3}, {"count": 5}]),
        *own(greatest, [{"places": 1}, {"places": 2}]),
        *gym("calendar_arithmetic", [{"tasks": ["weekday_offset"], "offset_upper_bound": 10}], 0.1),
        *gym("count_bits", [{"max_n": 31}, {"max_n": 255}], 0.1),
        *gym("count_primes", [{"max_n": 30}, {"max_n": 60}], 0.1),
        *gym("family_relationships", [{"max_family_size": 4}], 0.1),
        *gym("fraction_simplification", [{"max_value": 9, "max_factor": 5, "styles": ["plain"]}]),
        *gym("gcd", [{"max_value": 20}, {"max_value": 60}]),
        *gym("lcm", [{"max_value": 9}, {"max_value": 20}]),
        *gym("leg_counting", [{"min_animals": 1, "max_animals": 1}, {"min_animals": 2, "max_animals": 2}]),
        *gym("letter_counting", [{"min_words": 2, "max_words": 3}, {"min_words": 4, "max_words": 6}], 0.2),
        *gym("number_sequence", [{"max_complexity": 1, "min_value": 0, "max_value": 20}], 0.1),
        *gym("simple_equations", [{"min_terms": 2, "max_terms": 2, "max_value": 9}]),
        *gym("simple_geometry", [{"min_sides": 3, "max_sides": 3}, {"min_sides": 4, "max_sides": 4}]),
        *gym("syllogism", [{}], 0.1),
        *gym("base_conversion", [{"min_base": 2, "max_base": 4, "max_value": 15}]),
        *gym("decimal_chain_sum", [{"max_terms": 2, "max_digits": 1, "max_decimal_places": 1}]),
        *gym("prime_factorization", [{"max_value": 30}, {"max_value": 99}]),
        *gym("complex_arithmetic", [{"operations": ["+"], "operations_weights": [1.0]}]),
        *gym("aiw", [{}], 0.1),
    ]
}
