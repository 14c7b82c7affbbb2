"""An agent whose words come from a table, and every way that its attempts can turn out."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from selfroute.tasks.base import Observation, Tool
from selfroute.tasks.episode import Episode, text_parameters
from selfroute.train.rl.rollouts.base import Attempts, Prompt, Turns

END = "<end>"
Policy = Callable[[tuple[str, ...]], Mapping[str, float]]
Gradient = dict[tuple[tuple[str, ...], str], float]  # by context and word, of a table of logits


class Chance:
    """Draws by a path of choices, and the first choice beyond it; knows what else there was."""

    def __init__(self, path: Sequence[int] = ()) -> None:
        self.path, self.taken, self.sizes = list(path), list[int](), list[int]()
        self.probability = 1.0

    def __call__(self, words: Mapping[str, float]) -> str:
        at = len(self.taken)
        place = self.path[at] if at < len(self.path) else 0
        self.taken.append(place)
        self.sizes.append(len(words))
        word = list(words)[place]
        self.probability *= words[word]
        return word


def every_way(run: Callable[[Chance], Any]) -> Iterator[tuple[float, Any]]:
    """All outcomes of a run with their probabilities."""
    paths: list[list[int]] = [[]]
    while paths:
        path = paths.pop()
        chance = Chance(path)
        found = run(chance)
        yield chance.probability, found
        for at in range(len(path), len(chance.taken)):
            paths += [[*chance.taken[:at], other] for other in range(1, chance.sizes[at])]


def by_luck(seed: int) -> Callable[[Mapping[str, float]], str]:
    rng = random.Random(seed)
    return lambda words: rng.choices(list(words), weights=list(words.values()))[0]


class Table:
    """A sampler whose every word is drawn from a policy; a token is a word, and a result is one word too."""

    def __init__(self, policy: Policy, chance: Callable[[Mapping[str, float]], str], *, group: int, limit: int) -> None:
        self.policy, self.chance, self.group, self.limit = policy, chance, group, limit
        self.words = [END, "prompt"]
        self.ends = frozenset({0})
        self.drawn = 0

    def id_of(self, word: str) -> int:
        if word not in self.words:
            self.words.append(word)
        return self.words.index(word)

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        return [[1] for _ in prompts]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        return ["".join(self.words[i] for i in row if i) for row in ids]

    def read(self, text: str) -> list[int]:
        return [self.id_of(text)]

    def luck(self) -> random.Random:
        return random.Random(0)

    def speller(self) -> Any:
        raise AssertionError("trees need no speller")

    def write(
        self,
        prompts: Any,
        *,
        group: int = 1,
        until: Sequence[str] = (),
        limits: Sequence[int] | None = None,
        entropies: int = 0,
    ) -> Turns:
        most = limits or [self.limit] * len(prompts)
        turns = [self._one(list(row[1:]), n, until) for row, n in zip(prompts, most, strict=True)]
        seen = [turn[:entropies] for turn in turns] if entropies else []
        return Turns(
            ids=turns,
            entropies=[self._entropy([*row[1:], *turn], len(turn)) for row, turn in zip(prompts, seen, strict=False)],
        )

    def _one(self, before: list[int], limit: int, until: Sequence[str]) -> list[int]:
        written: list[int] = []
        while len(written) < limit:
            context = tuple(self.words[i] for i in [*before, *written])
            written.append(self.id_of(self.chance(self.policy(context))))
            self.drawn += 1
            if written[-1] == 0 or any(self.words[written[-1]].endswith(mark) for mark in until):
                break
        return written

    def _entropy(self, ids: Sequence[int], count: int) -> float:
        words = [self.words[i] for i in ids]
        contexts = [tuple(words[:at]) for at in range(len(words) - count, len(words))]
        return sum(entropy(self.policy(context)) for context in contexts) / count


def entropy(words: Mapping[str, float]) -> float:
    return -sum(p * math.log(p) for p in words.values() if p) / math.log(10)


def gradient_of(made: Attempts, weights: Sequence[float], table: Table) -> Gradient:
    """Σ w ∇ log π over the policy's own words of each attempt."""
    found: Gradient = defaultdict(float)
    assert made.own is not None
    for ids, own, weight in zip(made.completions, made.own, weights, strict=True):
        words = [table.words[i] for i in ids]
        for at, word in enumerate(words):
            if own[at]:
                context = tuple(words[:at])
                for other, probability in table.policy(context).items():
                    found[context, other] += weight * ((other == word) - probability)
    return found


def distance(one: Gradient, other: Gradient) -> float:
    return math.sqrt(sum((one.get(key, 0.0) - other.get(key, 0.0)) ** 2 for key in {*one, *other}))


def size(one: Gradient) -> float:
    return distance(one, {})


def world(results: Mapping[str, str]) -> Callable[[Prompt], Episode[int]]:
    """An environment with one tool that says something to each text; its state counts the calls."""
    tool = Tool(name="look", description="", parameters=text_parameters(at="where"))

    def open_one(prompt: Prompt) -> Episode[int]:
        def look(state: int, arguments: Mapping[str, Any]) -> tuple[int, Observation]:
            said = results[arguments["at"]]
            return state + 1, Observation(said, done=said == "done")

        return Episode(0, ((tool, look),), lambda answer: None)

    return open_one
