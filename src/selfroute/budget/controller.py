"""Keep the call share at its target while requests compete for the cloud by score, not by arrival."""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence

from selfroute.budget.base import Budget, Estimate, Foreseeing, Lease, LimitState, Reporting, Targeted
from selfroute.budget.limits import ShareLimit
from selfroute.errors import BudgetExceeded, ConfigError
from selfroute.types import Usage

__all__ = ["CompetingBudget", "ShareController"]

_OUTBID = "requests with a higher score go first"


class ShareController:
    """A running quantile with feedback.

    A request is sent if its score is among the highest `level` of the last `memory` ones; scores of requests that do
    not want the cloud count as the lowest. After each decision the level moves by gain · (share − sent): a call lowers
    it, everything else raises it. This is the update of adaptive conformal inference (Gibbs and Candès, 2021,
    arXiv 2106.00170), and its argument holds for any sequence of scores, drifting or chosen by an enemy: a level of 0
    or below sends nobody, of 1 or above everybody, so it stays within a gain of [0, 1], and as it is the sum of all
    differences, after n requests that want the cloud

        |calls / n − share| ≤ (1 + gain) / (gain · n).

    If too few want the cloud, all of them are sent; the level then waits at its upper end and saves up no more.

    Args:
        share: the target in (0, 1].
        gain: how fast the level moves; also how far calls may run ahead of the target: about 1 / gain.
        memory: how many scores a new one is compared with.
        seed: of the draw between equal scores.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, share: float, *, gain: float = 0.1, memory: int = 1000, seed: int = 0) -> None:
        _check_share(share)
        if not 0 < gain <= 1 or memory < 1:
            raise ConfigError(f"gain {gain:g} is not in (0, 1], or memory {memory} is below 1")
        self.share = share
        self.gain = gain
        self.level = share
        self.calls = 0
        self.requests = 0
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self._memory = memory
        self._random = random.Random(seed)

    @classmethod
    def under(cls, limit: ShareLimit) -> ShareController:
        """A controller that stays within half the burst of a limit, so that the limit itself rarely has to refuse."""
        return cls(limit.share, gain=min(1.0, 2 / limit.burst))

    def decide(self, score: float | None) -> bool:
        """Whether to send a request; None is one that does not want the cloud."""
        value = -math.inf if score is None or math.isnan(score) else score
        sent = score is not None and self._rank(value) >= 1 - self.level
        self._remember(value)
        self.requests += 1
        self.calls += sent
        self._move(self.share - sent)
        return sent

    def retarget(self, share: float) -> None:
        """Aim at another share; it is counted from here on.

        Raises:
            ConfigError: a share outside (0, 1].
        """
        _check_share(share)
        self.share = self.level = share
        self.calls = self.requests = 0

    def take_back(self) -> None:
        """A request that was sent has not become a call after all."""
        self.calls -= 1
        self._move(1)

    def _move(self, by: float) -> None:
        # The upper end is where a level that sends everybody stops by itself.
        self.level = min(self.level + self.gain * by, 1 + self.gain * self.share)

    def _rank(self, value: float) -> float:
        """Share of the remembered scores that are lower, in [0, 1); equal ones are drawn from."""
        below, up_to = bisect_left(self._sorted, value), bisect_right(self._sorted, value)
        return (below + self._random.random() * (up_to - below + 1)) / (len(self._sorted) + 1)

    def _remember(self, value: float) -> None:
        self._recent.append(value)
        insort(self._sorted, value)
        if len(self._recent) > self._memory:
            oldest = self._recent.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ConfigError(f"share: {share:g} is not in (0, 1]")


class CompetingBudget:
    """A budget whose calls go to the requests with the highest scores; one without a score is served as it comes.

    Every process has a controller of its own: each one at the target keeps all of them there. The limits are the
    inner budget's, and hold whatever the controller says.

    Args:
        budget: where calls are booked.
        controller: who may call.
    """

    def __init__(self, budget: Budget, controller: ShareController) -> None:
        self.budget = budget
        self.controller = controller

    async def reserve(self, estimate: Estimate, *, score: float | None = None) -> Lease:
        """See `selfroute.budget.base.Budget`."""
        if score is None:
            return await self.budget.reserve(estimate)
        if not self.controller.decide(score):
            await self.budget.keep()
            so_far = self.controller.calls / self.controller.requests
            raise BudgetExceeded("share", spent=so_far, cap=self.controller.share, when=_OUTBID)
        try:
            lease = await self.budget.reserve(estimate, score=score)
        except BaseException:
            self.controller.take_back()
            raise
        return _Competed(lease, self.controller)

    async def keep(self) -> None:
        """See `selfroute.budget.base.Budget`."""
        self.controller.decide(None)
        await self.budget.keep()

    def retarget(self, share: float) -> None:
        """See `selfroute.budget.base.Targeted`."""
        self.controller.retarget(share)
        if isinstance(self.budget, Targeted):
            self.budget.retarget(share)

    def fits(self, estimate: Estimate) -> bool:
        """See `selfroute.budget.base.Foreseeing`."""
        return self.budget.fits(estimate) if isinstance(self.budget, Foreseeing) else True

    async def status(self, estimate: Estimate | None = None) -> Sequence[LimitState]:
        """See `selfroute.budget.base.Reporting`."""
        return await self.budget.status(estimate) if isinstance(self.budget, Reporting) else ()

    async def aclose(self) -> None:
        """Close the inner budget."""
        if aclose := getattr(self.budget, "aclose", None):
            await aclose()


class _Competed:
    """A lease that tells the controller of a request that has not used the cloud after all."""

    def __init__(self, lease: Lease, controller: ShareController) -> None:
        self._lease = lease
        self._controller = controller
        self._unused = True

    async def sent(self) -> None:
        await self._lease.sent()

    async def spend(self, usage: Usage, cost_usd: float) -> None:
        self._unused = False
        await self._lease.spend(usage, cost_usd)

    async def close(self) -> None:
        if self._unused:
            self._unused = False
            self._controller.take_back()
        await self._lease.close()
