"""Lookup: look values up, then add them; how many calls a problem needs cannot be seen beforehand.

A problem is `Add 4821 and 1077`: the values that stand under two keys, from 0 to 49 each. Under a key stands a value,
or another key to look under, up to two times. Some values are noisy: they are read with a `~`, and each reading shows
another value with probability 0.4::

    <tool>lookup 4821</tool><result>see 3310</result>
    <tool>lookup 3310</tool><result>~17</result>
    <tool>lookup 3310</tool><result>~17</result>
    <tool>lookup 1077</tool><result>5</result>
    <tool>calc 17+5</tool><result>22</result>
    <answer>22</answer>

So an agent learns of the difficulty only behind what a tool says: whether to read again, to go on, or to ask the cloud.

What stands under a key is a hash of it, the same in every split. Splits cannot overlap: a problem's split is a hash of
its keys, order ignored.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from selfroute.actions import Action
from selfroute.errors import ConfigError
from selfroute.tasks.base import Observation, Row, Tool
from selfroute.tasks.episode import Episode, Move, Moved, text_parameters
from selfroute.verify.arithmetic import ExpressionError, evaluate
from selfroute.verify.base import Verdict
from selfroute.verify.extract import tagged_answer

__all__ = ["CALC", "DEFAULT_LIMITS", "LOOKUP", "Entry", "Lookup", "Table", "question", "split_of"]

KEYS, VALUES = 10_000, 50
DEFAULT_LIMITS: Mapping[str, int] = {"train": 5_000, "validation": 500, "test": 1_000}
# Share of the problem space per split, in percent: train below 80, validation below 90, test the rest.
_TRAIN_BELOW, _VALIDATION_BELOW = 80, 90
_QUESTION = re.compile(r"Add (\d{4}) and (\d{4})\.?", re.ASCII)
_ANSWER = re.compile(r"\d{1,6}", re.ASCII)

LOOKUP = Tool(name="lookup", description="What stands under a key.", parameters=text_parameters(key="four digits"))
CALC = Tool(name="calc", description="Compute.", parameters=text_parameters(expression="such as 17+5"))

Seen = tuple[tuple[str, int], ...]  # how often each noisy key was read, in the order of the keys


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands under a key.

    Attributes:
        kind: "value", "noisy" for a value that is read with errors, or "link".
        value: of the key; of a link, of the key that it leads to.
        next: the key that a link names, empty otherwise.
    """

    kind: Literal["value", "noisy", "link"]
    value: int
    next: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What stands under every key, as a function of it.

    Attributes:
        links: share of the keys under which another key stands; of these a third lead on to a second one.
        noisy: share of the other keys whose value is noisy.
        errors: probability that a reading of a noisy value shows another.
    """

    links: float
    noisy: float
    errors: float

    def depth(self, key: str) -> int:
        """How many links lead from a key to its value, 0 to 2."""
        drawn = random.Random(f"lookup/{key}/depth").random()
        return 0 if drawn >= self.links else 2 if drawn < self.links / 3 else 1

    @lru_cache(maxsize=KEYS)  # noqa: B019 - tables are few and small
    def entry(self, key: str) -> Entry:
        """What stands under a key."""
        rng, depth = random.Random(f"lookup/{key}"), self.depth(key)
        if depth:
            target = next(key for key in iter(lambda: f"{rng.randrange(KEYS):04}", "") if self.depth(key) == depth - 1)
            return Entry("link", self.entry(target).value, target)
        return Entry("noisy" if rng.random() < self.noisy else "value", rng.randrange(VALUES))

    def reading(self, key: str, count: int) -> str:
        """What is read under a key that was read so often before."""
        entry = self.entry(key)
        if entry.kind == "link":
            return f"see {entry.next}"
        if entry.kind == "value":
            return str(entry.value)
        rng = random.Random(f"lookup/{key}/{count}")
        slip = rng.randrange(1, VALUES) if rng.random() < self.errors else 0
        return f"~{(entry.value + slip) % VALUES}"


def question(first: str, second: str) -> str:
    """As it is asked, without the final full stop, which the prompt template adds."""
    return f"Add {first} and {second}"


def split_of(first: str, second: str) -> str:
    """The one split that may hold these keys."""
    bucket = int.from_bytes(hashlib.sha256("+".join(sorted((first, second))).encode()).digest()[:8], "big") % 100
    return "train" if bucket < _TRAIN_BELOW else "validation" if bucket < _VALIDATION_BELOW else "test"


class Lookup:
    """Add two values that have to be looked up; what a problem takes shows only behind its first calls.

    Args:
        seed: draws the problems; the same seed gives the same rows.
        limit: rows per split; None gives 5,000 train, 500 validation and 1,000 test rows.
        links: share of the keys under which another key stands.
        noisy: share of the other keys whose value is read with errors.
        errors: probability that a reading of a noisy value shows another.

    Raises:
        ConfigError: an option outside its range, or a problem space too small for `limit`.
    """

    name = "lookup"
    template = "tools"

    def __init__(
        self,
        *,
        seed: int = 0,
        limit: int | None = None,
        links: float = 0.3,
        noisy: float = 0.3,
        errors: float = 0.4,
    ) -> None:
        for option, value in (("noisy", noisy), ("errors", errors)):
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"{option} must be from 0 to 1, not {value:g}")
        if not 0.0 <= links <= 0.9:
            raise ConfigError(f"links must be from 0 to 0.9, not {links:g}: links have to lead somewhere")
        if limit is not None and limit < 1:
            raise ConfigError(f"limit must be at least 1, not {limit}")
        self.seed = seed
        self.limit = limit
        self.table = Table(links=links, noisy=noisy, errors=errors)

    def rows(self, split: str) -> Iterator[Row]:
        """Rows of "train", "validation" or "test"."""
        if split not in DEFAULT_LIMITS:
            raise ConfigError(f"unknown split '{split}' of task 'lookup'; use one of {', '.join(DEFAULT_LIMITS)}")
        count = self.limit if self.limit is not None else DEFAULT_LIMITS[split]
        rng = random.Random(f"lookup/{split}/{self.seed}")
        seen: set[tuple[str, ...]] = set()
        for _ in range(10_000 + 100 * count):
            keys = tuple(f"{number:04}" for number in rng.sample(range(KEYS), 2))
            if tuple(sorted(keys)) in seen or split_of(*keys) != split:
                continue
            seen.add(tuple(sorted(keys)))
            yield self._row(keys)
            if len(seen) == count:
                return
        raise ConfigError(f"lookup has fewer than {count} different '{split}' problems; lower limit")

    def _row(self, keys: tuple[str, ...]) -> Row:
        ends = [self._end(key) for key in keys]
        fields = {
            "keys": keys,
            "links": sum(map(self.table.depth, keys)),
            "noisy": sum(entry.kind == "noisy" for entry in ends),
        }
        gold = str(sum(entry.value for entry in ends))
        return Row(id="-".join(keys), question=question(*keys), gold=gold, fields=fields)

    def _end(self, key: str) -> Entry:
        """The entry that holds a key's value."""
        entry = self.table.entry(key)
        return self._end(entry.next) if entry.kind == "link" else entry

    def verify(self, row: Row, completion: str) -> Verdict:
        """The first `<answer>` outside the reasoning is the sum; a leading zero may be left out."""
        answer = tagged_answer(completion)
        if answer is None:
            return Verdict(False, reason="no answer")
        if not _ANSWER.fullmatch(answer):
            return Verdict(False, answer[:200], "not a number")
        correct = int(answer) == int(row.gold)
        return Verdict(correct, answer, "" if correct else f"{int(answer)} is not {int(row.gold)}")

    def gold_completion(self, row: Row) -> str:
        return f"<answer>{row.gold}</answer>"

    def environment(self, row: Row) -> Episode[Seen]:
        """The table; the question says what to look up in it."""
        if _QUESTION.fullmatch(row.question.strip()) is None:
            raise ConfigError(f"question {row.question!r:.80} names no keys; ask as in 'Add 4821 and 1077'")

        def judge(answer: str) -> float | None:
            return self.verify(row, f"<answer>{answer}</answer>").quality if row.gold else None

        return Episode[Seen]((), ((LOOKUP, _reader(self.table)), (CALC, _calc)), judge, options=self._options(row))

    def _options(self, row: Row) -> Callable[[Seen], list[Action]]:
        keys = re.findall(r"\d{4}", row.question)
        reached = [*keys, *(entry.next for key in keys for entry in self._links(key))]
        return lambda seen: [Action(key, LOOKUP.name) for key in reached]

    def _links(self, key: str) -> Iterator[Entry]:
        entry = self.table.entry(key)
        if entry.kind == "link":
            yield entry
            yield from self._links(entry.next)


def _reader(table: Table) -> Move[Seen]:
    def look(seen: Seen, arguments: Mapping[str, Any]) -> Moved[Seen]:
        key = arguments["key"].strip()
        if not re.fullmatch(r"\d{4}", key, re.ASCII):
            return seen, Observation(f"no key {key[:20]!r}; a key is four digits")
        before = dict(seen)
        count = before.get(key, 0)
        if table.entry(key).kind == "noisy":
            before[key] = count + 1
        return tuple(sorted(before.items())), Observation(table.reading(key, count))

    return look


def _calc(seen: Seen, arguments: Mapping[str, Any]) -> Moved[Seen]:
    try:
        return seen, Observation(str(evaluate(arguments["expression"], max_length=60).value))
    except (ExpressionError, ValueError) as error:
        return seen, Observation(f"cannot compute: {error}")
