"""What each command needs, as frozen dataclasses: their fields are the keys of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from selfroute.bounds import Bounds, Count, NotNegative, Positive, Rate, Share, Whole
from selfroute.config.values import Spec
from selfroute.handoff import HANDOFF_TEXT
from selfroute.network.channel import Channel
from selfroute.network.states import APART, Codec
from selfroute.planning.shapes import Link, Mixture
from selfroute.rewards.hierarchical import Hierarchical
from selfroute.train.rl.options import GAPGOptions, LoopOptions

__all__ = [
    "AdaSwitchRecipe",
    "AttributeOptions",
    "BudgetOptions",
    "CountLimits",
    "EvaluateRecipe",
    "ExitsRecipe",
    "HeadRecipe",
    "LoraOptions",
    "PlaceRecipe",
    "ReportOptions",
    "RewardRecipe",
    "ScoredOptions",
    "ShotOptions",
    "SlotOptions",
    "SplitPolicyRecipe",
    "StepOptions",
    "TraceOptions",
    "TrainRecipe",
    "TuneRecipe",
    "UsdLimits",
    "WarmupRecipe",
    "WorkerOptions",
]

EMBEDDED_DEVICE = Spec("embedded", "device")
EMBEDDED_CLOUD = Spec("embedded", "cloud")
SQLITE = Spec("sqlite")
CONSENSUS = Spec("consensus")
WALKS = Spec("walks")
LOSSY = Channel()
Bins = Annotated[int, Bounds(2)]
Folds = Annotated[int, Bounds(2)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountLimits:
    """Most calls or tokens per window, and in total."""

    per_minute: Whole | None = None
    per_hour: Whole | None = None
    per_day: Whole | None = None
    per_month: Whole | None = None
    total: Whole | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsdLimits:
    """Most USD per window, and in total."""

    per_minute: NotNegative | None = None
    per_hour: NotNegative | None = None
    per_day: NotNegative | None = None
    per_month: NotNegative | None = None
    total: NotNegative | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetOptions:
    """Limits on cloud use; every one has to let a call pass. See docs/budget.md.

    Attributes:
        share: most cloud calls per request, which is also the target that scores compete for; null sets no limit.
        burst: calls that may run ahead of the share.
        calls: per window; likewise `tokens` (prompt and completion together) and `usd` (by the cloud's price).
        ledger: where it is kept: `memory`, `sqlite`, `sqlite:FILE`, `redis:redis://HOST:6379`, or
            `{redis: {url_env: NAME}}`.
        scope: keeps apart budgets that share a ledger.
        zone: time zone whose midnights divide days and months, such as `Europe/Berlin`.
    """

    share: Rate | None = None
    burst: Count = 20
    calls: CountLimits = CountLimits()
    tokens: CountLimits = CountLimits()
    usd: UsdLimits = UsdLimits()
    ledger: Spec = SQLITE
    scope: str = "default"
    zone: str = "UTC"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraOptions:
    """A low-rank adapter (arXiv 2106.09685) to train in place of all weights; needs `pip install 'selfroute[lora]'`.

    Attributes:
        rank: of the two matrices beside each layer.
        alpha: their product is added times alpha / rank.
        dropout: of what the adapter reads.
        targets: names of layers, such as `[q_proj, v_proj]`; `[all-linear]` takes all but the output.
    """

    rank: Count = 16
    alpha: Count = 32
    dropout: Rate = 0.0
    targets: tuple[str, ...] = ("all-linear",)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeOptions:
    """An attribute that completions are to keep to (docs/attribute-control.md).

    Attributes:
        oracle: says how much a text violates it, a name of `ORACLES`.
        channel: what of a completion is judged, the message for the cloud or the local answer.
        penalty: taken off a rollout's reward for a violation.
        weight: λ of KL(q* ‖ p) beside the policy's loss; 0 trains no critic.
        target: share of texts that may violate it: prices in units of penalty and weight move from 0 until it is met.
        allowed: share of texts in which q* itself violates it; 0 for none, or for `target`.
        adaptive: scale λ at each token by the risk of the text before it.
        schedule: fit the critic before each update, or meanwhile, so that it is one batch old.
        consistency: γ of the term that ties the critic's predictions to each other; it often hurts.
        passes: steps of the critic over each batch.
        learning_rate: of the critic.
        width: of the critic.
        critic: file of a critic to go on with; null begins anew.
    """

    oracle: Spec
    channel: Literal["message", "answer"] = "message"
    penalty: NotNegative = 0.0
    weight: NotNegative = 0.0
    target: Share | None = None
    allowed: Rate = 0.0
    adaptive: bool = False
    schedule: Literal["sequential", "parallel"] = "sequential"
    consistency: NotNegative = 0.0
    passes: Count = 4
    learning_rate: Positive = 3e-3
    width: Count = 64
    critic: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredOptions:
    """A learned reward that pays local answers in place of the verifier (docs/learned-rewards.md).

    Attributes:
        model: folder of a reward model, as `algorithm: reward_model` writes it.
        zero: score at which an answer counts as half right.
        scale: of the scores; an answer is right to the degree σ((score − zero) / scale).
    """

    model: Path
    zero: float = 0.0
    scale: Positive = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainRecipe(GAPGOptions, LoopOptions):
    """What `selfroute train` needs: the method's options, the loop's, and what both work on.

    Attributes:
        template: words around a question, a name, or `tuned:FILE` for a tuned program; None takes the
            task's.
        model: device model to train: `embedded:device`, `smollm2`, a folder, a GGUF file, or a repository of the hub.
        lora: train an adapter and add it to the model at the end; None trains all weights.
        attributes: name in the metrics -> an attribute that completions are to keep to.
        scored_by: a learned reward that pays local answers; None takes the verifier.
        objective: how rewards become a gradient, a name of docs/objectives.md; None takes the algorithm's.
        ask_ahead: ask the cloud for every training row before the first step, not where a rollout asks: a model in
            the same process answers hundreds at once much faster than a few dozen in each step.
        max_minutes: ends the run after the step in which this time is up; None sets no limit.
        until_flat: ends the run where its curve is flat: looked at after twice so many steps and after as many more
            each time, the mean reward of the last so many is above that of as many before by no more than the
            standard error of the difference. None goes on to the end.
        cache: SQLite file of cloud answers, shared between runs; None keeps one in `out`.
        concurrency: cloud requests in flight.
        prices: YAML file of prices, to count what the cloud's answers cost; None counts calls alone.
        priced_as: names of `device` and `cloud` in that file, if not those of the models.
        resume: go on from the newest checkpoint in `out`.
    """

    task: Spec
    template: str | None = None
    model: str = "embedded:device"
    lora: LoraOptions | None = None
    cloud: Spec = EMBEDDED_CLOUD
    attributes: Mapping[str, AttributeOptions] = field(default_factory=dict)
    scored_by: ScoredOptions | None = None
    objective: Spec | None = None
    ask_ahead: bool = False
    max_minutes: Positive | None = None
    until_flat: Annotated[int, Bounds(2)] | None = None
    cache: Path | None = None
    concurrency: Count = 32
    prices: Path | None = None
    priced_as: Mapping[str, str] = field(default_factory=dict)
    resume: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """How the written searches of the warm-up look; see `selfroute.train.imitation.searches`."""

    attempts: Count = 6
    solution_rate: Rate = 0.1
    handoff_rate: Rate = 0.03
    final_handoff_rate: Rate = 0.5
    largest: Count = 100
    told_rate: Rate = 0.0
    told: Literal["each", "last"] = "last"
    call_rate: Rate = 0.0
    call_tokens: Count = 9
    shown_rate: Rate = 0.0
    shown: Literal["continue", "ignore"] = "continue"
    leak_rate: Rate = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupRecipe:
    """What `selfroute train` needs to make a small model from nothing, or to teach one the form (`algorithm: warm_up`).

    Attributes:
        role: the device learns to hand off, the cloud does not.
        hidden_size: width; with `layers` it sets the size: 128 x 5 is about 0.9 M parameters.
        batch_tokens: padded tokens per step.
        learning_rate: peak of the cosine schedule.
        optimizer: `muon` for matrices learns from fewer steps; the rest stays with AdamW.
        start: model to go on with: `embedded:device`, `smollm2`, a folder, a GGUF file or a hub repository; a
            pretrained one learns from the rows of any task. None makes a new one.
        workers: processes that write traces; 0 writes them between steps.
    """

    task: Spec
    algorithm: Literal["warm_up"] = "warm_up"
    role: Literal["device", "cloud"] = "device"
    hidden_size: Count = 128
    layers: Count = 5
    steps: Count = 5500
    batch_tokens: Count = 4096
    learning_rate: Positive = 2e-3
    optimizer: Literal["adamw", "muon"] = "adamw"
    start: str | None = None
    traces: TraceOptions = TraceOptions()
    seed: int = 0
    workers: Whole = 0
    out: Path = Path("out/warmup")
    resume: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecipe:
    """What `selfroute train` needs to fit a head of tokens (`algorithm: reward_head`).

    Attributes:
        device, cloud: the pair that it is for.
        kind: what it learns to say of the device's token; see `selfroute.train.fit.token_heads`.
        hidden: show it the device's last hidden state; off for a device that does not give one, such as llama.cpp.
        top: how many of the likeliest log-probabilities it sees.
        entropy: show it the entropy.
        rows: train problems whose answers it learns from.
        validation_rows: problems by which it is judged and its threshold set.
        mixed: part of the answers in which the cloud writes 10 to 20 % of the tokens.
        share: wanted part of all tokens that the cloud writes; it sets the threshold. Null sets none.
        width: of its two hidden layers.
        epochs: how often it goes through the places.
        learning_rate: of AdamW.
        concurrency: answers under way.
        max_tokens: most tokens of one answer.
        temperature: of the answers; 0 is greedy.
    """

    task: Spec
    device: Spec
    cloud: Spec
    algorithm: Literal["reward_head"] = "reward_head"
    kind: Literal["rel", "prob", "accept", "pair", "co_llm", "citer"] = "rel"
    hidden: bool = True
    top: Count = 5
    entropy: bool = True
    rows: Count = 2000
    validation_rows: Count = 300
    mixed: Rate = 0.5
    share: Share | None = 0.05
    width: Count = 64
    epochs: Count = 12
    learning_rate: Positive = 1e-3
    concurrency: Count = 64
    max_tokens: Count = 128
    temperature: NotNegative = 0.0
    seed: int = 0
    out: Path = Path("out/head")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardRecipe:
    """What `selfroute train` needs to learn a reward from pairs (`algorithm: reward_model`).

    Attributes:
        task: where walks or answers come from; null for pairs of a file.
        pairs: where the pairs come from, a name of `PAIRS`.
        model: device model whose backbone it takes, as for other algorithms.
        lora: train an adapter and the head, and add the adapter to the model at the end; null trains all weights.
        steps: optimiser steps.
        pairs_per_step: in one optimiser step.
        pairs_per_pass: in one forward and backward pass; null takes a whole step's.
        learning_rate: peak of the cosine schedule, after a tenth of the steps.
        centring: weight of the squared sum of a pair's scores, which keeps scores around 0.
        bf16: passes in bfloat16; weights are float32.
        save_steps: steps between checkpoints.
        resume: go on from the newest checkpoint in `out`.
    """

    task: Spec | None = None
    algorithm: Literal["reward_model"] = "reward_model"
    pairs: Spec = WALKS
    model: str = "embedded:device"
    lora: LoraOptions | None = None
    steps: Count = 500
    pairs_per_step: Count = 32
    pairs_per_pass: Count | None = None
    learning_rate: Positive = 1e-3
    centring: NotNegative = 1e-3
    bf16: bool = False
    save_steps: Count = 100
    seed: int = 0
    out: Path = Path("out/reward")
    resume: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitsRecipe:
    """What `selfroute train` needs to tune exits of a model (`algorithm: exits`).

    Attributes:
        model: the whole model, of transformers or embedded; it stays as it is.
        layers: behind how many of its layers an exit stands, rising; the device gets the layers up to the last.
        rows: train problems whose answers, the model's own, the exits learn from.
        validation_rows: problems on whose answers they are judged.
        steps: optimiser steps of each exit.
        batch: places in each.
        learning_rate: of AdamW at first; it falls to 0.
        max_tokens: most tokens of one answer.
        log_steps: steps between lines of metrics.
    """

    task: Spec
    model: Spec
    layers: tuple[int, ...]
    algorithm: Literal["exits"] = "exits"
    rows: Count = 1500
    validation_rows: Count = 300
    steps: Count = 400
    batch: Count = 2048
    learning_rate: Positive = 3e-3
    max_tokens: Count = 128
    log_steps: Count = 20
    seed: int = 0
    out: Path = Path("out/exits")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPolicyRecipe:
    """What `selfroute train` needs to make a policy of where to cut a model (`algorithm: split_policy`).

    Attributes:
        model: the whole model, of transformers or embedded.
        method: the policy: the best place by the surrogate (`argmax`), a network that `ppo`, `a2c` or `dqn` trained in
            it, the best `threshold` between two places, or the best `fixed` one.
        weight: λ, reward of one nat per token less, against that of all layers in the cloud.
        channel: the lossy link.
        losses: p of the measurements, rising above 0.
        layers: places of the measurements, rising; null takes all of a model of few layers, else six.
        measurements: most pairs of the two.
        codec, apart: how states are written, as of `early_exit`.
        rows: train problems whose answers, the model's own, are scored.
        draws: of the channel, for each answer and measurement.
        max_tokens: most tokens of one answer.
        fit_steps: of the surrogate.
        pilots: known symbols by which the device estimates the loss, while an agent learns.
        steps: of an agent in the surrogate.
    """

    task: Spec
    model: Spec
    algorithm: Literal["split_policy"] = "split_policy"
    method: Literal["argmax", "ppo", "a2c", "dqn", "threshold", "fixed"] = "argmax"
    weight: NotNegative = 1.0
    channel: Channel = LOSSY
    losses: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    layers: tuple[int, ...] | None = None
    measurements: Count = 30
    codec: Codec = "fp16"
    apart: Whole = APART
    rows: Count = 64
    draws: Count = 1
    max_tokens: Count = 128
    fit_steps: Count = 1500
    pilots: Count = 64
    steps: Count = 100_000
    seed: int = 0
    out: Path = Path("out/split")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaSwitchRecipe:
    """What `selfroute train` needs to teach a device to tag its own steps (`algorithm: adaswitch`).

    Attributes:
        task: one that judges steps.
        model: device model to train, as for other algorithms.
        cloud: writes the steps that are wrong in the exam; one vocabulary with the device.
        gold_only: the control: learn from the right steps of the same answers, without tags.
        right, wrong: the tags; one token of the device each.
        practice_rows: train problems whose gold answers are imitated in stage 1.
        practice_steps: optimiser steps of stage 1; 0 leaves it out, for a device that has practised.
        practice_rate: peak learning rate of stage 1.
        exam_rows: train problems of the exam.
        samples: answers to each; the first is greedy.
        temperature: of the further ones.
        clean_share: part of the examined answers from which wrong steps are left out, drawn for each pass.
        mended: learn the cloud's steps too; off, the device learns where it is wrong, and not what would be right.
        steps: optimiser steps of stage 3.
        batch_tokens: padded tokens per step.
        learning_rate: peak of the cosine schedule of stage 3.
        optimizer: `muon` for matrices learns from fewer steps; the rest stays with AdamW.
        validation_rows: problems on whose steps the trained device's doubts are judged.
        max_tokens: most tokens of one answer.
        max_step_tokens: most tokens of one step.
        concurrency: answers under way.
        resume: go on from where an interrupted run came to.
    """

    task: Spec
    algorithm: Literal["adaswitch"] = "adaswitch"
    model: str = "embedded:device"
    cloud: Spec = EMBEDDED_CLOUD
    gold_only: bool = False
    right: str = "y"
    wrong: str = "n"
    practice_rows: Count = 1000
    practice_steps: Whole = 200
    practice_rate: Positive = 1e-4
    exam_rows: Count = 1000
    samples: Count = 2
    temperature: Positive = 0.7
    clean_share: Rate = 0.5
    mended: bool = True
    steps: Count = 300
    batch_tokens: Count = 4096
    learning_rate: Positive = 3e-5
    optimizer: Literal["adamw", "muon"] = "adamw"
    validation_rows: Count = 200
    max_tokens: Count = 256
    max_step_tokens: Count = 64
    concurrency: Count = 64
    seed: int = 0
    out: Path = Path("out/adaswitch")
    resume: bool = False


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
