"""What `selfroute serve --check` finds out: whether every model answers, and whether the budget lets a call pass."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from selfroute.backends.base import complete
from selfroute.budget.base import Estimate, LimitState, Reporting
from selfroute.budget.estimate import most_used
from selfroute.errors import BudgetUnavailable, RecordingMissing, SelfRouteError
from selfroute.gateway.app import Gateway
from selfroute.gateway.guard import Guard
from selfroute.gateway.service import Service
from selfroute.types import Message, Sampling

__all__ = ["Finding", "preflight"]

QUESTION = [Message("user", "Say yes.")]
ANSWER_TOKENS = 16  # less is refused by some servers


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one thing.

    Attributes:
        name: the model or limit.
        line: the finding in words.
        is_fault: it keeps requests from being served as the recipe says.
    """

    name: str
    line: str
    is_fault: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.line}"


def preflight(make: Callable[[], Gateway], *, say: Callable[[str], None]) -> None:
    """Make the application, load its models, ask each once, and hold the budget against one call's reservation.

    The calls are short, are paid for where models are, and are not booked.

    Args:
        say: gets a line per finding.

    Raises:
        ConfigError: `make` raises it, or a model cannot be loaded.
        SelfRouteError: something was found wrong.
    """
    app = make()
    faults = asyncio.run(_faults(app, say))
    if faults:
        raise SelfRouteError(f"not ready: {', '.join(finding.name for finding in faults)}; see above")


async def _faults(app: Gateway, say: Callable[[str], None]) -> list[Finding]:
    faults = []
    for _, guard in app.service.guards():
        guard.on_failure = None  # what fails is said once, here
    try:
        await app.load()
        async for finding in _findings(app):
            say(str(finding))
            faults += [finding] if finding.is_fault else []
    finally:
        await app.service.aclose()
    return faults


async def _findings(app: Gateway) -> AsyncIterator[Finding]:
    for side, guard in app.service.guards():
        yield await _asked(app.service, side, guard)
    if isinstance(app.service.budget, Reporting) and app.service.cloud is not None:
        estimate = _cheapest(app.service, app.limits.default_tokens or app.limits.max_tokens)
        try:
            for state in await app.service.budget.status(estimate):
                yield _held_against(state, estimate)
        except BudgetUnavailable as failure:
            yield Finding("budget", str(failure), is_fault=True)


async def _asked(service: Service, side: str, guard: Guard) -> Finding:
    """One short call of a model; a recording has no answer to it, and needs none."""
    name, began = f"{side} {guard.name}", time.monotonic()
    try:
        answer = await complete(guard, QUESTION, Sampling(max_tokens=ANSWER_TOKENS))
    except RecordingMissing:
        return Finding(name, "recorded answers, not asked")
    except SelfRouteError as failure:
        return Finding(name, f"no answer after {time.monotonic() - began:.2f} s: {failure}", is_fault=True)
    usage = answer.usage
    cost = service.price_of("cloud" if side == "cloud" else "device", guard.name).cost_usd(usage)
    paid = f", {cost:.6f} USD" if cost else ""
    tokens = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"
    return Finding(name, f"answered in {time.monotonic() - began:.2f} s ({tokens}{paid})")


def _cheapest(service: Service, max_tokens: int) -> Estimate:
    """What the shortest request reserves: of several clouds, at the cheapest one."""
    estimates = [
        most_used(
            QUESTION, Sampling(max_tokens=max_tokens), service.price_of(side, guard.name), answers=guard.most_answers
        )
        for side, guard in service.guards()
        if side == "cloud"
    ]
    return min(estimates, key=lambda estimate: estimate.cost_usd)


def _held_against(state: LimitState, estimate: Estimate) -> Finding:
    name = f"budget {state.limit}"
    if state.call is None:  # a share holds no amounts
        return Finding(name, f"{state.spent:.1%} of the requests so far, at most {state.cap:.1%}")
    if state.limit.startswith("usd") and not estimate.cost_usd:
        return Finding(name, "the cloud has no price, so no call counts; set prices.cloud", is_fault=True)
    holds = f"a call holds up to {_shown(state.call)} with an answer of {estimate.usage.completion_tokens} tokens"
    if state.call > state.cap:
        mend = "raise it, or lower limits.default_tokens"
        return Finding(name, f"{_shown(state.cap)} lets no call pass: {holds}; {mend}", is_fault=True)
    left = max(0.0, state.cap - state.spent)
    fits = "" if state.call <= left else ", so none fits now"
    reset = "" if state.reset_s is None else f"; it resets in {math.ceil(state.reset_s):,} s"
    return Finding(name, f"{holds}; {_shown(left)} of {_shown(state.cap)} is left{fits}{reset}")


def _shown(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 1000 else f"{amount:.4g}"
