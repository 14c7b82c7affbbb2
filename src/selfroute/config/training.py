"""What `selfroute train` needs, by algorithm: the fields are the keys of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from selfroute.bounds import Bounds, Count, NotNegative, Positive, Rate, Share, Whole
from selfroute.config.values import Spec
from selfroute.network.channel import Channel
from selfroute.network.states import APART, Codec
from selfroute.train.rl.options import GAPGOptions, LoopOptions

__all__ = [
    "AdaSwitchRecipe",
    "AttributeOptions",
    "ExitsRecipe",
    "HeadRecipe",
    "LoraOptions",
    "RewardRecipe",
    "ScoredOptions",
    "SplitPolicyRecipe",
    "TraceOptions",
    "TrainRecipe",
    "WarmupRecipe",
]

EMBEDDED_CLOUD = Spec("embedded", "cloud")
WALKS = Spec("walks")
LOSSY = Channel()


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
        model: device model to train: `embedded:device`, `smollm2`, a folder, a GGUF file, or a repository of the hub;
            these also as `transformers:FOLDER`.
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
