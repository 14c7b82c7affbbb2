"""What `selfroute place` needs: the fields are the keys of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from selfroute.bounds import Bounds, Count, NotNegative, Positive
from selfroute.config.values import Spec
from selfroute.planning.shapes import Link, Mixture

__all__ = [
    "PlaceRecipe",
    "SlotOptions",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotOptions:
    """Room for experts on the ranks, as multiples of the even share.

    Attributes:
        layer_slack: room for one layer's experts; 1 is equal slots, as serving engines have them.
        total_slack: room for the experts of all layers; null leaves it at what the layers allow.
        redundant: copies of experts in each layer beyond one of each.
    """

    layer_slack: Annotated[float, Bounds(1)] = 1.0
    total_slack: Annotated[float, Bounds(1)] | None = None
    redundant: Annotated[int, Bounds(0)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceRecipe:
    """What `selfroute place` needs.

    Attributes:
        problem: `homes`: the attention of a layer is on one rank; `sources`: tokens start on every rank, as in engines.
        cluster: the network, a name of `CLUSTERS`, such as `{fat_tree: {servers: 32}}`.
        per_server: ranks on each node of that network, no hop apart.
        links: what one link can do, for costs in seconds.
        load: where the visits of experts come from, a name of `LOADS`.
        model: the mixture model; may be left out where the load is measured on it.
        homes: rank with each mixture layer's attention; null spreads the layers evenly.
        slots: room for experts.
        unit: what is kept low, hops or seconds.
        method: null takes the best for the problem.
        compare: methods beside it.
        cap: most load of a rank, as a multiple of the mean.
        cap_over: whether the cap holds for all layers together or in each layer.
        split: how visits go to copies of an expert: to the nearest, or spread evenly.
        pareto: caps for the curve of cost against the busiest rank.
        today: today's placement, `linear` or an engine's file, such as `{sglang: FILE}`.
        move_price: cost per token that moving one expert has to save.
        formats: engines' files to write; null takes SGLang's where slots are equal.
        gpu_hour_usd: price of a rank's hour; with `tokens_per_s` it gives the price of a million tokens.
        tokens_per_s: that the whole cluster writes, as measured.
        seed: of generated loads and of what is missing in sparse networks.
    """

    problem: Literal["homes", "sources"]
    cluster: Spec
    load: Spec
    per_server: Count = 1
    links: Link = field(default_factory=Link)
    model: Mixture | None = None
    homes: tuple[int, ...] | None = None
    slots: SlotOptions = SlotOptions()
    unit: Literal["hops", "seconds"] = "hops"
    method: str | None = None
    compare: tuple[str, ...] = ("greedy", "unweighted", "eplb", "linear", "round_robin")
    cap: Annotated[float, Bounds(1)] | None = None
    cap_over: Literal["all", "layer"] = "all"
    split: Literal["nearest", "even"] = "nearest"
    pareto: tuple[Annotated[float, Bounds(1)], ...] = ()
    today: Spec | None = None
    move_price: NotNegative = 0.0
    formats: tuple[str, ...] | None = None
    gpu_hour_usd: Positive | None = None
    tokens_per_s: Positive | None = None
    seed: int = 0
    out: Path = Path("out/place")
