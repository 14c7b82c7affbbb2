"""Optuna's tree-structured Parzen estimator over the slots; needs `pip install 'selfroute[optuna]'`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from selfroute.tuning.base import Choices

__all__ = ["TPE"]


class TPE:
    """A study of Optuna with a categorical parameter for each slot, asked and told as any tuner.

    Args:
        sizes: choices of each slot.
        seed: of its sampler.

    Raises:
        ModuleNotFoundError: Optuna is not installed.
    """

    def __init__(self, sizes: Sequence[int], *, seed: int = 0) -> None:
        self.sizes, self.seed = list(sizes), seed
        self._optuna: Any = import_module("optuna")
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        categorical = self._optuna.distributions.CategoricalDistribution
        self._space = {f"slot{i}": categorical(list(range(size))) for i, size in enumerate(self.sizes)}
        self._open: dict[Choices, list[Any]] = {}
        self.told: list[tuple[Choices, float]] = []
        self._begin(0)

    def ask(self, count: int) -> list[Choices]:
        """See `Tuner`."""
        asked = []
        for _ in range(count):
            trial = self._study.ask(self._space)
            choices = tuple(int(trial.params[name]) for name in self._space)
            self._open.setdefault(choices, []).append(trial)
            asked.append(choices)
        return asked

    def tell(self, choices: Sequence[Choices], rewards: Sequence[float | None]) -> None:
        """See `Tuner`; what could not be graded is told as failed."""
        for one, reward in zip(choices, rewards, strict=True):
            trial = self._open[one].pop()
            if reward is None:
                self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
                continue
            self._study.tell(trial, reward)
            self.told.append((one, reward))

    def best(self) -> Choices:
        """See `Tuner`: Optuna's best trial."""
        if not self.told:
            return self.ask(1)[0]
        return tuple(int(self._study.best_params[name]) for name in self._space)

    def state(self) -> dict[str, Any]:
        """See `Tuner`."""
        return {"told": [[list(one), reward] for one, reward in self.told]}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Tuner`. Its sampler draws on from a seed of its own: what it has been told is the same."""
        self.told = [(tuple(one), float(reward)) for one, reward in state["told"]]
        self._begin(len(self.told))
        for one, reward in self.told:
            params = dict(zip(self._space, one, strict=True))
            self._study.add_trial(
                self._optuna.trial.create_trial(params=params, distributions=self._space, value=reward)
            )

    def _begin(self, told: int) -> None:
        sampler = self._optuna.samplers.TPESampler(seed=self.seed + 1_000_003 * told)
        self._study = self._optuna.create_study(direction="maximize", sampler=sampler)
