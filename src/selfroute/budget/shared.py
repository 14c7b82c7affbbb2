"""Beliefs about clouds that several processes share through a journal."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Literal, NamedTuple, get_args

from selfroute.bandits.base import Outcome, check_quality
from selfroute.bandits.beliefs import Beliefs, Told
from selfroute.budget.journal import Joined, Journal, Settled, Waiting
from selfroute.errors import BudgetUnavailable, ConfigError

__all__ = ["WEIGHTS", "Feedback", "SharedBeliefs", "Source", "Verdict"]

Source = Literal["verifier", "user", "failure"]
Verdict = Literal["learnt", "repeated", "differs", "expired", "unknown"]
# How much a score counts by who gave it.
WEIGHTS: Mapping[Source, float] = {"verifier": 1.0, "user": 0.5, "failure": 0.25}

_LOG = logging.getLogger("selfroute.budget")
_MOST_UNTOLD = 10_000  # lines kept while the store is out of reach; the oldest are lost first


class Feedback(NamedTuple):
    """What became of one piece of feedback.

    Attributes:
        verdict: "learnt", or why not: the same was said before ("repeated"), something else was ("differs"), the answer
            is too old ("expired"), or this client got none under that id ("unknown").
        arm: that had answered; None if nothing is known of it.
    """

    verdict: Verdict
    arm: str | None = None


class SharedBeliefs:
    """Beliefs as one of their replicas: what is told goes to the journal, and is believed once it is read there.

    So all replicas believe the same, and what a process that dies has not yet written is all that is lost.

    Args:
        beliefs: of this process; nobody else must teach them.
        journal: that the replicas share.
        seed: of the draws, together with the replica's number: replicas must not explore in step.
        every_s: seconds between two looks into the journal.
        lifetime_s: seconds for which feedback counts.
        limit: most answers that wait for feedback.
        weights: see `WEIGHTS`.
        snapshot_lines: after so many lines the state is written down, for those who come later.
        clock: Unix seconds.

    Raises:
        ConfigError: a weight that is not above 0, or an unknown source.
    """

    def __init__(
        self,
        beliefs: Beliefs,
        journal: Journal,
        *,
        seed: int = 0,
        every_s: float = 0.2,
        lifetime_s: float = 86_400.0,
        limit: int = 100_000,
        weights: Mapping[Source, float] = WEIGHTS,
        snapshot_lines: int = 500,
        clock: Callable[[], float] = time.time,
    ) -> None:
        _check_weights(weights)
        self.beliefs = beliefs
        self.journal = journal
        self.weights = {**WEIGHTS, **weights}
        self.every_s = every_s
        self._seed = seed
        self._lifetime_s, self._limit = lifetime_s, limit
        self._snapshot_lines = snapshot_lines
        self._clock = clock
        self._replica = self._seen = self._kept = 0
        self._lines: list[str] = []
        self._waiting: dict[str, Waiting] = {}
        self._turn = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None
        self._is_lost = False

    # --- what a backend of several clouds tells; see `selfroute.backends.clouds.Listener`

    def tell(self, told: Told) -> None:
        """For all replicas, this one included, with the next look."""
        self._lines.append(told.line(self._replica))
        del self._lines[:-_MOST_UNTOLD]

    def wait(self, trace: str, client: str | None, arm: str, features: tuple[float, ...]) -> None:
        """Remember what feedback on this answer will be about."""
        key = _key(trace, client)
        self._waiting[key] = Waiting(key, json.dumps([arm, features]), self._clock())

    # --- life

    async def start(self) -> None:
        """Join the others, believe what they do, and look into the journal from now on.

        Raises:
            BudgetUnavailable: the journal cannot be reached.
        """
        self._adopt(await self.journal.join())
        await self.look()
        self._looking = asyncio.create_task(self._keep_looking())

    async def aclose(self) -> None:
        """Tell what is left to tell."""
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
            self._looking = None
            await self._look_or_warn()
        await self.journal.aclose()

    async def look(self) -> None:
        """Tell what is new here, and take in what is new everywhere.

        Raises:
            BudgetUnavailable: the journal cannot be reached; nothing is lost.
        """
        async with self._turn:
            lines, self._lines = self._lines, []
            waiting, self._waiting = self._waiting, {}
            try:
                page = await self.journal.exchange(self._seen, lines, list(waiting.values()))
            except BaseException:
                self._lines[:0], self._waiting = lines, {**waiting, **self._waiting}
                raise
            if page.first > self._seen + 1:  # what was missed is in the snapshot alone
                await self._catch_up()
            self._take(page.lines[max(0, self._seen + 1 - page.first) :])
            if self._seen - self._kept >= self._snapshot_lines:
                await self._keep()

    def _take(self, lines: list[str]) -> None:
        for line in lines:
            by, told = Told.read(line)
            self.beliefs.take(told, elsewhere=by != self._replica)
        self._seen += len(lines)

    async def _catch_up(self) -> None:
        replica = self._replica
        self._adopt(await self.journal.join())
        self._replica = replica

    def _adopt(self, joined: Joined) -> None:
        self._replica, self._seen = joined.replica, joined.number
        self._kept = joined.number
        if joined.state is not None:
            self.beliefs.restore(json.loads(joined.state))
        self.beliefs.policy.reseed(self._seed, joined.replica)

    async def _keep(self) -> None:
        since_s = self._clock() - 2 * self._lifetime_s  # what is over is known as such for as long again
        state = json.dumps(self.beliefs.state())
        await self.journal.keep(self._seen, state, waiting=self._limit, since_s=since_s)
        self._kept = self._seen

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self.every_s)
            await self._look_or_warn()

    async def _look_or_warn(self) -> None:
        try:
            await self.look()
        except BudgetUnavailable as failure:
            if not self._is_lost:
                _LOG.warning("what is learnt of clouds is not shared for now: %s", failure)
            self._is_lost = True
        else:
            self._is_lost = False

    # --- feedback

    async def judge(self, trace: str, client: str | None, score: float, source: Source) -> Feedback:
        """Somebody judges an answer that `client` got; all replicas learn from it.

        Args:
            score: in [0, 1].

        Raises:
            ConfigError: a score outside.
            BudgetUnavailable: the journal cannot be reached; nothing was learnt.
        """
        check_quality(score)
        said = json.dumps([score, source])
        settled = await self._settled(_key(trace, client), said)
        if settled.record is None:
            return Feedback("unknown")
        arm, features = json.loads(settled.record)
        if settled.is_over:
            return Feedback("expired", arm)
        if settled.said is not None:
            return Feedback("repeated" if settled.said == said else "differs", arm)
        self.tell(Told(arm=arm, outcome=Outcome(score, features=tuple(features), weight=self.weights[source])))
        await self.look()
        return Feedback("learnt", arm)

    async def _settled(self, key: str, said: str) -> Settled:
        """Of an answer that another process has just given, the journal is told within a look or two."""
        await self.look()
        since_s = self._clock() - self._lifetime_s
        settled = await self.journal.settle(key, said, since_s=since_s)
        if settled.record is None:
            await asyncio.sleep(2 * self.every_s)
            settled = await self.journal.settle(key, said, since_s=since_s)
        return settled


def _key(trace: str, client: str | None) -> str:
    """Nobody but the client that asked finds an answer."""
    return f"{client or ''}/{trace}"


def _check_weights(weights: Mapping[Source, float]) -> None:
    for source, weight in weights.items():
        if source not in get_args(Source):
            raise ConfigError(f"weights: unknown source '{source}'; known: {', '.join(get_args(Source))}")
        if not weight > 0.0:
            raise ConfigError(f"weights.{source}: {weight} is not above 0; a verifier's is 1")
