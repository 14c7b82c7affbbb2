"""PPO, A2C and DQN of stable-baselines3 in an environment of cuts, and what they learned as a plain network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from selfroute.strategies.inside.choosers import Net
from selfroute.train.splitting.surrogate import net_of

if TYPE_CHECKING:
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

__all__ = ["AGENTS", "learn"]


def _actor(agent: OnPolicyAlgorithm) -> Net:
    policy = agent.policy
    return net_of(nn.Sequential(policy.mlp_extractor.policy_net, policy.action_net), "tanh")


def _values(agent: DQN) -> Net:
    return net_of(agent.q_net, "relu")


@dataclass(frozen=True, slots=True)
class _Agent:
    """An algorithm: how it is made beyond the library's defaults, and its network."""

    make: Callable[..., BaseAlgorithm]
    net: Callable[[Any], Net]
    options: Mapping[str, Any]


AGENTS: Mapping[str, _Agent] = {
    # 400 and 100 are the paper's.
    "ppo": _Agent(PPO, _actor, {"n_steps": 400, "batch_size": 100}),
    "a2c": _Agent(A2C, _actor, {}),
    "dqn": _Agent(DQN, _values, {"exploration_fraction": 0.3, "learning_starts": 500}),
}


def learn(
    name: str,
    world: gymnasium.Env[Any, Any],
    *,
    steps: int,
    discount: float = 0.0,
    seed: int = 0,
    on_step: Callable[[int], object] = lambda step: None,
) -> Net:
    """Train an agent, and give the network whose largest output is its choice.

    Args:
        name: of `AGENTS`.
        discount: γ; 0 where no choice has a consequence.
        on_step: called with the steps done, now and then.
    """
    kind = AGENTS[name]
    agent = kind.make("MlpPolicy", world, gamma=discount, seed=seed, device="cpu", verbose=0, **kind.options)
    agent.learn(steps, callback=_Telling(on_step))
    return kind.net(agent)


class _Telling(BaseCallback):
    def __init__(self, tell: Callable[[int], object], every: int = 1000) -> None:
        super().__init__()
        self._tell, self._every = tell, every

    def _on_step(self) -> bool:
        if self.num_timesteps % self._every == 0:
            self._tell(self.num_timesteps)
        return True
