"""A buffer of attempts by prompt, and the rollout that brings some of them back."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from selfroute.errors import ConfigError
from selfroute.train.rl.behaviour import Behaviour
from selfroute.train.rl.rollouts.base import Attempts, Prompt, Sampler

__all__ = ["Kept", "ReplayBuffer", "Replaying", "edit_distances", "key_of", "text_of"]


def edit_distances(one: Sequence[int], others: Sequence[Sequence[int]]) -> list[int]:
    """Insertions, deletions and replacements between a sequence and each of several (Levenshtein), all at once."""
    if not others:
        return []
    width = max(map(len, others))
    padded = np.array([[*other, *[-1] * (width - len(other))] for other in others], dtype=np.int64)
    padded = padded.reshape(len(others), width)
    places = np.arange(width + 1)
    row = np.tile(places, (len(others), 1))
    for count, token in enumerate(one, 1):
        best = np.minimum(row[:, :-1] + (padded != token), row[:, 1:] + 1)
        row = np.concatenate([np.full((len(others), 1), count), best], axis=1)
        # An insertion costs one more than the place before: a running minimum, once the places are taken off.
        row = np.minimum.accumulate(row - places, axis=1) + places
    return [int(row[i, len(other)]) for i, other in enumerate(others)]


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
        twins = self._twins(new.ids, entries)
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

    def _twins(self, ids: list[int], entries: Sequence[Kept]) -> list[Kept]:
        """Entries that count as the same attempt."""

        def room(entry: Kept) -> float:
            return self.alike * max(len(entry.ids), len(ids))

        # Two attempts are at least as far apart as their lengths.
        near = [entry for entry in entries if abs(len(entry.ids) - len(ids)) < room(entry) or entry.ids == ids]
        apart = edit_distances(ids, [entry.ids for entry in near])
        return [entry for entry, far in zip(near, apart, strict=True) if far < room(entry) or not far]

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

    Attributes:
        worked: by the text of a prompt, see `text_of`, a right completion that its attempts begin with.
        worth: of such a completion, until it is graded.
    """

    def __init__(self, options: Behaviour, *, seed: int) -> None:
        self.options = options
        self.seed = seed
        self.worked: Mapping[str, Sequence[int]] = {}
        self.worth = 0.0
        self.buffer = ReplayBuffer(capacity=options.capacity, recent=options.recent, alike=options.alike)

    def begin_with(
        self, rows: Iterable[Mapping[str, Any]], worked: Mapping[str, str], tokenizer: Any, worth: float
    ) -> None:
        """Tell what is right of each row.

        Args:
            rows: with `row_id` and `prompt`.
            worked: by row id a right completion, without the end that it gets here.
            worth: see the attribute.

        Raises:
            ConfigError: a row has none.
        """

        def tokens(row: Mapping[str, Any]) -> list[int]:
            if row["row_id"] not in worked:
                raise ConfigError(
                    f"behaviour.worked: row '{row['row_id']}' has no right completion; hand it in with worked={{…}}"
                )
            right = tokenizer(worked[row["row_id"]], add_special_tokens=False)["input_ids"]
            return [*right, tokenizer.eos_token_id]

        self.worth = worth
        self.worked = {text_of(row["prompt"]): tokens(row) for row in rows}

    def generate(self, prompts: Sequence[Prompt], sampler: Sampler) -> Attempts:
        """See `Rollout`."""
        ids = sampler.encode(prompts)
        self._begin(prompts, ids)
        old = self._replayed(ids, sampler.group)
        fresh = [place for place in range(len(ids)) if place not in old]
        written = sampler.write([ids[place] for place in fresh]).ids
        made = {**old, **dict(zip(fresh, written, strict=True))}
        replayed = [float(place in old) for place in range(len(ids))]
        return Attempts(
            prompts=ids, completions=[made[place] for place in range(len(ids))], facts={"replayed": replayed}
        )

    def _begin(self, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]]) -> None:
        """Put the right completion of each prompt that has none of its attempts yet into the buffer."""
        for prompt, row in zip(prompts, ids, strict=True):
            key, right = key_of(row), self.worked.get(text_of(prompt))
            if right is not None and key not in self.buffer.kept:
                self.buffer.add(key, right, self.worth)

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


def text_of(prompt: Prompt) -> str:
    """A prompt as one text, which no other has."""
    return json.dumps(prompt, sort_keys=True)


def key_of(prompt: Sequence[int]) -> str:
    """What a prompt's attempts are kept under."""
    return hashlib.blake2b(repr(list(prompt)).encode(), digest_size=16).hexdigest()
