"""An answer that device and cloud write together in token ids: what every strategy inside the answer has in common.

The device's session holds the whole answer. The cloud's is opened with the first question to it, under one lease that
is settled when the answer ends, whatever ends it. A cloud that refuses or fails leaves the text where it stands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from selfroute.backends.base import Backend, capability, complete, find_capability
from selfroute.backends.sessions import NO_LOOK, Bounded, Judge, Look, Session, Sessions, Written
from selfroute.budget.base import Estimate, Lease
from selfroute.budget.estimate import most_used
from selfroute.errors import BackendError, BudgetExceeded, BudgetUnavailable, ConfigError, UnsupportedByBackend
from selfroute.handoff import Piece, StreamParser
from selfroute.prices import Price
from selfroute.strategies.base import Needs, Sides
from selfroute.strategies.sides import muzzled
from selfroute.types import (
    Completion,
    Message,
    Part,
    Reason,
    Refusal,
    Sampling,
    Segment,
    Source,
    TextDelta,
    Trace,
    Usage,
)

__all__ = ["Ends", "ExchangesIds", "Joint", "check_limit", "check_pair", "joint"]

T = TypeVar("T")
NOTHING = Usage()

# How long a device writes before what it wrote is shown: at first, and at most.
_PATIENCE_S, _MOST_PATIENCE_S = 0.05, 0.4


def check_limit(max_cloud_tokens: int | None) -> None:
    """See that a limit on the cloud's tokens is one.

    Raises:
        ConfigError: it is negative.
    """
    if max_cloud_tokens is not None and max_cloud_tokens < 0:
        raise ConfigError(f"max_cloud_tokens: {max_cloud_tokens} is below 0; null sets no limit")


def check_pair(strategy: str, sides: Sides, *, device: frozenset[str], cloud: frozenset[str], ids: bool = True) -> None:
    """See that the sessions of both sides can do what a strategy asks of them.

    Args:
        device, cloud: what they must give; see `selfroute.backends.sessions.Sessions`.
        ids: whether the sides exchange token ids, and so must have one vocabulary.

    Raises:
        ConfigError: they cannot, or their vocabularies differ.
    """
    assert sides.cloud is not None
    for role, side, wanted in (("device", sides.device, device), ("cloud", sides.cloud, cloud)):
        if missing := sorted(wanted - capability(side, Sessions).gives):
            raise ConfigError(
                f"strategy: '{strategy}' needs a {role} whose sessions give {', '.join(missing)}, and those of "
                f"{side.name} do not; name another {role} or scorer"
            )
    ours, theirs = (capability(side, Sessions).vocabulary for side in (sides.device, sides.cloud))
    if ids and ours and theirs and ours != theirs:  # one that cannot be reached yet is compared with its first answer
        raise ConfigError(
            f"strategy: '{strategy}' exchanges token ids, and {sides.device.name} ({ours}) and {sides.cloud.name} "
            f"({theirs}) have different vocabularies; name a cloud of its family, or write strategy: self_route"
        )


class ExchangesIds:
    """What strategies say of their sides alike whose device and cloud write one answer in token ids.

    Attributes:
        name: of the strategy.
        of_device, of_cloud: what the sides' sessions must give.
    """

    __slots__ = ()
    name: str
    of_device: ClassVar[frozenset[str]] = frozenset({"ids", "spell"})
    of_cloud: ClassVar[frozenset[str]] = frozenset({"ids"})

    @property
    def needs(self) -> Needs:
        """See `selfroute.strategies.base.Strategy`."""
        return Needs(device=(Sessions,), cloud=(Sessions,))

    def check(self, sides: Sides) -> None:
        """See `selfroute.strategies.base.Checked`.

        Raises:
            ConfigError: the sides' sessions lack something, or their vocabularies differ.
        """
        check_pair(self.name, sides, device=self.of_device, cloud=self.of_cloud)


@dataclass(frozen=True, slots=True)
class Ends:
    """What opens the sessions of an answer, each from its side's conversation; the cloud's not before it is needed."""

    device: Callable[[Sequence[Message]], Session]
    cloud: Callable[[Sequence[Message]], Session]


class Joint:
    """One answer under way; see `joint`.

    Attributes:
        device: its session.
        tokens: how many tokens of the answer are settled.
        over: whether it has ended.
        cloud_tokens: how many the cloud wrote.
        failed: whether the cloud is no longer to be asked.
    """

    def __init__(
        self,
        sides: Sides,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        strategy: str,
        reason: Reason,
        look: Look,
        luck: int | None,
        max_cloud_tokens: int | None,
        reads: Callable[[int], int],
        beside: Usage,
        ends: Ends | None,
    ) -> None:
        bounded = find_capability(sides.device, Bounded)
        sampling = sampling if bounded is None else bounded.bounded(sampling)
        self._sides, self._messages, self._sampling = sides, messages, sampling
        self._strategy, self._reads, self._beside = strategy, reads, beside
        self._asked: Reason = reason
        self._most = sampling.max_tokens if max_cloud_tokens is None else min(max_cloud_tokens, sampling.max_tokens)
        prompt = sides.template.device_messages(messages, offer_handoff=False)
        self._ends = ends or _ids(sides, muzzled(sampling), sampling, look=look, luck=luck)
        self.device = self._ends.device(prompt)
        self._speller = capability(sides.device, Sessions).speller(sampling.stop)
        self._parser = StreamParser()
        self._cloud: Session | None = None
        self._lease: Lease | None = None
        self._ids: list[int] = []
        self._hidden = 0  # tokens that the device has before it and the answer does not hold
        self._sent = 0  # of the ids, those that the cloud has
        self._segments: list[Segment] = []
        self._booked: dict[Source, Usage] = {"device": Usage(), "cloud": Usage()}
        self._waited: dict[Source, float] = {"device": 0.0, "cloud": 0.0}
        self._extra = Usage()  # of the cloud, what its session does not count
        self._shown = self._ended = self._started = False
        self._score: float | None = None
        self._reason: Reason = "answered"
        self._error: str | None = None
        self._refusal: Refusal | None = None
        self._patience_s = _PATIENCE_S
        self.wants_cloud = self.failed = False
        self.cloud_tokens = 0

    @property
    def tokens(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> Sequence[int]:
        """The tokens of the answer that are settled; the device's session may hold more."""
        return self._ids

    @property
    def text(self) -> str:
        """The text of these tokens."""
        return "".join(segment.text for segment in self._segments if segment.part == "answer")

    @property
    def left(self) -> int:
        """How many more tokens the answer may have."""
        return self._sampling.max_tokens - len(self._ids) - self._hidden

    @property
    def cloud_left(self) -> int:
        """How many more of them the cloud may write."""
        return min(self.left, self._most - self.cloud_tokens)

    @property
    def over(self) -> bool:
        return self._ended or self._speller.stopped or self.left < 1

    # --- writing

    async def device_writes(
        self, limit: int, *, until: Sequence[str] = (), judge: Judge | None = None, shown: bool = True
    ) -> list[Written]:
        """Let the device write on; nothing of it is settled yet.

        Args:
            until, judge: as in `selfroute.backends.sessions.Session.write`.
            shown: come back in time for the reader: soon at first, then less and less often, as each time wakes the
                event loop.

        Raises:
            BackendError: it failed.
        """
        within_s = self._patience_s if shown else None
        self._patience_s = min(2 * self._patience_s, _MOST_PATIENCE_S)
        return await self._timed("device", self.device.write(limit, until=until, judge=judge, within_s=within_s))

    async def cloud_writes(
        self,
        limit: int,
        *,
        score: float | None = None,
        until: Sequence[str] = (),
        take: Callable[[Sequence[int]], Awaitable[object]] | None = None,
    ) -> list[Written] | None:
        """Let the cloud read what is new to it and write on, and the device read that; None if it does not.

        What it wrote is not settled yet.

        Args:
            score: as in `asking`.
            until: as in `Session.write`.
            take: puts what the cloud wrote into the device's session; by default it is read.
        """
        wanted = min(limit, self.cloud_left)
        if wanted < 1:
            return None

        async def write(cloud: Session) -> list[Written]:
            await cloud.read(self._ids[self._sent :])
            self._sent = len(self._ids)
            written = await cloud.write(wanted, until=until)
            if not 0 < len(written) <= wanted:
                raise BackendError(
                    f"{self._cloud_side.name}: {len(written)} tokens came, and 1 to {wanted} were asked for",
                    backend=self._cloud_side.name,
                )
            await (take or self.device.read)([token.token_id for token in written])
            self._sent += len(written)
            return written

        return await self.asking(write, score=score)

    async def asking(self, ask: Callable[[Session], Awaitable[T]], *, score: float | None = None) -> T | None:
        """Ask the cloud's session for something, under the answer's lease; None if it refuses or fails.

        Args:
            score: how much the cloud is wanted here (higher = more).
        """
        if self.failed:
            return None
        self.wants_cloud = True
        if score is not None:
            self._score = score if self._score is None else max(self._score, score)
        try:
            if self._cloud is None:
                await self._open_cloud(score)
            assert self._cloud is not None
            answer = await self._timed("cloud", ask(self._cloud))
            self._check_vocabulary(self._cloud)
        except (BudgetExceeded, BudgetUnavailable, BackendError, UnsupportedByBackend) as error:
            self._note_failure(error)
            return None
        self._started, self._reason = True, self._asked
        return answer

    async def open_cloud(self) -> bool:
        """Reserve for the answer and open the cloud's session before it is asked for anything; whether that can be."""
        try:
            await self._open_cloud(None)
        except (BudgetExceeded, BudgetUnavailable, BackendError, UnsupportedByBackend) as error:
            self.wants_cloud = True
            self._note_failure(error)
        return not self.failed

    def note(self, error: Exception) -> None:
        """A failure of the cloud after which it may be asked again."""
        self._error = str(error)

    async def beside(
        self, messages: Sequence[Message], sampling: Sampling, *, score: float | None = None
    ) -> Completion | None:
        """Ask the cloud something beside the answer, under the same lease; None if it refuses or fails."""
        if self.failed:
            return None
        try:
            await (await self._leased(score)).sent()
            said = await self._timed("cloud", complete(self._cloud_side, messages, sampling))
        except (BudgetExceeded, BudgetUnavailable, BackendError, UnsupportedByBackend) as error:
            self._note_failure(error)
            return None
        self._started = True
        self._extra += replace(said.usage, calls=1)
        self._append("cloud", "probe", said.text, None)
        return said

    def _check_vocabulary(self, cloud: Session) -> None:
        if cloud.vocabulary != self.device.vocabulary:
            name = self._cloud_side.name
            raise BackendError(f"{name}: its vocabulary is not the device's; name a cloud of its family", backend=name)

    async def _open_cloud(self, score: float | None) -> None:
        lease = await self._leased(score)
        self._cloud = self._ends.cloud(self._messages)
        await lease.sent()

    async def _leased(self, score: float | None) -> Lease:
        """The answer's lease; reserved with the first question to the cloud."""
        if self._lease is None:
            self._lease = await self._sides.budget.reserve(self._estimate(self._cloud_side), score=score)
        return self._lease

    @property
    def _cloud_side(self) -> Backend:
        if self._sides.cloud is None:
            raise ConfigError(f"strategy '{self._strategy}' asks a cloud, and there is none; see check_sides")
        return self._sides.cloud

    def _estimate(self, cloud: Backend) -> Estimate:
        price = self._sides.prices.cloud
        plain = most_used(self._messages, self._sampling, price).usage
        keeps = "keeps" in capability(cloud, Sessions).gives
        most = self._sampling.max_tokens
        # A cloud that keeps nothing reads prompt and answer with every call.
        read = plain.prompt_tokens + self._reads(most) if keeps else (plain.prompt_tokens + most) * max(1, self._most)
        usage = Usage(read, self._most) + self._beside
        return Estimate(usage, price.cost_usd(usage))

    def _note_failure(self, error: Exception) -> None:
        self.failed = True
        self._error = str(error)
        self._reason = "budget" if isinstance(error, BudgetExceeded | BudgetUnavailable) else "cloud-error"
        if isinstance(error, BudgetExceeded):
            self._refusal = Refusal(error.limit, error.spent, error.cap, error.reset_s)

    async def _timed(self, source: Source, work: Awaitable[T]) -> T:
        began = time.perf_counter()
        try:
            return await work
        finally:
            self._waited[source] += time.perf_counter() - began

    # --- settling

    def settle(self, source: Source, written: Sequence[Written], *, drawn: int = 0) -> list[TextDelta]:
        """Let tokens stand: what the reader is shown of them, and their segment.

        Args:
            written: in order; nothing after one that ends the answer.
            drawn: how many of them the cloud gave as a view, which its session does not count.
        """
        ids = [token.token_id for token in written]
        self._ids += ids
        self._speller.extend(ids)
        self._ended |= any(token.ends for token in written)
        if source == "cloud":
            self.cloud_tokens += len(written)
            self._extra += Usage(completion_tokens=drawn)
        if self.over:
            self._speller.finish()
        text, _ = self._speller.take(last=self.over)
        self._note(source, text, written)
        pieces = self._parser.feed(text)
        if self.over:
            pieces += self._parser.close()
        return self._deltas(source, pieces)

    def throw(self, source: Source, written: Sequence[Written], *, note: str = "", hidden: bool = False) -> None:
        """Note tokens that are no part of the answer.

        Args:
            note: as in `Segment`.
            hidden: whether the device still has them before it, so that they count to its length.
        """
        if written:
            self._hidden += len(written) if hidden else 0
            speller = capability(self._sides.device, Sessions).speller()
            for token in written:
                speller.push(token.token_id)
            speller.finish()
            self._append(source, "void", speller.take(last=True)[0], None, tokens=len(written), note=note)

    def _note(self, source: Source, text: str, written: Sequence[Written]) -> None:
        scores = [token.score for token in written if token.score is not None]
        doubt = 1 - min(scores) if scores else None
        last = self._segments[-1] if self._segments else None
        if source == "device" and last is not None and (last.source, last.part) == ("device", "answer"):
            self._segments.pop()
            text = last.text + text
            doubt = max((s for s in (doubt, last.score) if s is not None), default=None)
            self._append(source, "answer", text, doubt, tokens=len(written), before=last)
        else:
            self._append(source, "answer", text, doubt, tokens=len(written))

    def _append(
        self,
        source: Source,
        part: Part,
        text: str,
        score: float | None,
        *,
        tokens: int | None = None,
        before: Segment | None = None,
        note: str = "",
    ) -> None:
        used, seconds = self._take(source, tokens)
        if before is not None:
            used, seconds = before.usage + used, before.seconds + seconds
        side = self._sides.device if source == "device" else self._cloud_side
        ends = "stop" if self._ended or self._speller.stopped else "length"
        segment = Segment(
            source=source,
            model=side.name,
            part=part,
            text=text,
            usage=used,
            seconds=seconds,
            cost_usd=self._price(source).cost_usd(used),
            finish_reason=ends,
            score=score,
            note=note,
        )
        self._segments.append(segment)

    def _take(self, source: Source, tokens: int | None) -> tuple[Usage, float]:
        """What a side has used and how long it was waited for since its last segment; a session is one call.

        Args:
            tokens: of the segment. What the device wrote beyond them is that of segments to come, such as a call that
                stands behind a text; None for all there is.
        """
        session = self.device if source == "device" else self._cloud
        now = replace(session.used, calls=1) if session is not None else Usage()
        now += self._extra if source == "cloud" else Usage()
        before = self._booked[source]
        if source == "device" and tokens is not None:
            written = min(now.completion_tokens, before.completion_tokens + tokens)
            now = replace(now, completion_tokens=written)
        self._booked[source] = now
        seconds, self._waited[source] = self._waited[source], 0.0
        return _less(now, before), seconds

    def _price(self, source: Source) -> Price:
        return self._sides.prices.device if source == "device" else self._sides.prices.cloud

    def _deltas(self, source: Source, pieces: Sequence[Piece]) -> list[TextDelta]:
        said: list[TextDelta] = []
        for piece in pieces:
            if piece.kind == "reasoning":
                said.append(TextDelta(piece.text, source, "reasoning"))
            elif piece.kind == "content" and (text := piece.text if self._shown else piece.text.lstrip()):
                self._shown = True
                said.append(TextDelta(text, source))
        return said

    # --- the end

    async def finish(self) -> Trace:
        """The record of the answer; its lease is settled."""
        if self._lease is None and not self.wants_cloud:
            await self._sides.budget.keep()
        sessions: tuple[tuple[Source, Session | None], ...] = (("device", self.device), ("cloud", self._cloud))
        for source, session in sessions:
            if session is not None and _less(replace(session.used, calls=1), self._booked[source]) != Usage():
                self._append(source, "void", "", None)
        await self._settle_lease()
        if self._parser.wants_cloud:  # it had no right to hand off
            self._segments = [replace(s, part="void") if s.part == "answer" else s for s in self._segments]
        if not self._segments:
            self._append("device", "answer", "", None)
        return Trace(
            strategy=self._strategy,
            wants_cloud=self.wants_cloud,
            reason=self._reason,
            segments=tuple(self._segments),
            decided_after=None,
            score=self._score,
            error=self._error,
            refusal=self._refusal,
        )

    async def aclose(self) -> None:
        """Let go of both sides' caches and of the lease."""
        try:
            await self.device.close()
            if self._cloud is not None:
                await self._cloud.close()
        finally:
            await self._settle_lease()

    async def _settle_lease(self) -> None:
        lease, self._lease = self._lease, None
        if lease is None:
            return
        used = Usage() if self._cloud is None else replace(self._cloud.used, calls=1)
        used += self._extra
        if self._started or used.prompt_tokens or used.completion_tokens:
            await lease.spend(used, self._price("cloud").cost_usd(used))
        await lease.close()


