"""Where policies of cuts learn and are judged, as gymnasium environments: a link alone, and a device with a memory.

The weather of the link is exogenous: no action moves it. What an agent sees is what a device can know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from selfroute.network.channel import Weather
from selfroute.strategies.inside.choosers import SurrogateNet, rewards
from selfroute.train.splitting.measure import Floats

__all__ = ["Burden", "DeviceWorld", "LinkWorld", "State", "best_policy"]

Seen: TypeAlias = npt.NDArray[np.float32]


class LinkWorld(gymnasium.Env[Seen, np.int64]):
    """A request a step: see what pilots say of the link's loss, choose a place, earn λ · quality and (L - l) / L.

    Nothing that is chosen has a consequence for the next step: a contextual bandit.

    Args:
        surrogate: of the quality.
        places: that may be chosen.
        weight: λ.
        weather: of the link; None draws each step's loss anew from 0 to the surrogate's largest.
        pilots: known symbols before each request; 0 shows the loss itself.
        steps: of an episode.
    """

    def __init__(
        self,
        surrogate: SurrogateNet,
        places: Sequence[int],
        weight: float,
        *,
        weather: Weather | None = None,
        pilots: int = 64,
        steps: int = 32,
    ) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(len(places))
        self._most, self._weather, self._pilots, self._steps = surrogate.most, weather, pilots, steps
        self._levels = np.linspace(0.0, surrogate.most, 241)
        self._table = rewards(surrogate(self._levels, places), places, surrogate.layers, weight)
        self._done, self._loss, self._bad = 0, 0.0, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Seen, dict[str, Any]]:
        """See `gymnasium.Env`."""
        super().reset(seed=seed)
        self._done = 0
        self._bad = self._weather is not None and self._weather.begin(self.np_random)
        return self._look(), {}

    def step(self, action: np.int64) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env`; an episode ends by its length alone."""
        level = round(min(self._loss, self._most) / self._most * (len(self._levels) - 1))
        reward, info = float(self._table[level, int(action)]), {"loss": self._loss}
        self._done += 1
        if self._weather is not None:
            self._bad = self._weather.next(self._bad, self.np_random)
        return self._look(), reward, False, self._done >= self._steps, info

    def _look(self) -> Seen:
        if self._weather is None:
            self._loss = float(self.np_random.uniform(0, self._most))
        else:
            self._loss = self._weather.loss(self._bad)
        seen = self._loss if not self._pilots else self.np_random.binomial(self._pilots, self._loss) / self._pilots
        return np.array([min(seen / self._most, 1.0)], np.float32)


# --- a device with a memory ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Burden:
    """What a choice costs later on a device, in numbers that are stated and not measured.

    Attributes:
        battery: units that it holds; a request takes one for each layer on the device.
        charge: probability of each of `charges` units that come in a step.
        charges: most units that come in a step.
        queue: most requests that wait.
        arrival: probability, for each layer on the device, that one more request has come meanwhile.
        wait: reward that a full queue costs a step.
        move: reward that moving keys and values of all layers costs, when a conversation is cut elsewhere.
        dead: reward that a request costs for which the battery did not suffice.
    """

    battery: int = 12
    charge: float = 0.5
    charges: int = 3
    queue: int = 4
    arrival: float = 0.35
    wait: float = 0.5
    move: float = 0.3
    dead: float = 2.0


@dataclass(frozen=True, slots=True)
class State:
    """A device before a request: units of battery, requests that wait, the link's weather, and the last place."""

    battery: int
    queue: int
    bad: bool
    last: int


