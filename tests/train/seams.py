"""A second objective, reward, rollout and constraint, as a user would write them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from tests.train.tiny import WORDS
from torch import Tensor

from selfroute.grading import Outcome
from selfroute.train.rl.constraints.dual import Multiplier
from selfroute.train.rl.objectives.base import Scored
from selfroute.train.rl.objectives.group import group_advantages
from selfroute.train.rl.rollouts.base import Attempts, Prompt, Sampler
from selfroute.train.rl.view import TokenView


class VarGrad:
    """The variance of log π - r within a group goes down: trajectory balance with a log Z of the group's own."""

    needs: ClassVar = frozenset({"logq"})
    sums: ClassVar = True

    def weights(self, batch: Scored) -> Tensor:
        assert batch.logq is not None
        gap = batch.logq - batch.rewards
        return -2 * (gap - gap.mean(1, keepdim=True)) / (gap.shape[1] - 1)


class Fading:
    """The group's advantage, halved from token to token."""

    needs: ClassVar = frozenset({"own"})
    sums: ClassVar = True

    def weights(self, batch: Scored) -> Tensor:
        assert batch.own is not None
        return group_advantages(batch.rewards)[..., None] * 0.5 ** torch.arange(batch.own.shape[2])


class ByLoss:
    """The group's estimator as a loss of its own."""

    needs: ClassVar = frozenset[str]()
    sums: ClassVar = True

    def weights(self, batch: Scored) -> Tensor:
        return group_advantages(batch.rewards)

    def loss(self, view: TokenView, rows: dict[str, Any]) -> Tensor:
        return -rows["advantages"] * (view.logps * view.own).sum(1)


def brief(outcome: Outcome) -> float | None:
    """A right answer of the device pays, and each of its tokens costs; the cloud pays nothing."""
    if outcome.wants_cloud or outcome.device_correct is None:
        return 0.0
    return outcome.device_correct - 0.1 * outcome.device_tokens


def given_words(prompt: Sequence[int], place: int) -> list[int]:
    rng = random.Random(f"{list(prompt)}/{place}")
    return [rng.randrange(4, 20) for _ in range(rng.randint(1, 5))]


class Given:
    """Attempts by prompt and place in the group alone, the middle tokens of which a tool wrote."""

    def __init__(self, *, tools: bool = False, first: int = 0) -> None:
        self.tools = tools
        self.first = first  # rollouts of the processes before this one

    def generate(self, prompts: Sequence[Prompt], sampler: Sampler) -> Attempts:
        ids = sampler.encode(prompts)
        places = [(self.first + i) % sampler.group for i in range(len(ids))]
        words = [given_words(prompt, place) for prompt, place in zip(ids, places, strict=True)]
        own = [[int(0 in (i, len(row) - 1 - i)) for i in range(len(row))] for row in words]
        return Attempts(prompts=ids, completions=words, own=own if self.tools else None, facts={"place": places})


class TwoTurns:
    """The policy writes, is told a word, and writes again."""

    def generate(self, prompts: Sequence[Prompt], sampler: Sampler) -> Attempts:
        ids, told = sampler.encode(prompts), WORDS.index("w0")
        first = sampler.write(ids, group=sampler.group).ids
        second = sampler.write([[*a, *b, told] for a, b in zip(ids, first, strict=True)]).ids
        completions = [[*a, told, *b] for a, b in zip(first, second, strict=True)]
        own = [[1] * len(a) + [0] + [1] * len(b) for a, b in zip(first, second, strict=True)]
        return Attempts(prompts=ids, completions=completions, own=own)


class Unsaid:
    """How likely a word is at any place, and a price that moves until that is rare."""

    needs: ClassVar = frozenset({"logits"})

    def __init__(self, word: str, target: float) -> None:
        self.word = WORDS.index(word)
        self.dual = Multiplier(target, rate=0.5, damping=0.0, lowest=0.0, highest=20.0)

    @property
    def multiplier(self) -> float:
        return self.dual.price

    def loss(self, view: TokenView) -> Tensor:
        assert view.logits is not None
        said = view.logits.softmax(-1)[..., self.word] * view.own
        return said.sum(1) / view.own.sum(1)

    def update(self, measured: float) -> None:
        self.dual.update([measured])

    def state(self) -> Any:
        return self.dual.state()

    def restore(self, state: Any) -> None:
        self.dual.restore(state)
