"""What an operator has to hear of, whatever else is logged: failures that are covered, and a budget that refuses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable

from selfroute.errors import BackendError, BudgetExceeded, BudgetUnavailable

__all__ = ["Notices"]

_log = logging.getLogger("selfroute.gateway")
_AGAIN_S = 600.0


class Notices:
    """A line for the first failure of a kind, and for the first after ten minutes; the others are counted.

    A kind is a side with an error's class and HTTP status, or the limit that refuses. The lines hold no word of a
    prompt, an answer or a server. The share's refusals are none: it is how the share is kept.

    Args:
        clock: seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[Hashable, float] = {}
        self._unsaid: dict[Hashable, int] = {}

    def failure(self, side: str, failure: BackendError) -> None:
        """A request to a model failed; what becomes of it is another's to say."""
        status = getattr(failure, "status_code", None)
        self._say((side, type(failure), status), f"the {side} failed: {failure.summary}")

    def refusal(self, refusal: BudgetExceeded | BudgetUnavailable) -> None:
        """The budget let no call pass."""
        limit = getattr(refusal, "limit", "ledger")
        if limit != "share":
            self._say((limit,), str(refusal))

    def _say(self, kind: Hashable, line: str) -> None:
        now = self._clock()
        if kind in self._said and now - self._said[kind] < _AGAIN_S:
            self._unsaid[kind] = self._unsaid.get(kind, 0) + 1
            return
        before = self._unsaid.pop(kind, 0)
        self._said[kind] = now
        more = f" ({before} more since the last such line)" if before else ""
        _log.warning("%s%s", line, more)
