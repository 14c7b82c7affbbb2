"""What `selfroute tune` needs: the fields are the keys of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from selfroute.bounds import Bounds, Count, NotNegative, Positive, Share, Whole
from selfroute.config.values import Spec
from selfroute.handoff import HANDOFF_TEXT
from selfroute.rewards.hierarchical import Hierarchical

__all__ = [
    "ShotOptions",
    "StepOptions",
    "TuneRecipe",
    "WorkerOptions",
]

CONSENSUS = Spec("consensus")
Outcome = Literal["solved", "handed_off", "wrongly_kept"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotOptions:
    """A demonstration: a question, and what the device should write to it."""

    question: str
    reply: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """One of the devices that a prompt is tuned on.

    Attributes:
        rows: train rows of its own; null takes an equal part of those that the others leave.
        device: model, if not the recipe's.
        pools: demonstrations by outcome; those of an outcome that is not named are the recipe's, or mined on its rows.
    """

    rows: Whole | None = None
    device: Spec | None = None
    pools: Mapping[Outcome, tuple[ShotOptions, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """How workers and their consensus move; see docs/tuning.md.

    Attributes:
        quorum: S, workers that an update waits for; null waits for all.
        patience: τ, versions that a worker may fall behind.
        draws: I, choices that are drawn at once and compared on the same rows.
        inner: K, rounds on sentences to one step on demonstrations.
        sentences, demonstrations, consensus, duals: step sizes.
        penalty: μ, of the distance to the consensus.
        pull: ψ, of its sign.
        clip: most length of one worker's pull on one slot.
        floor: least probability of a choice.
        planes: hold the consensus to the inner estimate by cutting planes.
    """

    quorum: Count | None = None
    patience: int = 8
    draws: Annotated[int, Bounds(2)] = 4
    inner: Count = 1
    sentences: Positive = 0.02
    demonstrations: Positive = 0.02
    consensus: Positive = 0.2
    duals: NotNegative = 0.02
    penalty: NotNegative = 0.3
    pull: NotNegative = 0.02
    clip: Positive = 1.0
    floor: Annotated[float, Bounds(0, 0.5)] = 0.01
    planes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRecipe:
    """What `selfroute tune` needs.

    Attributes:
        device: model whose prompt is tuned; it needs no weights here.
        template: words to begin with, a name of `selfroute.prompts.TEMPLATES`; null takes the task's.
        instruction: the device's system prompt in the place of the template's.
        slots: name -> sentences to choose from for the system prompt, an empty one for none; in this order.
        offer: sentences to choose from that offer the hand-off; none leaves the template's.
        shots: outcome of each demonstration that is shown, in this order; each is chosen from the pool of its outcome.
        any_order: the order in which outcomes are shown is chosen too; it decides how often a small model asks.
        may_be_empty: a demonstration may be left out too.
        pools: demonstrations by outcome, for all workers; those of other outcomes are mined from the device's attempts.
        pool: demonstrations of an outcome that are mined for each worker.
        mine_rows: train rows of each worker that the device attempts for them.
        handoff_reply: what a demonstration of a wrongly kept row shows.
        workers: by name; each has rows and pools of its own, which stay there.
        method: how to tune, a name of docs/tuning.md; those other than `consensus` take all workers for one.
        step: how probabilities move.
        start: a program.json whose probabilities to go on from; null begins with equal ones.
        share: wanted share of requests that the device hands off.
        reward: what an answer is worth.
        price_rate, price_damping: of the price of a hand-off, which moves until the share is met; rate 0 sets none.
        batch: train rows on which the choices of a round are compared.
        limit: most train rows; null takes the whole split.
        max_calls: most calls of the device; what the cache answers is none.
        max_cloud_calls: most calls of the cloud; null sets no limit.
        max_usd: most USD on both; needs prices.
        updates: most updates of the consensus, or rounds of another method; 0 takes the first draw, null lets the
            budget end it, or as many updates as it has calls.
        max_tokens: most tokens of one answer.
        context_tokens: what the device holds of prompt and answer; null takes what is known of it.
        engine: this process, or actors of Ray.
        concurrency: requests of a worker in flight.
        cache: SQLite file of both sides' answers; null keeps one in `out`.
        prices: YAML file of prices; null counts no USD.
        priced_as: names of `device` and `cloud` in that file, if not those of the models.
        resume: go on with the run in `out`.
    """

    task: Spec
    device: Spec
    cloud: Spec | None = None
    template: str | None = None
    instruction: str | None = None
    slots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    offer: tuple[str, ...] = ()
    shots: tuple[Outcome, ...] = ()
    any_order: bool = False
    may_be_empty: bool = True
    pools: Mapping[Outcome, tuple[ShotOptions, ...]] = field(default_factory=dict)
    pool: Count = 6
    mine_rows: Count = 60
    handoff_reply: str = HANDOFF_TEXT
    workers: Mapping[str, WorkerOptions] = field(default_factory=lambda: {"device": WorkerOptions()})
    method: Spec = CONSENSUS
    step: StepOptions = StepOptions()
    start: Path | None = None
    share: Share = 0.3
    reward: Hierarchical = field(default_factory=Hierarchical)
    price_rate: NotNegative = 0.05
    price_damping: NotNegative = 0.1
    batch: Count = 8
    limit: Count | None = None
    max_calls: Count = 2000
    max_cloud_calls: Whole | None = None
    max_usd: Positive | None = None
    updates: Whole | None = None
    max_tokens: Count = 64
    context_tokens: Count | None = None
    engine: Literal["local", "ray"] = "local"
    concurrency: Count = 8
    cache: Path | None = None
    prices: Path | None = None
    priced_as: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    out: Path = Path("out/tuned")
    resume: bool = False