@asynccontextmanager
async def joint(
    sides: Sides,
    messages: Sequence[Message],
    sampling: Sampling,
    *,
    strategy: str,
    reason: Reason = "judged",
    look: Look = NO_LOOK,
    luck: int | None = None,
    max_cloud_tokens: int | None = None,
    reads: Callable[[int], int] = lambda most: most,
    beside: Usage = NOTHING,
    ends: Ends | None = None,
) -> AsyncIterator[Joint]:
    """Open an answer; both sides' caches and the lease are let go of at its end, also where its reader leaves.

    Args:
        strategy: name, for the trace.
        reason: why the cloud has a part in it, once it has.
        look: what the device's views show.
        luck: as in `Sessions.session`, for both sides.
        max_cloud_tokens: most that the cloud may write of the answer; None for all.
        reads: the most answer tokens that a cloud which keeps them reads, from the answer's own most.
        beside: the most that is used by what the cloud is asked beside the answer.
        ends: what opens both sides' sessions, where they are not those of `selfroute.backends.sessions.Sessions`.

    Raises:
        BackendError: the device cannot take the conversation.
        UnsupportedByBackend: it has no sessions.
    """
    made = Joint(
        sides,
        messages,
        sampling,
        strategy=strategy,
        reason=reason,
        look=look,
        luck=luck,
        max_cloud_tokens=max_cloud_tokens,
        reads=reads,
        beside=beside,
        ends=ends,
    )
    try:
        yield made
    finally:
        # Shielded: a second cancellation must leave neither cache nor reservation behind.
        await asyncio.shield(made.aclose())


def _ids(sides: Sides, variants: Sequence[Sampling], sampling: Sampling, *, look: Look, luck: int | None) -> Ends:
    """Both sides' sessions in token ids."""

    def cloud(messages: Sequence[Message]) -> Session:
        assert sides.cloud is not None
        return _open(sides.cloud, messages, sampling, look=NO_LOOK, luck=luck)

    return Ends(lambda messages: _open(sides.device, messages, *variants, look=look, luck=luck), cloud)


def _open(backend: Backend, messages: Sequence[Message], *variants: Sampling, look: Look, luck: int | None) -> Session:
    """A session with the first of the sampling variants that the backend supports."""
    sessions = capability(backend, Sessions)
    for sampling in variants[:-1]:
        try:
            return sessions.session(messages, sampling, look=look, luck=luck)
        except UnsupportedByBackend:
            continue
    return sessions.session(messages, variants[-1], look=look, luck=luck)


def _less(now: Usage, before: Usage) -> Usage:
    return Usage(*(getattr(now, name) - getattr(before, name) for name in Usage.__dataclass_fields__))
