"""Attributes that a run controls: how each is judged, and what pulls the policy towards it.

An attribute can act twice, alone or together: as a penalty in the reward, and as a regulariser of the policy. Each has
a price of its own, which moves where a share of violations is to be met.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfroute.backends.torch.critic import Critic, check_critic
from selfroute.errors import ConfigError
from selfroute.rewards.attributes import Fixed, Penalised, Price
from selfroute.rewards.base import Reward
from selfroute.scores.oracles import Judged
from selfroute.train.rl.constraints.critic import CriticFit
from selfroute.train.rl.constraints.dual import Multiplier
from selfroute.train.rl.constraints.regulariser import Regulariser

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Attribute", "penalised", "regularisers"]

_RATE, _DAMPING, _HIGHEST = 0.04, 0.6, 20.0  # of prices that move; the first two are those of a call share


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """How one attribute is judged and controlled.

    Attributes:
        judged: the oracle and its channel.
        penalty: taken off a rollout's reward for a violation.
        weight: λ of the regulariser.
        target: share of texts that may violate it, in (0, 1): both prices move from 0 until it is met, `penalty` and
            `weight` are their units, and q* violates as much. None leaves the prices.
        allowed: share that q* itself violates; 0 for none, or for `target`.
        adaptive, parallel: as in `Regulariser`.
        consistency, passes, learning_rate: as in `CriticFit`.
        width: of the critic.
        critic: a file to go on with; None begins anew.

    Raises:
        ConfigError: a target that moves nothing.
    """

    judged: Judged
    penalty: float = 0.0
    weight: float = 0.0
    target: float | None = None
    allowed: float = 0.0
    adaptive: bool = False
    parallel: bool = False
    consistency: float = 0.0
    passes: int = 4
    learning_rate: float = 3e-3
    width: int = 64
    critic: Path | None = None

    def __post_init__(self) -> None:
        if self.target is not None and not (self.penalty or self.weight):
            raise ConfigError(f"target={self.target:g} moves nothing; set penalty or weight to the unit of a price")

    @property
    def aim(self) -> float:
        """Share of texts in which q* violates the attribute: to pull towards none would end far below a target."""
        return max(self.allowed, self.target or 0.0)

    def dual(self, unit: float) -> Multiplier | None:
        """A price that moves from 0 until the target is met; None without a target.

        Nothing pays for a violation as such, so a policy that has stopped does not begin again: what is left of a
        price once the target is met takes the share below it, for good.
        """
        if self.target is None:
            return None
        return Multiplier(self.target, rate=unit * _RATE, damping=unit * _DAMPING, lowest=0.0, highest=unit * _HIGHEST)


def penalised(reward: Reward, attributes: Mapping[str, Attribute]) -> Reward:
    """The reward less a price for each attribute with a penalty; itself without one."""
    prices: dict[str, Price] = {
        name: each.dual(each.penalty) or Fixed(each.penalty) for name, each in attributes.items() if each.penalty
    }
    return Penalised(reward, prices) if prices else reward


def regularisers(
    attributes: Mapping[str, Attribute], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Regulariser]:
    """A regulariser for each attribute with a weight.

    Raises:
        ConfigError: a critic to go on with cannot be read, or belongs to another model.
    """
    return {name: _regulariser(name, each, model, tokenizer) for name, each in attributes.items() if each.weight}


def _regulariser(
    name: str, attribute: Attribute, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Regulariser:
    critic = _critic(attribute, model).to(model.device)
    fit = CriticFit(
        critic,
        learning_rate=attribute.learning_rate,
        passes=attribute.passes,
        consistency=attribute.consistency,
    )
    return Regulariser(
        name,
        fit,
        tokenizer,
        attribute.judged.channel,
        weight=attribute.weight,
        allowed=attribute.aim,
        adaptive=attribute.adaptive,
        parallel=attribute.parallel,
        dual=attribute.dual(attribute.weight),
    )


def _critic(attribute: Attribute, model: PreTrainedModel) -> Critic:
    config: Any = model.config.get_text_config(decoder=True)
    if attribute.critic is None:
        return Critic(config.hidden_size, config.vocab_size, width=attribute.width)
    found, _ = Critic.load(attribute.critic)
    check_critic(found, hidden_size=config.hidden_size, vocabulary=config.vocab_size)
    return found.requires_grad_(True)
