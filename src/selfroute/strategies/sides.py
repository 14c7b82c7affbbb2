"""What every strategy ends in: an answer of the device alone, or a call to the cloud with the device behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from selfroute.backends.clouds import About, Asking, Clouds, Pick
from selfroute.backends.flight import closing
from selfroute.budget.base import Budget, Estimate, Foreseeing, Lease
from selfroute.budget.estimate import most_used
from selfroute.errors import BackendError, BudgetExceeded, BudgetUnavailable, ConfigError, PrivacyRefused
from selfroute.handoff import HANDOFF_TEXT, StreamParser, parse
from selfroute.prices import Price
from selfroute.strategies.attempt import Attempt, speak
from selfroute.strategies.base import Sides
from selfroute.strategies.thinking import CloudReader
from selfroute.types import (
    Event,
    Finished,
    HandOff,
    Message,
    Part,
    Reason,
    Refusal,
    Retract,
    Sampling,
    Segment,
    TextDelta,
    Trace,
    Usage,
)

__all__ = [
    "Decision",
    "Kept",
    "answer_on_device",
    "ask_cloud",
    "consult",
    "keep_on_device",
    "muzzled",
    "pick_cloud",
    "room_in",
    "withhold",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a strategy has decided about a request, for its trace.

    Attributes:
        strategy: its name.
        reason: why the side that it chose answers.
        score: how much it wants the cloud (higher = send), None if it has no score.
        before: what was written for the decision.
    """

    strategy: str
    reason: Reason
    score: float | None = None
    before: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """A device's finished answer that its reader has not seen: what to serve when the cloud is not to be had.

    Attributes:
        deltas: its text for the reader.
        segment: for the trace, "answer" as its part; "void" if it was no answer but a hand-off.
    """

    deltas: tuple[TextDelta, ...]
    segment: Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """Why the cloud did not answer, and what of its answer there was."""

    reason: Reason
    error: str
    refusal: Refusal | None = None
    void: tuple[Segment, ...] = ()


def muzzled(sampling: Sampling) -> tuple[Sampling, Sampling]:
    """Variants of sampling: without a hand-off where the backend can be kept from one, and as it is."""
    return replace(sampling, forbid=(*sampling.forbid, HANDOFF_TEXT)), sampling


async def answer_on_device(
    sides: Sides,
    messages: Sequence[Message],
    sampling: Sampling,
    decision: Decision,
    *,
    failed: _Failure | None = None,
    propensity: float | None = None,
) -> AsyncIterator[Event]:
    """Let the device answer alone: no hand-off is offered, and it is kept from writing one where the backend can.

    A device that hands off all the same is served as an empty answer. What it thought in an attempt before is set off
    by a blank line.

    Args:
        failed: the call that this stands in for.
        propensity: probability with which the device was chosen, None where nothing was drawn.

    Raises:
        BackendError: the device did not answer; a note tells of the failure before it.
    """
    attempt, parser = Attempt("device", sides.device, sides.prices.device, propensity=propensity), StreamParser()
    prompt = sides.template.device_messages(messages, offer_handoff=False)
    thought_before = any(parse(segment.text).reasoning for segment in decision.before if segment.source == "device")
    try:
        async with closing(speak(attempt, parser, prompt, *muzzled(sampling))) as deltas:
            async for delta in deltas:
                if thought_before and delta.kind == "reasoning":
                    yield TextDelta("\n\n", "device", "reasoning")
                    thought_before = False
                yield delta
    except BackendError as failure:
        if failed is not None:
            failure.add_note(f"before that: {failed.error}")
        raise
    part: Part = "void" if parser.wants_cloud else "answer"
    yield Finished(_trace(decision, attempt.segment(part), wants_cloud=failed is not None, failed=failed))


async def keep_on_device(
    sides: Sides,
    messages: Sequence[Message],
    sampling: Sampling,
    decision: Decision,
    *,
    propensity: float | None = None,
) -> AsyncIterator[Event]:
    """Let the device answer a request that does not want the cloud, and tell the budget of it; see `ask_cloud`."""
    await sides.budget.keep()
    async with closing(answer_on_device(sides, messages, sampling, decision, propensity=propensity)) as events:
        async for event in events:
            yield event


