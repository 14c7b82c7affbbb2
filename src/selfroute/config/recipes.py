"""What `selfroute evaluate` and `selfroute report` need: the fields are the keys of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from selfroute.bounds import Bounds, Count, NotNegative, Positive, Rate, Share, Whole
from selfroute.config.values import Spec

__all__ = [
    "EvaluateRecipe",
    "ReportOptions",
]

EMBEDDED_DEVICE = Spec("embedded", "device")
EMBEDDED_CLOUD = Spec("embedded", "cloud")
Bins = Annotated[int, Bounds(2)]
Folds = Annotated[int, Bounds(2)]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRecipe:
    """What `selfroute evaluate` needs.

    Attributes:
        seed: of the task's problems where it draws them, of the random strategies and of the intervals.
        limit: most rows; None takes the whole split.
        template: words around a question, a name, or `tuned:FILE` for a tuned program; None takes the
            task's.
        share: wanted share of requests that the cloud answers.
        device: device model of the baselines.
        policies: name in the report -> device model that hands off by itself.
        alone: run each policy's model once more with the hand-off disabled.
        tell_share: say `share` in the policies' prompts; None does so for those that were trained with `told_shares`.
        context: what the cloud sees of a hand-off: the conversation (`prompt`), also the device's `attempt`, or only
            the `message` that the device wrote for it.
        strategies: baselines, names of `STRATEGIES`.
        entrants: name in the report -> a strategy with its options, as a serving recipe writes it; one with a knob is
            run at each of its points.
        router_rows: rows of the train split that fit the strategies which learn, and set thresholds.
        folds: fit on the rows themselves in place of the train split, each judged by a fit without its fold.
        encoder: folder or hub repository of the encoder that encoder_router fine-tunes.
        embedding: sentence encoder of the embedding routers: `minilm`, or the folder of another.
        cache: SQLite file of both sides' answers, shared between runs; None keeps one in `out`.
        concurrency: requests in flight.
        max_tokens: most tokens of one answer; None takes those of a device's training, and 512 of all others.
        temperature: of all answers; 0 is greedy.
        requests_per_minute: most calls a minute to each model behind an endpoint; None sets no limit.
        solve_samples: sampled answers per row and device, for its solve rate; 0 for none.
        solve_temperature: of these samples.
        prices: YAML file of prices; None leaves costs out.
        priced_as: names of `device` and `cloud` in that file, if not those of the models.
        network: speeds of the latency model, keys of `selfroute.network.link.Network`.
        routellm_bins: give APGR in RouteLLM's own way as well, from so many bins; it takes 10.
        axes: resources along which strategies are compared, names of `selfroute.evaluation.counting.axes.AXES`.
        engine: who answers rows: this process, or workers of a Ray cluster.
        workers: of the Ray engine; each holds its own models.
    """

    task: Spec
    split: str = "test"
    limit: Count | None = None
    template: str | None = None
    seed: int = 0
    share: Share = 0.3
    device: Spec = EMBEDDED_DEVICE
    cloud: Spec = EMBEDDED_CLOUD
    policies: Mapping[str, Spec] = field(default_factory=dict)
    alone: bool = False
    tell_share: bool | None = None
    context: Literal["prompt", "attempt", "message"] = "prompt"
    strategies: tuple[str, ...] = ("always_device", "always_cloud", "random_offload", "prompt_router")
    entrants: Mapping[str, Spec] = field(default_factory=dict)
    router_rows: Count = 1000
    folds: Folds | None = None
    encoder: str = "microsoft/deberta-v3-base"
    embedding: str = "minilm"
    out: Path = Path("out/evaluate")
    cache: Path | None = None
    concurrency: Count = 256
    max_tokens: Count | None = None
    temperature: NotNegative = 0.0
    requests_per_minute: Positive | None = None
    solve_samples: Whole = 0
    solve_temperature: Positive = 1.0
    prices: Path | None = None
    priced_as: Mapping[str, str] = field(default_factory=dict)
    network: Mapping[str, float] = field(default_factory=dict)
    routellm_bins: Bins | None = None
    axes: tuple[str, ...] = ("calls",)
    engine: Literal["local", "ray"] = "local"
    workers: Count = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What `selfroute report` can count anew; the rest, and what is None, is as in the run."""

    share: Rate | None = None
    seed: int | None = None
    resamples: Count = 1000
    prices: Path | None = None
    priced_as: Mapping[str, str] = field(default_factory=dict)
    network: Mapping[str, float] = field(default_factory=dict)
    routellm_bins: Bins | None = None
    axes: tuple[str, ...] = ("calls",)
