"""The strategies inside the answer by the names of their scores, as recipes write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from selfroute.bounds import Count, NotNegative, Whole, suggest
from selfroute.errors import ConfigError
from selfroute.scores.tokens import Entropy, HeadKind, MaxProbability, RandomScore, TokenHead, TokenScorer
from selfroute.strategies.inside.token_level import Foresight, TokenLevel

__all__ = ["HEADS", "SCORERS", "token_level"]

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
    scorer: str = "max_probability",
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
            cloud's own distribution, which nobody has in time.
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
        name = next((name for name, kinds in HEADS.items() if head.kind in kinds), "reward_head")
        raise ConfigError(f"scorer: '{folder}' was trained as {head.kind}, not for {scorer}; write scorer: {name}")
    return head
