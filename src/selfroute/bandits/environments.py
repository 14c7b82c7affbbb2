"""Where bandits are judged: the settings of EVOLvE (arXiv 2410.06238, section 3) and clouds that drift.

Means are known to the environment alone. One object is one run: its seed draws the means, the contexts and the rewards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from selfroute.errors import ConfigError

__all__ = [
    "CLOUDS",
    "DRIFTS",
    "NAMES",
    "SETTINGS",
    "Contextual",
    "Drifting",
    "Environment",
    "MultiArmed",
    "Setting",
    "generated_ratings",
]

Floats = npt.NDArray[np.float64]
Kind = Literal["bernoulli", "gaussian"]


class Environment(Protocol):
    """A run of `horizon` steps; `pull` moves on to the next one.

    Attributes:
        arms: names, in the order of all vectors.
    """

    arms: tuple[str, ...]
    horizon: int

    def features(self) -> tuple[float, ...]:
        """The context of this step, () without one."""
        ...

    def prices(self) -> tuple[float, ...]:
        """Quotes of this step, in the unit of the reward."""
        ...

    def worth(self) -> Sequence[float]:
        """Expected reward minus price of each arm at this step; hidden from the bandit."""
        ...

    def pull(self, arm: int) -> float:
        """The reward of an arm, without its price."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """A multi-armed setting of the paper.

    Attributes:
        kind: "bernoulli": the best arm has 0.5 + Δ/2, all others 0.5 - Δ/2; "gaussian": means from N(0, s²), noise s.
        arms: K.
        difficulty: Δ or s.
        horizon: T.
    """

    kind: Kind
    arms: int
    difficulty: float
    horizon: int


_LEVELS: Mapping[Kind, Mapping[str, tuple[float, int]]] = {
    "bernoulli": {"easy": (0.5, 300), "hard": (0.2, 1000)},
    "gaussian": {"easy": (1.0, 300), "hard": (3.0, 1000)},
}
SETTINGS: Mapping[str, Setting] = {
    f"{kind}-{arms}-{level}": Setting(kind, arms, difficulty, horizon)
    for kind, levels in _LEVELS.items()
    for arms in (5, 20)
    for level, (difficulty, horizon) in levels.items()
}
_CLOTHES = (
    "Velvet Vogue Jacket", "Silk Serenity Dress", "Denim Drift Jeans", "Cashmere Cloud Sweater", "Linen Lagoon Shirt",
    "Corduroy Crest Trousers", "Merino Mist Scarf", "Satin Shadow Skirt", "Tweed Trail Blazer", "Cotton Cove Polo",
    "Leather Lane Boots", "Fleece Fjord Vest", "Flannel Forest Shirt", "Wool Willow Coat", "Jersey Jade Tee",
    "Chiffon Chime Blouse", "Nylon North Parka", "Suede Summit Shoes", "Canvas Coast Shorts", "Lace Lantern Gloves",
)  # fmt: skip
# The paper's two sets of names: letters that say nothing, and names that a model may have feelings about.
NAMES: Mapping[str, tuple[str, ...]] = {"video": tuple("ABCDEFGHIJKLMNOPQRST"), "clothes": _CLOTHES}


class MultiArmed:
    """One draw of a setting.

    Args:
        names: a key of `NAMES`.

    Attributes:
        means: expected reward of each arm, shape (K,).

    Raises:
        ConfigError: an unknown set of names.
    """

    def __init__(self, setting: Setting, *, seed: int, names: str = "video") -> None:
        if names not in NAMES:
            raise ConfigError(f"names: '{names}' is not one of {', '.join(NAMES)}")
        self.arms = NAMES[names][: setting.arms]
        self.horizon = setting.horizon
        self._setting = setting
        self._rng = np.random.default_rng(seed)
        self._prices = (0.0,) * setting.arms
        self.means = self._draw_means()

    def _draw_means(self) -> list[float]:
        setting = self._setting
        if setting.kind == "gaussian":
            drawn: list[float] = self._rng.normal(0.0, setting.difficulty, setting.arms).tolist()
            return drawn
        means = [0.5 - setting.difficulty / 2] * setting.arms
        means[self._rng.integers(setting.arms)] += setting.difficulty
        return means

    def features(self) -> tuple[float, ...]:
        return ()

    def prices(self) -> tuple[float, ...]:
        return self._prices

    def worth(self) -> Sequence[float]:
        return self.means

    def pull(self, arm: int) -> float:
        if self._setting.kind == "gaussian":
            return self.means[arm] + self._setting.difficulty * self._rng.standard_normal()
        return float(self._rng.random() < self.means[arm])


class Contextual:
    """Films for users: the context is a user's vector, the reward the user's completed rating, without noise.

    A table of ratings, shape (users, films), is completed by its first singular vectors; a user's vector is the row of
    the left ones, so that the reward is linear in it.

    Args:
        names: of the films.
        rank: singular vectors kept, at most the number of films.
        users: those who come, by row; None for all. The paper trains on rows 0 to 199 and judges on the others.

    Raises:
        ConfigError: the table has fewer users than the rank, or no user is left to come.
    """

    def __init__(
        self,
        ratings: Floats,
        names: Sequence[str],
        *,
        seed: int,
        rank: int = 20,
        horizon: int = 200,
        users: range | None = None,
    ) -> None:
        rank = min(rank, ratings.shape[1])
        if len(ratings) < rank:
            raise ConfigError(f"ratings: {len(ratings)} users are fewer than the rank of {rank}; take more, or rank=")
        left, values, right = np.linalg.svd(ratings, full_matrices=False)
        come = users or range(len(ratings))
        self._vectors = left[come.start : come.stop, :rank]
        if not len(self._vectors):
            raise ConfigError(f"users: {come.start} to {come.stop} are not among the {len(ratings)} of the table")
        self._worth = self._vectors * values[:rank] @ right[:rank]
        self.arms = tuple(names)
        self.horizon = horizon
        self._rng = np.random.default_rng(seed)
        self._user = self._next()

    def _next(self) -> int:
        return int(self._rng.integers(len(self._vectors)))

    def features(self) -> tuple[float, ...]:
        return tuple(self._vectors[self._user].tolist())

    def prices(self) -> tuple[float, ...]:
        return (0.0,) * len(self.arms)

    def worth(self) -> Sequence[float]:
        worth: list[float] = self._worth[self._user].tolist()
        return worth

    def pull(self, arm: int) -> float:
        reward = float(self._worth[self._user, arm])
        self._user = self._next()
        return reward


def generated_ratings(users: int, films: int, *, rank: int = 5, missing: float = 0.5, seed: int = 0) -> Floats:
    """A table that looks like one of ratings: whole stars from 1 to 5 of low rank, 0 where nobody rated."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(users, rank)) @ rng.normal(size=(rank, films)) / np.sqrt(rank)
    stars = np.clip(np.rint(3.5 + taste + rng.normal(0.0, 0.5, taste.shape)), 1, 5)
    return np.where(rng.random(stars.shape) < missing, 0.0, stars)