async def withhold(
    sides: Sides, messages: Sequence[Message], sampling: Sampling, decision: Decision, why: str
) -> AsyncIterator[Event]:
    """Let the device answer a request that wants the cloud and of which nothing may be sent."""
    await sides.budget.keep()
    failed = _Failure(reason="privacy", error=why)
    async with closing(answer_on_device(sides, messages, sampling, decision, failed=failed)) as events:
        async for event in events:
            yield event


async def ask_cloud(
    sides: Sides,
    messages: Sequence[Message],
    sampling: Sampling,
    decision: Decision,
    *,
    handed_off: bool = False,
    kept: Kept | None = None,
    asked: Sequence[Message] = (),
    shown: Sampling | None = None,
    pick: Pick | None = None,
) -> AsyncIterator[Event]:
    """Reserve budget, call the cloud with the plain conversation, book the cost; failing that, answer on the device.

    A call is spent once the cloud has written or finished, also when it then breaks off or the reader leaves; before
    that, it is free. A cloud that stops without a word for the reader, e.g. with empty tags, has not answered.

    Args:
        handed_off: whether the device asked, which is an event of its own.
        kept: an answer the device has already given, which is served in place of another attempt.
        asked: what the cloud sees, if it is not `messages`.
        shown: how it is asked, if not by `sampling`.
        pick: which of several clouds; None lets them choose, where there are several.

    Raises:
        BackendError: neither side could answer.
        ConfigError: there is no cloud; `check_sides` finds that beforehand.
    """
    if sides.cloud is None:
        raise ConfigError(f"strategy '{decision.strategy}' asks a cloud, and there is none; see check_sides")
    asked, told = asked or messages, shown or sampling
    pick = pick or pick_cloud(sides, asked, told, decision.score)
    attempt = Attempt("cloud", pick.backend, pick.price, propensity=pick.propensity)
    estimate = most_used(asked, told, pick.price, answers=pick.backend.most_answers)
    reader = CloudReader(strip_tags=sides.strip_cloud_tags)
    begun = False
    try:
        lease = await sides.budget.reserve(estimate, score=decision.score)
        try:
            if handed_off:
                yield HandOff(decision.score)
            async with closing(attempt.deltas(asked, told, sent=lease.sent)) as deltas:
                async for delta in deltas:
                    begun = True
                    for said in reader.read(delta):
                        yield said
            for said in reader.close():
                yield said
            if reader.silent and attempt.written.finish_reason == "stop":  # one that was cut says so itself
                raise BackendError("the cloud stopped without an answer", backend=pick.backend.name)
        finally:
            # Shielded: a second cancellation must not leave the reservation open for ever.
            await asyncio.shield(_book(lease, attempt, estimate, pick))
    except (BudgetExceeded, BudgetUnavailable, BackendError) as error:
        failed = _failure(error, attempt)
        if isinstance(error, BackendError):
            pick.failed(error)
    else:
        tried = None if kept is None else replace(kept.segment, part="attempt")
        yield Finished(_trace(decision, attempt.segment(), wants_cloud=True, kept=tried))
        return
    if begun:
        yield Retract()
    if kept is not None:
        for said in kept.deltas:
            yield said
        yield Finished(_trace(decision, wants_cloud=True, kept=kept.segment, failed=failed))
        return
    async with closing(answer_on_device(sides, messages, sampling, decision, failed=failed)) as events:
        async for event in events:
            yield event


