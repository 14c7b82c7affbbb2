"""The paper's reward: a local solution pays more than one from the cloud."""

from __future__ import annotations

import math
from dataclasses import dataclass

from selfroute.bounds import NotNegative, Positive, check_fields
from selfroute.errors import ConfigError
from selfroute.grading import Outcome

__all__ = ["Hierarchical", "check_weights", "hierarchical"]


def hierarchical(
    outcome: Outcome,
    *,
    local: float = 1.0,
    cloud: float = 0.3,
    format: float = 0.0,
    token_price: float = 0.0,
) -> float | None:
    """The hierarchical reward of arXiv 2509.24050: a local solution pays more than one from the cloud.

    With `format=0` this is the paper's final form (V3, eq. 18): `local` for a correct answer of the device, `cloud`
    for a hand-off that the cloud solves, 0 otherwise. With `format > 0` it is the first form (V1, eq. 5)::

        local + format   device answered, correct, formatted        cloud    handed off, cloud correct
        local            device answered, correct, unformatted      format   device answered, wrong, formatted
        0                otherwise

    An answer of a quality between right and wrong is paid in proportion. A hand-off never earns the format reward.
    `token_price` is taken off, right or wrong, for each token that the device wrote before it gave up.

    Args:
        outcome: the facts.
        local: α_a, for a correct local answer.
        cloud: α_c, for a correct answer through the cloud; `cloud / local` is the confidence below which asking pays.
        format: α_f, for think and answer tags in a local answer.
        token_price: of one device token of a hand-off.

    Returns:
        The reward, or None if the cloud or the verifier failed: leave such a rollout out, do not count it as 0.

    Raises:
        ConfigError: unless α_a > α_c > α_f ≥ 0, all finite.
    """
    check_weights(local=local, cloud=cloud, format=format)
    if outcome.wants_cloud:
        paid = _paid(outcome.cloud_correct, cloud)
        return None if paid is None else paid - token_price * outcome.device_tokens
    base = _paid(outcome.device_correct, local)
    return base if base is None or not outcome.formatted else base + format


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchical:
    """The hierarchical reward with its weights: correct on the device, through the cloud, and for the format.

    Attributes:
        format: 0 is the paper's final form, which has no such part.
        token_price: taken off a hand-off's reward for each token that the device wrote before it; teaches to give up
            early.

    Raises:
        ConfigError: unless local > cloud > format >= 0.
    """

    local: Positive = 1.0
    cloud: NotNegative = 0.3
    format: NotNegative = 0.0
    token_price: NotNegative = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        check_weights(local=self.local, cloud=self.cloud, format=self.format)

    def __call__(self, outcome: Outcome) -> float | None:
        """What an outcome is worth, as `hierarchical` says."""
        return hierarchical(
            outcome, local=self.local, cloud=self.cloud, format=self.format, token_price=self.token_price
        )


def check_weights(*, local: float, cloud: float, format: float = 0.0) -> None:
    """Check the order of the weights.

    Raises:
        ConfigError: unless α_a > α_c > α_f ≥ 0, all finite.
    """
    if not (math.isfinite(local) and local > cloud > format >= 0):
        raise ConfigError(
            f"reward weights must satisfy local > cloud > format >= 0, got local={local:g}, cloud={cloud:g}, "
            f"format={format:g}; the paper's are local=1, cloud=0.25, format=0"
        )


def _paid(quality: float | None, weight: float) -> float | None:
    return None if quality is None else weight * quality