# Quality and price of three clouds in three regimes of a third of the horizon each.
CLOUDS = ("A", "B", "C")
_QUALITY, _PRICE = (0.85, 0.65, 0.45), (0.10, 0.05, 0.0)
_DOWN, _DEAR, _RISEN = (0.35, 0.65, 0.45), (0.45, 0.05, 0.0), (0.85, 0.65, 0.98)
DRIFTS: Mapping[str, tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]] = {
    "none": ((_QUALITY, _PRICE), (_QUALITY, _PRICE), (_QUALITY, _PRICE)),
    "silent": ((_QUALITY, _PRICE), (_DOWN, _PRICE), (_QUALITY, _PRICE)),
    "price": ((_QUALITY, _PRICE), (_QUALITY, _DEAR), (_QUALITY, _PRICE)),
    "both": ((_QUALITY, _PRICE), (_DOWN, _PRICE), (_QUALITY, _DEAR)),
    "rise": ((_QUALITY, _PRICE), (_RISEN, _PRICE), (_RISEN, _PRICE)),
}


class Drifting:
    """Clouds of Bernoulli quality whose quality and price change at fixed steps, which nobody announces.

    Args:
        regimes: quality and price of each arm, of equal shares of the horizon, in order.
    """

    def __init__(
        self,
        regimes: Sequence[tuple[tuple[float, ...], tuple[float, ...]]],
        *,
        seed: int,
        horizon: int = 3000,
        arms: Sequence[str] = CLOUDS,
    ) -> None:
        self.arms = tuple(arms)
        self.horizon = horizon
        self._regimes = regimes
        self._rng = np.random.default_rng(seed)
        self._step = 0

    def _now(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self._regimes[min(len(self._regimes) - 1, self._step * len(self._regimes) // self.horizon)]

    def features(self) -> tuple[float, ...]:
        return ()

    def prices(self) -> tuple[float, ...]:
        return self._now()[1]

    def worth(self) -> Sequence[float]:
        quality, price = self._now()
        return [own - cost for own, cost in zip(quality, price, strict=True)]

    def pull(self, arm: int) -> float:
        right = self._rng.random() < self._now()[0][arm]
        self._step += 1
        return float(right)
