"""A black box whose optimum is known, to try tuners on: slots that interact, and workers of different tastes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from selfroute.tuning.base import Choices, Floats, Measure

__all__ = ["World"]


class World:
    """Rewards of `sentences` slots, which all workers share, and `demonstrations` slots, which each likes otherwise.

    A worker's reward is the sum of shared values of its sentences, of shared interactions of each pair of them, of its
    own values of its demonstrations, and of its own interactions of sentences with demonstrations; measured, with unit
    Gaussian noise.

    Args:
        workers: how many.
        interaction: size of the interactions, each with a random sign; values are drawn from N(0, 1).
        seed: of values, interactions and noise.

    Attributes:
        tables: mean rewards, shape (workers, *sentences, *demonstrations).
        calls: measurements so far.
    """

    def __init__(
        self,
        *,
        workers: int = 4,
        sentences: Sequence[int] = (6, 6, 6),
        demonstrations: Sequence[int] = (5, 5),
        interaction: float = 0.3,
        noise: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.sentences, self.demonstrations, self.noise, self.seed = (
            tuple(sentences),
            tuple(demonstrations),
            noise,
            seed,
        )
        self.calls = 0
        rng = np.random.default_rng([seed, 0])
        shared = _terms(rng, self.sentences, (), interaction)
        self.tables: Floats = np.stack(
            [
                shared.reshape(*self.sentences, *[1] * len(self.demonstrations))
                + _terms(rng, self.demonstrations, self.sentences, interaction)
                for _ in range(workers)
            ]
        )

    def measure(self, worker: int) -> Measure:
        """One worker's noisy rewards; the noise comes from the round alone."""

        async def rewards(choices: Sequence[Choices], round: int) -> list[float | None]:
            self.calls += len(choices)
            noise = np.random.default_rng([self.seed, 1, worker, round]).normal(0.0, self.noise, len(choices))
            return [float(self.tables[worker][chosen] + error) for chosen, error in zip(choices, noise, strict=True)]

        return rewards

    def value(self, sentences: Choices, demonstrations: Sequence[Choices]) -> float:
        """Mean reward over the workers, each with demonstrations of its own."""
        return float(
            np.mean([table[(*sentences, *own)] for table, own in zip(self.tables, demonstrations, strict=True)])
        )

    @property
    def of_sentences(self) -> Floats:
        """Mean reward of each choice of sentences with every worker's best demonstrations, shape `sentences`."""
        axes = tuple(range(1 + len(self.sentences), self.tables.ndim))
        best: Floats = self.tables.max(axis=axes).mean(axis=0)
        return best

    @property
    def optimum(self) -> float:
        return float(self.of_sentences.max())

    @property
    def margin(self) -> float:
        """By how much the best choice of sentences beats the second."""
        first, second = np.sort(self.of_sentences, axis=None)[::-1][:2]
        return float(first - second)

    def closed(self, sentences: Choices, demonstrations: Sequence[Choices]) -> float:
        """Share of the gap between choosing at random and the optimum that is closed."""
        start = float(self.tables.mean())
        return (self.value(sentences, demonstrations) - start) / (self.optimum - start)


def _terms(rng: np.random.Generator, own: Sequence[int], others: Sequence[int], interaction: float) -> Floats:
    """Values of own slots and interactions of each pair of them, or with the others where there are any.

    Returns:
        Shape (*others, *own).
    """
    sizes = (*others, *own)
    total = np.zeros(sizes)
    mine = range(len(others), len(sizes))
    for axis in mine:
        total = total + _along(rng.normal(0.0, 1.0, sizes[axis]), (axis,), sizes)
    pairs = itertools.product(range(len(others)), mine) if others else itertools.combinations(mine, 2)
    for pair in pairs:
        signs = rng.choice([-1.0, 1.0], size=[sizes[axis] for axis in pair])
        total = total + _along(interaction * signs, pair, sizes)
    return total


def _along(values: Floats, axes: Sequence[int], sizes: Sequence[int]) -> Floats:
    return values.reshape([size if axis in axes else 1 for axis, size in enumerate(sizes)])