@dataclass(eq=False)
class DeviceWorld(gymnasium.Env[Seen, np.int64]):
    """A request a step, on a device whose battery, queue and caches remember what was chosen.

    The reward is -λ · rise, less what waiting, moving and an empty battery cost. The battery takes the place of the
    load (L - l) / L: a layer that is run now cannot be run later.

    Args:
        surrogate: of the quality.
        places: that may be chosen.
        weight: λ.
        weather: of the link.
        burden: what a choice costs later.
        pilots: known symbols before each request.
        steps: of an episode.
    """

    surrogate: SurrogateNet
    places: Sequence[int]
    weight: float
    weather: Weather = field(default_factory=Weather)
    burden: Burden = field(default_factory=Burden)
    pilots: int = 64
    steps: int = 64

    def __post_init__(self) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (4,), np.float32)
        self.action_space = spaces.Discrete(len(self.places))
        self._at, self._done = 0, 0

    @cached_property
    def states(self) -> list[State]:
        """All that there are."""
        burden = self.burden
        return [
            State(battery, queue, bad, last)
            for battery in range(burden.battery + 1)
            for queue in range(burden.queue + 1)
            for bad in (False, True)
            for last in range(len(self.places))
        ]

    @cached_property
    def tables(self) -> tuple[Floats, Floats]:
        """Transition probabilities, shape (states, actions, states), and expected rewards, shape (states, actions)."""
        number = {state: i for i, state in enumerate(self.states)}
        chances = np.zeros((len(number), len(self.places), len(number)))
        earned = np.zeros((len(number), len(self.places)))
        for state, i in number.items():
            for action in range(len(self.places)):
                for chance, after, reward in self._outcomes(state, action):
                    chances[i, action, number[after]] += chance
                    earned[i, action] += chance * reward
        return chances, earned

    def seen(self, state: State, loss: float) -> Seen:
        """What the device knows: battery, queue, last place, and what pilots say of the loss; all in [0, 1]."""
        burden, most = self.burden, self.surrogate.most
        last = state.last / max(1, len(self.places) - 1)
        values = (state.battery / burden.battery, state.queue / burden.queue, last, min(loss / most, 1.0))
        return np.array(values, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Seen, dict[str, Any]]:
        """See `gymnasium.Env`; the battery is full and nobody waits."""
        super().reset(seed=seed)
        self._done = 0
        begin = State(self.burden.battery, 0, self.weather.begin(self.np_random), 0)
        self._at = self.states.index(begin)
        return self._look(), {"state": begin}

    def step(self, action: np.int64) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env`; the reward is the expected one of state and action."""
        _, earned = self.tables
        reward = float(earned[self._at, int(action)])
        sums = self._sums[self._at, int(action)]
        self._at = min(int(np.searchsorted(sums, self.np_random.random(), side="right")), len(sums) - 1)
        self._done += 1
        return self._look(), reward, False, self._done >= self.steps, {"state": self.states[self._at]}

    @cached_property
    def _sums(self) -> Floats:
        sums: Floats = self.tables[0].cumsum(axis=-1)
        return sums / sums[..., -1:]

    @cached_property
    def _rise(self) -> Floats:
        """Nats per token in good and in bad weather at each place, shape (2, places)."""
        return self.surrogate(np.array([self.weather.good, self.weather.bad]), self.places)

    def _look(self) -> Seen:
        state = self.states[self._at]
        return self.seen(state, float(self.np_random.binomial(self.pilots, self.weather.loss(state.bad))) / self.pilots)

    def _outcomes(self, state: State, action: int) -> list[tuple[float, State, float]]:
        burden, layers = self.burden, self.places[action]
        alive = state.battery >= layers
        moved = burden.move * abs(layers - self.places[state.last]) / self.surrogate.layers
        quality = -self.weight * float(self._rise[int(state.bad), action]) if alive else -burden.dead
        battery = state.battery - layers if alive else state.battery
        found = []
        for units, charged in enumerate(_binomial(burden.charges, burden.charge)):
            for more, arrives in enumerate(_binomial(layers, burden.arrival)):
                queue = min(burden.queue, max(0, state.queue - 1) + more)
                reward = quality - moved - burden.wait * queue / burden.queue
                for bad, turns in ((False, self._good_after(state.bad)), (True, 1 - self._good_after(state.bad))):
                    after = State(min(burden.battery, battery + units), queue, bad, action)
                    found.append((float(charged * arrives * turns), after, reward))
        return found

    def _good_after(self, bad: bool) -> float:
        return self.weather.clears if bad else 1 - self.weather.worsens


def _binomial(count: int, chance: float) -> Floats:
    """Probabilities of 0 to `count` hits."""
    found = np.ones(1)
    for _ in range(count):
        found = np.convolve(found, [1 - chance, chance])
    return found


def best_policy(world: DeviceWorld, *, discount: float = 0.98, within: float = 1e-6) -> npt.NDArray[np.int64]:
    """The best action in every state for one who knows the weather itself, by value iteration; shape (states,)."""
    chances, earned = world.tables
    values = np.zeros(len(earned))
    while True:
        worth = earned + discount * chances @ values
        new = worth.max(axis=1)
        if np.abs(new - values).max() < within:
            best: npt.NDArray[np.int64] = worth.argmax(axis=1)
            return best
        values = new
