"""Several clouds of a serving recipe: backend, policy, the store that its replicas share, and the log of decisions."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import cast

from selfroute.backends.clouds import DEVICE, Cloud, Clouds, width
from selfroute.bandits.beliefs import Beliefs, Money
from selfroute.budget.pacing import DualPrice, FixedPrice
from selfroute.budget.shared import WEIGHTS, SharedBeliefs, Source
from selfroute.config import STRATEGIES, Spec, make_journal, make_policy, make_task
from selfroute.config.serving import ChooseOptions, CloudOptions, FeedbackOptions, ServeRecipe
from selfroute.errors import ConfigError
from selfroute.gateway.guard import Guard
from selfroute.gateway.verifier import KnownQuestions
from selfroute.prompts import PromptTemplate

__all__ = ["DecisionLog", "make_clouds", "make_verifier"]

_LOG = logging.getLogger("selfroute.gateway")


def make_clouds(recipe: ServeRecipe, guard: Callable[[CloudOptions], Guard]) -> tuple[Clouds, SharedBeliefs]:
    """The clouds of a recipe, and what they learn.

    Args:
        guard: makes the guarded model of one.

    Raises:
        ConfigError: as `Clouds`, `make_policy` and `make_journal`; or a log that cannot be written.
    """
    choose = recipe.choose
    clouds = [_cloud(options, guard(options)) for options in recipe.clouds]
    entry = STRATEGIES.find(recipe.strategy.name, where="strategy")
    arms = [*([DEVICE] if entry.several else []), *dict.fromkeys(cloud.name for cloud in clouds)]
    policy = make_policy(
        choose.policy, arms=arms, features=width(choose.tasks), seed=choose.seed, where="choose.policy"
    )
    beliefs = Beliefs(policy, money=_money(choose))
    beliefs.frozen = choose.frozen
    learning = _learning(recipe, beliefs)
    made = Clouds(
        clouds,
        beliefs,
        listener=learning,
        mode=choose.mode,
        default=choose.default,
        explore=choose.explore,
        latency_weight=choose.latency_weight,
        failure_weight=learning.weights["failure"],
        most_usd=choose.most_usd,
        tasks=choose.tasks,
        log=None if choose.log is None else DecisionLog(choose.log),
        seed=choose.seed,
    )
    return made, learning


def _cloud(options: CloudOptions, guard: Guard) -> Cloud:
    return Cloud(
        backend=guard, price=options.prices, tags=frozenset(options.tags), context_tokens=options.context_tokens
    )


def _money(choose: ChooseOptions) -> Money | None:
    if choose.usd_per_request is not None:
        return DualPrice(choose.usd_per_request)
    return None if choose.price_weight is None else FixedPrice(choose.price_weight)


def _learning(recipe: ServeRecipe, beliefs: Beliefs) -> SharedBeliefs:
    """What one rule has learnt of contexts of one width is of no use to another: each has a journal of its own."""
    choose, feedback = recipe.choose, recipe.feedback
    store = choose.state or (recipe.budget.ledger if recipe.budget else Spec("sqlite"))
    rule = type(beliefs.policy.rule).__name__
    journal = make_journal(store, scope=f"{choose.scope}.{rule}.{width(choose.tasks)}", where="choose.state")
    return SharedBeliefs(
        beliefs,
        journal,
        seed=choose.seed,
        lifetime_s=feedback.lifetime_s,
        limit=feedback.limit,
        weights=_weights(feedback),
    )


def _weights(feedback: FeedbackOptions) -> dict[Source, float]:
    if unknown := [name for name in feedback.weights if name not in WEIGHTS]:
        raise ConfigError(f"feedback.weights: unknown source '{unknown[0]}'; known: {', '.join(WEIGHTS)}")
    return {cast(Source, name): weight for name, weight in feedback.weights.items()}


def make_verifier(options: FeedbackOptions, template: PromptTemplate) -> KnownQuestions | None:
    """What judges answers by itself; None without a task.

    Raises:
        ConfigError: as `make_task`, or an unknown split.
    """
    if options.task is None:
        return None
    task = make_task(options.task, where="feedback.task")
    return KnownQuestions(task, islice(task.rows(options.split), options.rows), template)


class DecisionLog:
    """Appends lines to a file, whole ones, whoever else does: worker processes share one, and it may be moved away.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append(b"")
        except OSError as error:
            raise ConfigError(f"choose.log: '{path}' cannot be written: {error.strerror}; name another file") from None

    def __call__(self, line: str) -> None:
        """Write a line; a full disk must not cost an answer."""
        try:
            self._append(line.encode() + b"\n")
        except OSError as error:
            _LOG.warning("a decision is not in the log '%s': %s", self.path, error.strerror)

    def _append(self, data: bytes) -> None:
        # One write to a file that is opened for appending: lines of several processes do not mix.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, data)
        finally:
            os.close(file)
