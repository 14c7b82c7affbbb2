"""What each command needs, as frozen dataclasses: their fields are the keys of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from selfroute.config.values import Bounds, Spec

__all__ = [
    "BudgetOptions",
    "CountLimits",
    "EvaluateRecipe",
    "LoraOptions",
    "ReportOptions",
    "RewardOptions",
    "TraceOptions",
    "TrainRecipe",
    "UsdLimits",
    "WarmupRecipe",
]

EMBEDDED_DEVICE = Spec("embedded", "device")
EMBEDDED_CLOUD = Spec("embedded", "cloud")
SQLITE = Spec("sqlite")
Share = Annotated[float, Bounds(0, 1, exclusive=True, hint="; 0.3 lets 30 % of the requests go to the cloud")]
Count = Annotated[int, Bounds(1)]
Group = Annotated[int, Bounds(2, hint="; the estimator compares the rollouts of a group")]
Bins = Annotated[int, Bounds(2)]
Folds = Annotated[int, Bounds(2)]
Positive = Annotated[float, Bounds(0, exclusive=True)]
NotNegative = Annotated[float, Bounds(0)]
Rate = Annotated[float, Bounds(0, 1)]
Algorithm = Literal["gapg", "gapg_no_filter", "task_tuning", "grpo", "dr_grpo", "grpo_filter", "dr_grpo_filter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardOptions:
    """Hierarchical reward: correct on the device, correct through the cloud, and for the format (0: no such part).

    Attributes:
        token_price: taken off a hand-off's reward for each token that the device wrote before it; teaches to give up
            early.
    """

    local: Positive = 1.0
    cloud: NotNegative = 0.3
    format: NotNegative = 0.0
    token_price: NotNegative = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CountLimits:
    """Most calls or tokens per window of UTC, and in total."""

    per_minute: Annotated[int, Bounds(0)] | None = None
    per_hour: Annotated[int, Bounds(0)] | None = None
    per_day: Annotated[int, Bounds(0)] | None = None
    per_month: Annotated[int, Bounds(0)] | None = None
    total: Annotated[int, Bounds(0)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsdLimits:
    """Most USD per window of UTC, and in total."""

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
    """

    share: Annotated[float, Bounds(0, 1)] | None = None
    burst: Count = 20
    calls: CountLimits = CountLimits()
    tokens: CountLimits = CountLimits()
    usd: UsdLimits = UsdLimits()
    ledger: Spec = SQLITE
    scope: str = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRecipe:
    """What `selfroute evaluate` needs.

    Attributes:
        seed: of the task's problems where it draws them, of the random strategies and of the intervals.
        limit: most rows; None takes the whole split.
        share: wanted share of requests that the cloud answers.
        device: device model of the baselines.
        policies: name in the report -> device model that hands off by itself.
        alone: run each policy's model once more with the hand-off disabled.
        tell_share: say `share` in the policies' prompts, as to one that was trained with `told_shares`.
        context: what the cloud sees of a hand-off: the conversation (`prompt`), or also the device's `attempt`.
        strategies: baselines, names of `STRATEGIES`.
        router_rows: rows of the train split that fit the strategies which learn, and set thresholds.
        folds: fit on the rows themselves in place of the train split, each judged by a fit without its fold.
        encoder: folder or hub repository of the encoder that encoder_router fine-tunes.
        embedding: sentence encoder of the embedding routers: `minilm`, or the folder of another.
        cache: SQLite file of both sides' answers, shared between runs; None keeps one in `out`.
        concurrency: requests in flight.
        max_tokens: most tokens of one answer.
        temperature: of all answers; 0 is greedy.
        requests_per_minute: most calls a minute to each model behind an endpoint; None sets no limit.
        solve_samples: sampled answers per row and device, for its solve rate; 0 for none.
        solve_temperature: of these samples.
        prices: YAML file of prices; None leaves costs out.
        priced_as: names of `device` and `cloud` in that file, if not those of the models.
        network: speeds of the latency model, keys of `selfroute.evaluation.counting.costs.Network`.
        routellm_bins: give APGR in RouteLLM's own way as well, from so many bins; it takes 10.
        engine: who answers rows: this process, or workers of a Ray cluster.
        workers: of the Ray engine; each holds its own models.
    """

    task: Spec
    split: str = "test"
    limit: Count | None = None
    seed: int = 0
    share: Share = 0.3
    device: Spec = EMBEDDED_DEVICE
    cloud: Spec = EMBEDDED_CLOUD
    policies: Mapping[str, Spec] = field(default_factory=dict)
    alone: bool = False
    tell_share: bool = False
    context: Literal["prompt", "attempt"] = "prompt"
    strategies: tuple[str, ...] = ("always_device", "always_cloud", "random_offload", "prompt_router")
    router_rows: Count = 1000
    folds: Folds | None = None
    encoder: str = "microsoft/deberta-v3-base"
    embedding: str = "minilm"
    out: Path = Path("out/evaluate")
    cache: Path | None = None
    concurrency: Count = 256
    max_tokens: Count = 512
    temperature: NotNegative = 0.0
    requests_per_minute: Positive | None = None
    solve_samples: Annotated[int, Bounds(0)] = 0
    solve_temperature: Positive = 1.0
    prices: Path | None = None
    priced_as: Mapping[str, str] = field(default_factory=dict)
    network: Mapping[str, float] = field(default_factory=dict)
    routellm_bins: Bins | None = None
    engine: Literal["local", "ray"] = "local"
    workers: Count = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What `selfroute report` can count anew; the rest, and what is None, is as in the run."""

    share: Annotated[float, Bounds(0, 1)] | None = None
    seed: int | None = None
    resamples: Count = 1000
    prices: Path | None = None
    priced_as: Mapping[str, str] = field(default_factory=dict)
    network: Mapping[str, float] = field(default_factory=dict)
    routellm_bins: Bins | None = None


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
    dropout: Annotated[float, Bounds(0, 1)] = 0.0
    targets: tuple[str, ...] = ("all-linear",)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe:
    """What `selfroute train` needs.

    Attributes:
        model: device model to train: `embedded:device`, `smollm2`, a folder, a GGUF file, or a repository of the hub.
        lora: train an adapter and add it to the model at the end; None trains all weights.
        share: wanted call share; the method's cloud-device ratio is share / (1 - share).
        steps: optimiser steps.
        max_minutes: ends the run after the step in which this time is up; None sets no limit.
        prompts_per_step: prompts whose groups make one step.
        group_size: rollouts per prompt.
        handoff_reward: `fixed` pays reward.cloud; `dual` takes a price off it that moves until the share is met.
        multiplier_rate: step size of that price.
        multiplier_damping: its part in proportion to the last step's distance from the share, in log-odds.
        share_prompts: validation prompts per step, one attempt each, by which that price is moved; 0 moves it by the
            rollouts, which are of problems that the policy was trained on.
        forced_attempts: rollouts of each group that are not offered the hand-off; 0, or at least 2.
        forced_weight: of their objective beside the paper's.
        told_shares: train one policy for several shares, each said in the prompt; `share` is then that of evaluation.
        save_steps: steps between checkpoints.
        rows_per_pass: rollouts in one forward and backward pass; None takes all of a step, less saves memory.
        bf16: compute in bfloat16, with weights and optimiser in float32; quicker where the processor has it.
        cache: SQLite file of cloud answers, shared between runs; None keeps one in `out`.
        ask_ahead: ask the cloud for every training row before the first step, not where a rollout asks: a model in
            the same process answers hundreds at once much faster than a few dozen in each step.
        concurrency: cloud requests in flight.
        prices: YAML file of prices, to count what the cloud's answers cost; None counts calls alone.
        priced_as: names of `device` and `cloud` in that file, if not those of the models.
        report_to: trackers beside metrics.jsonl, such as `[tensorboard]` or `[wandb]`.
        trl: further options of TRL's GRPOConfig by name, such as use_vllm, activation_checkpointing or fsdp.
    """

    task: Spec
    model: str = "embedded:device"
    lora: LoraOptions | None = None
    cloud: Spec = EMBEDDED_CLOUD
    ask_ahead: bool = False
    algorithm: Algorithm = "gapg"
    share: Share = 0.3
    steps: Count = 120
    max_minutes: Positive | None = None
    prompts_per_step: Count = 32
    group_size: Group = 8
    learning_rate: Positive = 3e-4
    temperature: Positive = 1.0
    reward: RewardOptions = RewardOptions()
    handoff_reward: Literal["fixed", "dual"] = "fixed"
    multiplier_rate: NotNegative = 0.04
    multiplier_damping: NotNegative = 0.6
    share_prompts: Annotated[int, Bounds(0)] = 64
    forced_attempts: Annotated[int, Bounds(0)] = 0
    forced_weight: NotNegative = 1.0
    told_shares: tuple[Share, ...] = ()
    max_new_tokens: Count = 256
    seed: int = 0
    save_steps: Count = 20
    rows_per_pass: Count | None = None
    bf16: bool = False
    out: Path = Path("out/train")
    cache: Path | None = None
    concurrency: Count = 32
    prices: Path | None = None
    priced_as: Mapping[str, str] = field(default_factory=dict)
    report_to: tuple[str, ...] = ()
    trl: Mapping[str, Any] = field(default_factory=dict)
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
    shown_rate: Rate = 0.0
    shown: Literal["continue", "ignore"] = "continue"


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupRecipe:
    """What `selfroute train` needs to make a small model from nothing (`algorithm: warm_up`).

    Attributes:
        role: the device learns to hand off, the cloud does not.
        hidden_size: width; with `layers` it sets the size: 128 x 5 is about 0.9 M parameters.
        batch_tokens: padded tokens per step.
        learning_rate: peak of the cosine schedule.
        start: model to go on with (`embedded:device` or a folder); None makes a new one.
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
    start: str | None = None
    traces: TraceOptions = TraceOptions()
    seed: int = 0
    workers: Annotated[int, Bounds(0)] = 0
    out: Path = Path("out/warmup")
    resume: bool = False
