"""The strategies inside the answer by the names of their scores, as recipes write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from selfroute.backends.layers import KeyValues, Sending, Upload
from selfroute.bounds import Count, NotNegative, Positive, Whole, suggest
from selfroute.errors import ConfigError
from selfroute.network.channel import Channel, Weather
from selfroute.network.states import APART, Codec
from selfroute.scores.steps import FirstEntropy, MinProbability, RandomDoubt, Tags
from selfroute.scores.tokens import Entropy, HeadKind, MaxProbability, RandomScore, TokenHead, TokenScorer
from selfroute.strategies.inside.checkers import ByCloud, ByForesight, ByReward, ByTag, ByView, Checker
from selfroute.strategies.inside.choosers import Fixed, PolicyFolder
from selfroute.strategies.inside.early_exit import EarlyExit, ExitMode
from selfroute.strategies.inside.relay import MOST_TOKENS, LimitedRelay, Relay
from selfroute.strategies.inside.split import Split
from selfroute.strategies.inside.step_level import Mode, StepLevel
from selfroute.strategies.inside.token_level import Foresight, TokenLevel

__all__ = ["CHECKERS", "HEADS", "SCORERS", "early_exit", "relay", "split", "step_level", "token_level"]

# What needs no training, by name, from a seed.
SCORERS: Mapping[str, Callable[[int], TokenScorer | Foresight]] = {
    "max_probability": lambda seed: MaxProbability(),
    "entropy": lambda seed: Entropy(),
    "random": lambda seed: RandomScore(seed),
    "oracle": lambda seed: Foresight(),
}
# Names of trained scores, and what their heads were trained to say.
HEADS: Mapping[str, frozenset[HeadKind]] = {
    "reward_head": frozenset({"rel", "prob", "accept", "pair"}),
    "co_llm": frozenset({"co_llm"}),
    "citer": frozenset({"citer"}),
}


def token_level(
    *,
    scorer: str | None = None,
    threshold: NotNegative | None = None,
    head: Path | None = None,
    tokens: Count = 1,
    max_cloud_tokens: Whole | None = None,
    seed: int = 0,
    points: tuple[float, ...] | None = None,
) -> TokenLevel:
    """The device writes, a score judges each token before it stands, and the cloud writes those that do not
    (arXiv 2409.13757).

    Args:
        scorer: what judges: `max_probability`, `entropy`, `reward_head`, `co_llm`, `citer`, `random`, or `oracle`, the
            cloud's own distribution, which nobody has in time. By default what the head was trained for, or
            `max_probability` without one.
        threshold: least score that stands; 0 keeps all, above 1 none. By default the one that the head's training
            found.
        head: folder of the trained head, for the scorers that are.
        tokens: how many the cloud writes at a time.
        max_cloud_tokens: most that it writes of an answer; null for all.
        seed: of the random score.
        points: thresholds of an evaluation.

    Raises:
        ConfigError: an unknown scorer, a head that is missing, of another kind or not asked for, or no threshold.
    """
    made: TokenScorer | Foresight
    if scorer is None:
        scorer = "max_probability" if head is None else _scorer_of(TokenHead.load(head).kind)
    if scorer in HEADS:
        made = _head(scorer, head)
        threshold = made.threshold if threshold is None else threshold
    elif scorer in SCORERS:
        if head is not None:
            raise ConfigError(f"head: {scorer} is not trained; leave head out, or write scorer: reward_head")
        made = SCORERS[scorer](seed)
    else:
        known = [*SCORERS, *HEADS]
        raise ConfigError(f"scorer: unknown scorer '{scorer}'{suggest(scorer, known)}; known: {', '.join(known)}")
    if threshold is None:
        raise ConfigError(f"threshold: missing for scorer {scorer}; give the least score that stands, e.g. 0.5")
    given = TokenLevel(scorer=made, threshold=threshold, tokens=tokens, max_cloud_tokens=max_cloud_tokens)
    return given if points is None else replace(given, points=points)


def _head(scorer: str, folder: Path | None) -> TokenHead:
    if folder is None:
        raise ConfigError(f"head: missing for scorer {scorer}; name the folder that algorithm: reward_head made")
    head = TokenHead.load(folder)
    if head.kind not in HEADS[scorer]:
        better = _scorer_of(head.kind)
        raise ConfigError(f"scorer: '{folder}' was trained as {head.kind}, not for {scorer}; write scorer: {better}")
    return head


def _scorer_of(kind: HeadKind) -> str:
    return next(name for name, kinds in HEADS.items() if kind in kinds)


# --- steps ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """What a recipe gives for a checker."""

    tags: Tags | None
    prm: Path | None
    seed: int


@dataclass(frozen=True, slots=True)
class _Kind:
    """A checker: how it is made, and the doubt that its paper lets stand; None where a recipe has to say."""

    make: Callable[[_Given], Checker]
    threshold: float | None = None


def _by_tag(given: _Given) -> Checker:
    if given.tags is None:
        raise ConfigError("tags: missing for checker tag; name the folder that algorithm: adaswitch made")
    return ByTag(tags=given.tags)


def _by_reward(given: _Given) -> Checker:
    if given.prm is None:
        raise ConfigError("prm: missing for checker prm; name the folder of a token classifier that rates steps")
    # By its name: this room loads no model library.
    return ByReward(reward=import_module("selfroute.scores.step_reward").StepReward.load(given.prm))


CHECKERS: Mapping[str, _Kind] = {
    "tag": _Kind(_by_tag, 0.5),
    "min_probability": _Kind(lambda given: ByView(scorer=MinProbability())),
    "first_entropy": _Kind(lambda given: ByView(scorer=FirstEntropy(), look=FirstEntropy.look, before=True), 1.0),
    "prm": _Kind(_by_reward, 0.3),  # accepts rewards from 0.7
    "cloud_judge": _Kind(lambda given: ByCloud(), 0.25),  # accepts digits from 7
    "oracle": _Kind(lambda given: ByForesight(), 0.9),
    "random": _Kind(lambda given: ByView(scorer=RandomDoubt(given.seed))),
}


def step_level(
    *,
    checker: str = "min_probability",
    threshold: float | None = None,
    mode: Mode = "cloud",
    step_end: str | None = None,
    tags: Path | None = None,
    prm: Path | None = None,
    max_step_tokens: Count = 128,
    max_cloud_tokens: Whole | None = None,
    seed: int = 0,
    points: tuple[float, ...] | None = None,
) -> StepLevel:
    """The device writes step by step, and a step that is doubted too much is written anew, by the cloud or by itself
    (arXiv 2410.13181).

    Args:
        checker: who doubts: `tag`, `min_probability`, `first_entropy`, `prm`, `cloud_judge`, `random`, or `oracle`, the
            cloud's own distribution, which nobody has in time. By default what the head was trained for, or
            `max_probability` without one.
        threshold: δ, the most doubt with which a step stands; below 0 the cloud writes every step. By default that of
            the checker's paper.
        mode: who writes a doubted step: the `cloud`, or the device once more (`reflection`).
        step_end: the text that ends a step; by default that of `tags`, or a line break.
        tags: folder of a device that was trained to tag its steps.
        prm: folder of a process reward model.
        max_step_tokens: most tokens of one step.
        max_cloud_tokens: most that the cloud writes of an answer; null for all.
        seed: of the random doubt.
        points: values of δ in an evaluation.

    Raises:
        ConfigError: an unknown checker, a folder that is missing or not asked for, or no threshold.
    """
    if checker not in CHECKERS:
        raise ConfigError(
            f"checker: unknown checker '{checker}'{suggest(checker, CHECKERS)}; known: {', '.join(CHECKERS)}"
        )
    kind, known = CHECKERS[checker], None if tags is None else Tags.load(tags)
    if prm is not None and checker != "prm":
        raise ConfigError(f"prm: {checker} asks no reward model; leave prm out, or write checker: prm")
    if known is not None and step_end not in (None, known.step_end):
        raise ConfigError(f"step_end: {step_end!r} ends no step of the device in '{tags}'; write {known.step_end!r}")
    threshold = kind.threshold if threshold is None else threshold
    if threshold is None:
        raise ConfigError(f"threshold: missing for checker {checker}; give the most doubt that stands, e.g. 0.5")
    given = StepLevel(
        checker=kind.make(_Given(tags=known, prm=prm, seed=seed)),
        threshold=threshold,
        mode=mode,
        step_end=step_end if step_end is not None else "\n" if known is None else known.step_end,
        tags=known,
        max_step_tokens=max_step_tokens,
        max_cloud_tokens=max_cloud_tokens,
    )
    return given if points is None else replace(given, points=points)


# --- calls ---------------------------------------------------------------------------------------------------------


def relay(
    *,
    most_tokens: Count = MOST_TOKENS,
    max_cloud_tokens: Whole | None = None,
    points: tuple[float, ...] | None = None,
) -> Relay:
    """The device asks for tokens itself, with a count, and the cloud writes as many (arXiv 2601.05167).

    Args:
        most_tokens: that one call may ask for; others are passed over.
        max_cloud_tokens: most that the cloud writes of an answer; null for all.
        points: such limits, for an evaluation at several of them.
    """
    if points is None:
        return Relay(most_tokens=most_tokens, max_cloud_tokens=max_cloud_tokens)
    return LimitedRelay(most_tokens=most_tokens, max_cloud_tokens=max_cloud_tokens, points=points)


# --- layers --------------------------------------------------------------------------------------------------------


def early_exit(
    *,
    thresholds: NotNegative | tuple[float, ...] = 0.9,
    mode: ExitMode = "collaborative",
    upload: Upload = "eager",
    codec: Codec = "fp16",
    apart: Whole = APART,
    keys: KeyValues = "recompute",
    cloud_from: Whole = 0,
    deadline_s: Positive | None = None,
    control: int | None = None,
    max_cloud_tokens: Whole | None = None,
    points: tuple[float, ...] | None = None,
) -> EarlyExit:
    """The device runs a model's first layers and leaves where an exit is sure enough; where none is, the cloud goes on
    from the hidden states (arXiv 2411.02829).

    Args:
        thresholds: least probability with which a token stands at an exit, one for all or one for each; above 1 an exit
            is not looked at.
        mode: `collaborative`, or `standalone`, which never asks and takes the last exit's token.
        upload: send hidden states as soon as they are there (`eager`), with the next question (`late`), or, to compare
            with, as soon as they are there while the device waits (`blocking`).
        codec: how they are written: `fp32`, `fp16`, `bf16`, `int8`, `int8_plain` or `int4`.
        apart: channels of each position that int8 and int4 keep as they are.
        keys: keys and values of layers that a token left out: `recompute` them when they are needed, or `copy` them
            from the state at which it left.
        cloud_from: number of the exit, from 0, behind which the cloud goes on.
        deadline_s: how long a token is waited for before the last exit's is taken; null for ever.
        control: score tokens at random by this seed, to compare with.
        max_cloud_tokens: most that the cloud writes of an answer; null for all.
        points: thresholds of an evaluation, each for all exits.
    """
    given = EarlyExit(
        thresholds=thresholds if isinstance(thresholds, tuple) else (thresholds,),
        mode=mode,
        sending=Sending(codec=codec, apart=apart, upload=upload, deadline_s=deadline_s),
        keys=keys,
        cloud_from=cloud_from,
        control=control,
        max_cloud_tokens=max_cloud_tokens,
    )
    return given if points is None else replace(given, points=points)


def split(
    *,
    policy: Path | None = None,
    place: Count | None = None,
    weight: NotNegative | None = None,
    channel: Channel | None = None,
    weather: Weather | None = None,
    pilots: Count = 64,
    seed: int = 0,
    codec: Codec = "fp16",
    apart: Whole = APART,
    deadline_s: Positive | None = None,
    max_cloud_tokens: Whole | None = None,
    points: tuple[float, ...] | None = None,
) -> Split:
    """The device runs a model's first layers and the cloud the others, cut where a policy says under a lossy link
    (arXiv 2406.02616).

    Args:
        policy: folder that `algorithm: split_policy` made.
        place: in its place, always so many layers on the device.
        weight: of quality against the device's load, for a policy of `argmax`; null takes that of its making.
        channel: a lossy link to simulate, `{kind: packet_drop, packet_bytes: 32, arq: false}`; null delivers all.
        weather: its loss over an answer's messages, `{good: 0.1, bad: 0.6, worsens: 0.1, clears: 0.1}`.
        pilots: known symbols by which the device estimates the loss before it chooses.
        seed: of the channel.
        codec, apart: how states are written, as of `early_exit`.
        deadline_s: how long a token is waited for before the device writes it; null for ever.
        max_cloud_tokens: most that the cloud writes of an answer; null for all.
        points: weights of an evaluation, or places where one is fixed.

    Raises:
        ConfigError: policy and place, or neither; a folder that is none; or weights of a policy that has one alone.
    """
    folder = None if policy is None else PolicyFolder.load(policy)
    if (folder is None) == (place is None):
        raise ConfigError("policy: name the folder that algorithm: split_policy made, or place: the layers, not both")
    if folder is None and weight is not None:
        raise ConfigError(f"weight: {weight:g} has no use with a fixed place; leave it out, or name a policy")
    own = float(place or 0) if folder is None else folder.weight if weight is None else weight
    given = Split(
        choose=Fixed(place or 0) if folder is None else folder.chooser(weight),
        folder=folder,
        channel=channel,
        weather=weather or Weather(),
        pilots=pilots,
        seed=seed,
        sending=Sending(codec=codec, apart=apart, upload="late", deadline_s=deadline_s),
        max_cloud_tokens=max_cloud_tokens,
        points=points or (own,),
    )
    for point in given.points:
        given.at(point)
    return given
