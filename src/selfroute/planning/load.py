"""Loads: how often each source's tokens visit each expert, counted, and per token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfroute.errors import ConfigError
from selfroute.planning.shapes import Mixture

__all__ = ["Load", "generated_load", "needed"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """Counted visits.

    Attributes:
        visits: shape (sources, layers, experts); one source where nobody knows where tokens started.
        about: where the counts come from, in words.
        mixture: of the model that they were measured on; None where the counts alone are known.
    """

    visits: Floats
    about: str
    mixture: Mixture | None = None

    def per_token(self, mixture: Mixture) -> Floats:
        """Visits per token, same shape: each layer sums to `top_k` over sources and experts.

        Raises:
            ConfigError: another shape than the model's, a negative count or one that is no number, or a layer without
                any visit.
        """
        wanted = (mixture.layers, mixture.experts)
        if self.visits.shape[1:] != wanted:
            raise ConfigError(
                f"load: {self.about} has {self.visits.shape[1]} layers × {self.visits.shape[2]} experts, the model "
                f"{wanted[0]} × {wanted[1]}; mend model.layers, model.dense and model.experts, or take another load"
            )
        wrong = ~(np.isfinite(self.visits) & (self.visits >= 0))
        if wrong.any():
            source, layer, expert = (int(i) for i in np.argwhere(wrong)[0])
            raise ConfigError(
                f"load: {self.about} counts {self.visits[source, layer, expert]} visits of expert {expert} in layer "
                f"{layer}; counts are numbers of at least 0"
            )
        total = self.visits.sum(axis=(0, 2))
        if not total.all():
            raise ConfigError(
                f"load: {self.about} has no visits in mixture layer {int((total == 0).argmax())}; is it a dense layer? "
                "List it in model.dense"
            )
        return np.asarray(mixture.top_k * self.visits / total[None, :, None])


def needed(mixture: Mixture | None) -> Mixture:
    """The model that a recipe describes, where the load does not tell.

    Raises:
        ConfigError: it describes none.
    """
    if mixture is None:
        raise ConfigError("model: is missing; write model: {layers: …, experts: …, top_k: …}")
    return mixture


def generated_load(
    mixture: Mixture | None, *, sources: int = 1, concentration: float = 0.5, own: float = 0.0, seed: int = 0
) -> Load:
    """Dirichlet shares of every layer's visits; sources have a part of them in common.

    Args:
        sources: that tokens start on.
        concentration: of the Dirichlet distribution; small is uneven.
        own: part of a source's visits that is its own taste, in [0, 1]; 0 makes all sources alike.

    Raises:
        ConfigError: a value outside its range.
    """
    mixture = needed(mixture)
    if sources < 1:
        raise ConfigError(f"load.generated: sources: {sources} must be at least 1")
    if not concentration > 0:
        raise ConfigError(f"load.generated: concentration: {concentration:g} must be above 0")
    if not 0 <= own <= 1:
        raise ConfigError(f"load.generated: own: {own:g} is a share, from 0 to 1")
    rng = np.random.default_rng(seed)
    spread = np.full(mixture.experts, concentration)
    common = rng.dirichlet(spread, size=mixture.layers)
    tastes = rng.dirichlet(spread, size=(sources, mixture.layers)) if own else np.zeros((sources, *common.shape))
    about = f"generated: Dirichlet({concentration:g}), {100 * own:g} % of a source's load its own, seed {seed}"
    return Load((1 - own) * common + own * tastes, about)