async def consult(sides: Sides, asked: Sequence[Message], sampling: Sampling) -> Segment:
    """Ask the cloud one question within an answer of the device, under a lease of its own; booked as any call.

    Raises:
        BackendError: the cloud did not answer.
        BudgetExceeded: a limit lets the call not pass.
        BudgetUnavailable: the ledger cannot be reached.
        ConfigError: there is no cloud.
    """
    pick = pick_cloud(sides, asked, sampling, None)
    attempt = Attempt("cloud", pick.backend, pick.price, propensity=pick.propensity)
    estimate = most_used(asked, sampling, pick.price, answers=pick.backend.most_answers)
    lease = await sides.budget.reserve(estimate)
    try:
        async with closing(attempt.deltas(asked, sampling, sent=lease.sent)) as deltas:
            async for _ in deltas:
                pass
    except BackendError as error:
        pick.failed(error)
        raise
    finally:
        await asyncio.shield(_book(lease, attempt, estimate, pick))
    return attempt.segment("probe")


def pick_cloud(
    sides: Sides,
    messages: Sequence[Message],
    sampling: Sampling,
    score: float | None,
    *,
    device: bool = False,
) -> Pick:
    """Who is to answer: the cloud, or the one of several that their policy chooses.

    Args:
        device: let the policy choose the device as well.

    Raises:
        ConfigError: there is no cloud.
    """
    cloud = sides.cloud
    if cloud is None:
        raise ConfigError("a cloud is asked, and there is none; see check_sides")
    if isinstance(cloud, Clouds):
        cloud = cloud.asking(About())
    if not isinstance(cloud, Asking):
        return Pick(cloud, sides.prices.cloud)
    fits = room_in(sides.budget, messages, sampling)
    own = (sides.device, sides.prices.device) if device else None
    return cloud.pick(messages, sampling, score=score, fits=fits, device=own)


def room_in(budget: Budget, messages: Sequence[Message], sampling: Sampling) -> Callable[[Price, int], bool] | None:
    """Whether a budget has room for a call at a price that may write so many answers; None if it cannot tell."""
    if not isinstance(budget, Foreseeing):
        return None
    foresee, usage = budget.fits, most_used(messages, sampling, Price()).usage

    def fits(price: Price, answers: int) -> bool:
        most = replace(usage, completion_tokens=usage.completion_tokens * answers)
        return foresee(Estimate(most, price.cost_usd(most)))

    return fits


def _failure(error: BudgetExceeded | BudgetUnavailable | BackendError, attempt: Attempt) -> _Failure:
    if isinstance(error, BudgetExceeded):
        refusal = Refusal(error.limit, error.spent, error.cap, error.reset_s, error.held, error.call)
        return _Failure(reason="budget", error=str(error), refusal=refusal)
    if isinstance(error, BudgetUnavailable):
        return _Failure(reason="budget", error=str(error))
    if isinstance(error, PrivacyRefused):
        return _Failure(reason="privacy", error=str(error))
    void = (attempt.segment("void"),) if attempt.started else ()
    return _Failure(reason="cloud-error", error=str(error), void=void)


def _trace(
    decision: Decision,
    *last: Segment,
    wants_cloud: bool,
    kept: Segment | None = None,
    failed: _Failure | None = None,
) -> Trace:
    """The record of a request: what was written for the decision, then what of a failed call, then the answer."""
    written = decision.before if kept is None else (*decision.before, kept)
    return Trace(
        strategy=decision.strategy,
        wants_cloud=wants_cloud,
        reason=decision.reason if failed is None else failed.reason,
        segments=(*written, *(failed.void if failed else ()), *last),
        decided_after=len(written),
        score=decision.score,
        error=None if failed is None else failed.error,
        refusal=None if failed is None else failed.refusal,
    )


async def _book(lease: Lease, attempt: Attempt, estimate: Estimate, pick: Pick) -> None:
    usd = 0.0
    if attempt.started:
        # A call that broke off has not said how long its prompt was: what it may have cost is booked.
        usage = attempt.usage
        if attempt.written.usage is None:
            usage += Usage(prompt_tokens=estimate.usage.prompt_tokens)
        usd = attempt.price.cost_usd(usage)
        await lease.spend(usage, usd)
    await lease.close()
    seconds = attempt.seconds if attempt.whole else None
    pick.ended(usd=usd, seconds=seconds, written_tokens=attempt.written.used.completion_tokens)
