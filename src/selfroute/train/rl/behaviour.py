"""Where attempts come from beside the policy as it is: a tempered one, in the sampler alone, and a replay buffer.

The squared loss of a balance holds for attempts from anywhere, without importance weights; see `objectives.balance`.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from selfroute.bounds import Count, Positive, Rate, check_fields
from selfroute.errors import ConfigError
from selfroute.train.rl.rollouts.base import Attempts, Prompt, Sampler

__all__ = ["Behaviour", "Kept", "ReplayBuffer", "Replaying", "edit_distance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How attempts are drawn that an off-policy objective learns from.

    Attributes:
        tempered: part of the steps whose attempts are drawn at another temperature; the loss knows nothing of it.
        coldest, hottest: between which that temperature is drawn.
        replayed: part of each group that comes from attempts at the same prompt in earlier steps.
        capacity: attempts that are kept of a prompt.
        recent: part of the replayed that are the newest; the others are drawn by exp(reward).
        alike: edit distance, as a part of the longer one, below which two attempts count as one.

    Raises:
        ConfigError: an option that cannot be.
    """

    tempered: Rate = 0.0
    coldest: Positive = 0.5
    hottest: Positive = 2.0
    replayed: Rate = 0.0
    capacity: Count = 50
    recent: Rate = 0.5
    alike: Rate = 0.25

    def __post_init__(self) -> None:
        check_fields(self)
        if self.coldest > self.hottest:
            raise ConfigError(f"coldest: {self.coldest:g} is above hottest={self.hottest:g}; swap them")

    def heat(self, seed: int, step: int) -> float:
        """Temperature of a step's attempts, from the seed and the step alone."""
        luck = random.Random(f"heat/{seed}/{step}")
        return luck.uniform(self.coldest, self.hottest) if luck.random() < self.tempered else 1.0


def edit_distance(left: Sequence[int], right: Sequence[int]) -> int:
    """Insertions, deletions and replacements between two sequences (Levenshtein)."""
    row = list(range(len(right) + 1))
    for i, one in enumerate(left, 1):
        corner, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (one != other))
    return row[-1]


@dataclass(slots=True)
class Kept:
    """An attempt in the buffer.

    Attributes:
        ids: its tokens.
        reward: what it was worth when it was last graded.
        version: of the reward, see `ReplayBuffer`.
        born: how many attempts had been taken in before it.
    """

    ids: list[int]
    reward: float
    version: int
    born: int


@dataclass(kw_only=True)
class ReplayBuffer:
    """Attempts by prompt, the best and the newest of which come back.

    Attributes:
        capacity, recent, alike: as in `Behaviour`.
        version: of what rewards are made of; what was graded under an earlier one is not drawn, and is forgotten first.
    """

    capacity: int = 50
    recent: float = 0.5
    alike: float = 0.25
    version: int = 0
    kept: dict[str, list[Kept]] = field(default_factory=dict)
    taken: int = 0

    def __len__(self) -> int:
        return sum(len(entries) for entries in self.kept.values())

    def add(self, prompt: str, ids: Sequence[int], reward: float) -> None:
        """Take an attempt in; one that is like a better one is left out, and the worst leave where there is no room."""
        if math.isnan(reward):
            return
        entries, new = self.kept.setdefault(prompt, []), Kept(list(ids), reward, self.version, self.taken)
        self.taken += 1
        twins = [entry for entry in entries if self._are_alike(entry.ids, new.ids)]
        if any(self._is_better(twin, new) for twin in twins):
            return
        entries[:] = [entry for entry in entries if not any(entry is twin for twin in twins)] + [new]
        entries.sort(key=lambda entry: (entry.version, entry.reward, entry.born))
        del entries[: max(0, len(entries) - self.capacity)]

    def draw(self, prompt: str, count: int, luck: random.Random) -> list[list[int]]:
        """At most `count` different attempts at a prompt."""
        left = [entry for entry in self.kept.get(prompt, []) if entry.version == self.version]
        found: list[list[int]] = []
        while left and len(found) < count:
            if luck.random() < self.recent:
                chosen = max(left, key=lambda entry: entry.born)
            else:
                best = max(entry.reward for entry in left)
                (chosen,) = luck.choices(left, [math.exp(entry.reward - best) for entry in left])
            left = [entry for entry in left if entry is not chosen]
            found.append(chosen.ids)
        return found

    def _are_alike(self, one: Sequence[int], other: Sequence[int]) -> bool:
        longest, shortest = max(len(one), len(other)), min(len(one), len(other))
        if longest - shortest > self.alike * longest:  # they are at least as far apart as their lengths
            return False
        return one == other or edit_distance(one, other) < self.alike * longest

    @staticmethod
    def _is_better(twin: Kept, new: Kept) -> bool:
        return twin.ids != new.ids and (twin.version, twin.reward) >= (new.version, new.reward)

    def state(self) -> dict[str, Any]:
        """Ready for JSON."""
        kept = {prompt: [asdict(entry) for entry in entries] for prompt, entries in self.kept.items()}
        return {"version": self.version, "taken": self.taken, "kept": kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.version, self.taken = state["version"], state["taken"]
        self.kept = {prompt: [Kept(**entry) for entry in entries] for prompt, entries in state["kept"].items()}


class Replaying:
    """Attempts in one turn, some of each group out of a buffer; what was never graded is not in it.

    Args:
        options: what is replayed; at least one attempt of a group is new.
        seed: of the draws.
    """

    def __init__(self, options: Behaviour, *, seed: int) -> None:
        self.options = options
        self.seed = seed
        self.buffer = ReplayBuffer(capacity=options.capacity, recent=options.recent, alike=options.alike)

    def generate(self, prompts: Sequence[Prompt], sampler: Sampler) -> Attempts:
        """See `Rollout`."""
        ids = sampler.encode(prompts)
        old = self._replayed(ids, sampler.group)
        fresh = [place for place in range(len(ids)) if place not in old]
        written, _ = sampler.write([ids[place] for place in fresh])
        made = {**old, **dict(zip(fresh, written, strict=True))}
        replayed = [float(place in old) for place in range(len(ids))]
        return Attempts(
            prompts=ids, completions=[made[place] for place in range(len(ids))], facts={"replayed": replayed}
        )

    def _replayed(self, ids: Sequence[Sequence[int]], group: int) -> dict[int, list[int]]:
        """By place the attempts that come back, at the end of each group."""
        wanted, found = min(round(self.options.replayed * group), group - 1), {}
        for start in range(0, len(ids), group):
            key = key_of(ids[start])
            luck = random.Random(f"replay/{self.seed}/{self.buffer.taken}/{key}")
            for offset, attempt in enumerate(self.buffer.draw(key, wanted, luck), 1):
                found[start + group - offset] = attempt
        return found

    def remember(self, tried: Iterable[tuple[str, Sequence[int], float]]) -> None:
        """Take in a step's attempts, of all processes: key of the prompt, tokens, reward."""
        for key, ids, reward in tried:
            self.buffer.add(key, ids, reward)

    def state(self) -> Any:
        """As in `selfroute.train.rl.checkpoint.Part`."""
        return self.buffer.state()

    def restore(self, state: Any) -> None:
        """As in `selfroute.train.rl.checkpoint.Part`."""
        self.buffer.restore(state)


def key_of(prompt: Sequence[int]) -> str:
    """What a prompt's attempts are kept under."""
    return hashlib.blake2b(repr(list(prompt)).encode(), digest_size=16).hexdigest()
