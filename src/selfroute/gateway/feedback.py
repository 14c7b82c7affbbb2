"""What a client tells of several clouds: which conversation, what kind of work, and how good an answer was."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from selfroute.backends.clouds import About, Clouds
from selfroute.bandits.log import outcome_line
from selfroute.budget.shared import SharedBeliefs, Source
from selfroute.errors import BudgetUnavailable, ConfigError
from selfroute.gateway.errors import ApiError, bad_request
from selfroute.gateway.http import Http
from selfroute.gateway.request import ChatRequest
from selfroute.types import Message

__all__ = ["FeedbackDesk", "what_is_said"]

_MINUTE_S = 60.0
_LONGEST_KEY = 512


def what_is_said(http: Http, request: ChatRequest, clouds: Clouds) -> About:
    """What a request says beside its conversation, for several clouds to choose by.

    Raises:
        ApiError: a task that the configuration does not name, or a tag that no cloud has.
    """
    task = http.header("x-selfroute-task")
    if task is not None and task not in clouds.tasks:
        known = ", ".join(clouds.tasks) or "none; the configuration names them in choose.tasks"
        raise bad_request("x-selfroute-task", f"{task[:40]!r} is not one of {known}")
    tags = frozenset(tag.strip() for tag in (http.header("x-selfroute-tags") or "").split(",") if tag.strip())
    all_tags = {*clouds.clouds, *(tag for cloud in clouds.clouds.values() for tag in cloud.tags)}
    if unknown := sorted(tags - all_tags):
        known = ", ".join(sorted(all_tags))
        raise bad_request("x-selfroute-tags", f"{unknown[0][:40]!r} is no tag of a cloud; there are {known}")
    said = http.header("x-selfroute-session") or request.sampling.extra.get("prompt_cache_key")
    key = said if isinstance(said, str) and said else None
    return About(
        client=http.client,
        session=_session(http.client, request.messages, key),
        continues=key is not None or any(message.role == "assistant" for message in request.messages),
        task=task,
        tags=tags,
    )


def _session(client: str | None, messages: Sequence[Message], key: str | None) -> str:
    """A hash that names a conversation: by the client's key, or by all up to its first question."""
    digest = hashlib.blake2b(digest_size=16, key=(client or "").encode()[:64])
    if key is not None:
        digest.update(b"key " + key[:_LONGEST_KEY].encode("utf-8", "replace"))
        return digest.hexdigest()
    for message in messages:
        digest.update(f"{message.role} {message.content}\n".encode("utf-8", "replace"))
        if message.role == "user":
            break
    return digest.hexdigest()


class FeedbackDesk:
    """Takes scores of answers: each once, from whoever asked, so many a minute.

    Args:
        learning: what learns from them.
        per_minute: most of one client, in this process.
        log: gets the lines of the log of decisions; None keeps none.
        count: called with source and verdict of each.
        clock: seconds.
    """

    def __init__(
        self,
        learning: SharedBeliefs,
        *,
        per_minute: int = 6000,
        log: Callable[[str], None] | None = None,
        count: Callable[[str, str], None] = lambda source, verdict: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._learning = learning
        self._per_minute = per_minute
        self._log = log
        self._count = count
        self._clock = clock
        self._room: dict[str | None, tuple[float, float]] = {}  # by client: how many may come, and since when

    async def take(self, body: Mapping[str, Any], client: str | None) -> dict[str, Any]:
        """Feedback of a client, `{trace_id, score, source}`.

        Raises:
            ApiError: a field is wrong; the trace is unknown, too old, or was judged otherwise before; or too many came.
        """
        self._admit(client)
        trace, score, source = _read(body)
        return await self.judge(trace, client, score, source)

    async def judge(self, trace: str, client: str | None, score: float, source: Source) -> dict[str, Any]:
        """A score in [0, 1] of an answer that `client` got.

        Raises:
            ApiError: as `take`.
        """
        try:
            feedback = await self._learning.judge(trace, client, score, source)
        except ConfigError as error:
            raise bad_request("score", str(error).partition(": ")[2]) from None
        except BudgetUnavailable as failure:
            raise ApiError("budget_unavailable", str(failure), headers={"Retry-After": "1"}) from None
        self._count(source, feedback.verdict)
        if feedback.verdict in _REFUSALS:
            code, message = _REFUSALS[feedback.verdict]
            raise ApiError(code, f"trace_id: {trace[:80]!r} {message}", param="trace_id")
        if feedback.verdict == "learnt" and self._log is not None:
            self._log(outcome_line(trace, quality=score))
        return {"object": "selfroute.feedback", "trace_id": trace, "status": feedback.verdict, "cloud": feedback.arm}

    def _admit(self, client: str | None) -> None:
        """A bucket per client that fills again within a minute."""
        now = self._clock()
        room, since = self._room.get(client, (float(self._per_minute), now))
        room = min(self._per_minute, room + (now - since) * self._per_minute / _MINUTE_S)
        if room < 1:
            wait_s = (1 - room) * _MINUTE_S / self._per_minute
            raise ApiError(
                "too_many_requests",
                f"more than {self._per_minute} pieces of feedback in a minute; try again",
                headers={"Retry-After": str(int(wait_s) + 1)},
            )
        self._room[client] = (room - 1, now)


# Verdicts that are the client's error: its code, and what it is told.
_REFUSALS: Mapping[str, tuple[str, str]] = {
    "unknown": ("trace_unknown", "names no answer of a cloud that was chosen for you; use x-selfroute-trace-id"),
    "expired": ("trace_expired", "is too old for feedback; send it sooner, or raise feedback.lifetime_s"),
    "differs": ("feedback_conflict", "was judged otherwise before, and the first judgement stands"),
}


def _read(body: Mapping[str, Any]) -> tuple[str, float, Source]:
    known = ("trace_id", "score", "source")
    if unknown := [name for name in body if name not in known]:
        raise bad_request(unknown[0][:40], f"is no field of feedback; there are {', '.join(known)}")
    trace, score, source = body.get("trace_id"), body.get("score"), body.get("source", "user")
    if not isinstance(trace, str) or not trace:
        raise bad_request("trace_id", "must be the id of an answer's trace, as text")
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise bad_request("score", "must be a number from 0 for useless to 1 for right")
    if source not in get_args(Source):
        raise bad_request("source", f"must be one of {', '.join(get_args(Source))}")
    return trace, float(score), source
