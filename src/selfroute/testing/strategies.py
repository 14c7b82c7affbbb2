"""Whether a strategy keeps its contract, and the pair that it is tried over."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from selfroute.backends.base import Backend
from selfroute.backends.flight import closing
from selfroute.backends.function import FunctionBackend
from selfroute.budget.base import Budget, Estimate, Lease, NoCloud, Unlimited
from selfroute.errors import BackendError, BackendUnavailable, BudgetUnavailable, ConfigError
from selfroute.handoff import HANDOFF_TEXT, StreamParser
from selfroute.prices import Price, Prices
from selfroute.prompts import TEMPLATES
from selfroute.strategies.base import Sides, Strategy, answer
from selfroute.strategies.thinking import ThinkSplitter
from selfroute.testing.contract import hold
from selfroute.types import (
    Completion,
    Delta,
    Event,
    Finished,
    Message,
    Retract,
    Sampling,
    Source,
    TextDelta,
    Token,
    Trace,
    Usage,
)

__all__ = ["STRATEGY_CASES", "Pair", "RecordingBudget", "check_strategy"]

TEMPLATE = TEMPLATES["think"]
SAMPLING = Sampling(max_tokens=100)
PRICES = Prices(device=Price(completion_usd=1), cloud=Price(prompt_usd=3, completion_usd=15))
EASY, HARD = TEMPLATE.conversation("easy: 2+2"), TEMPLATE.conversation("hard: 2+2")
ANSWERS = "<think>2+2 = 4</think>\n<answer>4 by device</answer>"
ASKS = f"<think>no idea</think>\n{HANDOFF_TEXT}"
CLOUD_SAYS = "The cloud says it is 4."
PATIENCE_S = 5.0

Speak = Callable[[Sequence[Message], Sampling], Completion | str]


def asks_when_hard(messages: Sequence[Message], sampling: Sampling) -> Completion | str:
    """A trained device: hands off hard questions where that is offered and not forbidden, and is unsure of them."""
    is_hard = "hard" in " ".join(message.content for message in messages)
    may_ask = HANDOFF_TEXT in messages[0].content and HANDOFF_TEXT not in sampling.forbid
    text = ASKS if may_ask and is_hard else ANSWERS
    if sampling.top_logprobs is None:
        return text
    logprob = -2.0 if is_hard else -0.01
    tokens = tuple(Token(word, logprob, {word: logprob}) for word in re.findall(r"\S+\s*", text))
    return Completion(text, Usage(1, len(tokens)), tokens=tokens)


class RecordingBudget:
    """A budget that allows everything and remembers what it was told.

    Attributes:
        estimates: of every reservation.
        kept: requests that stayed on the device.
        spent: usage and cost of every call.
        open: leases that nobody has closed.
    """

    def __init__(self) -> None:
        self.estimates: list[Estimate] = []
        self.kept = self.open = 0
        self.spent: list[tuple[Usage, float]] = []

    async def reserve(self, estimate: Estimate, *, score: float | None = None) -> Lease:
        """See `selfroute.budget.base.Budget`."""
        self.estimates.append(estimate)
        self.open += 1
        return _RecordingLease(self)

    async def keep(self) -> None:
        """See `selfroute.budget.base.Budget`."""
        self.kept += 1


class _RecordingLease:
    def __init__(self, budget: RecordingBudget) -> None:
        self._budget = budget
        self._closed = False

    async def sent(self) -> None:
        hold(not self._closed, "a call is made under a lease that is still open")

    async def spend(self, usage: Usage, cost_usd: float) -> None:
        await asyncio.sleep(0)  # as a real ledger does: a cancelled task must get through here
        self._budget.spent.append((usage, cost_usd))

    async def close(self) -> None:
        await asyncio.sleep(0)
        self._budget.open -= not self._closed
        self._closed = True


class Remembering(Backend):
    """A backend that remembers what it was asked, and whether its streams were closed.

    Args:
        fn: what it says.
        breaks_after: pieces after which `failure` is raised, or the stream hangs where there is none; None never.
    """

    def __init__(
        self, name: str, fn: Speak, *, breaks_after: int | None = None, failure: Exception | None = None
    ) -> None:
        self.name = name
        self.asked: list[list[Message]] = []
        self.hangs = asyncio.Event()
        self.open = 0
        self._inner = FunctionBackend(name, fn)
        self._breaks_after, self._failure = breaks_after, failure

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """See `selfroute.backends.base.Backend`."""
        self.asked.append(list(messages))
        self.open += 1
        try:
            async with closing(self._inner.stream(messages, sampling)) as pieces:
                count = 0
                if self._breaks_after == 0:
                    await self._break()
                async for piece in pieces:
                    yield piece
                    count += 1
                    if count == self._breaks_after:
                        await self._break()
        finally:
            self.open -= 1

    async def _break(self) -> None:
        self.hangs.set()
        if self._failure is not None:
            raise self._failure
        await asyncio.Event().wait()


@dataclass(slots=True)
class Pair:
    """A fresh pair for one case.

    Attributes:
        device, cloud: what they were asked is in `asked`.
        budget: what it was told.
    """

    device: Remembering = field(default_factory=lambda: Remembering("device", asks_when_hard))
    cloud: Remembering = field(default_factory=lambda: Remembering("cloud", lambda messages, sampling: CLOUD_SAYS))
    budget: RecordingBudget = field(default_factory=RecordingBudget)

    def sides(self, budget: Budget | None = None) -> Sides:
        """The pair under its own budget, or another one."""
        return Sides(
            device=self.device, cloud=self.cloud, template=TEMPLATE, budget=budget or self.budget, prices=PRICES
        )


Make = Callable[[], Strategy]
StrategyCase = Callable[[Make], Awaitable[None]]


async def check_strategy(make: Make, *, skip: Collection[str] = ()) -> None:
    """Check that a strategy keeps the contract of `selfroute.Strategy`.

    It is tried over a device that answers easy questions and hands off hard ones where it may, and a cloud that
    answers at once, fails, breaks off, or hangs.

    Args:
        make: makes the strategy, once for each case.
        skip: names of `STRATEGY_CASES` that do not apply.

    Raises:
        AssertionError: the contract is broken; says which and how.
        ConfigError: there is no case of a name in `skip`.
    """
    if unknown := sorted(set(skip) - set(STRATEGY_CASES)):
        raise ConfigError(f"skip: there is no case '{unknown[0]}'; known: {', '.join(STRATEGY_CASES)}")
    for name, case in STRATEGY_CASES.items():
        if name not in skip:
            await case(make)


# --- the cases ---------------------------------------------------------------------------------------------------


async def the_last_event_is_the_trace(make: Make) -> None:
    for messages in (EASY, HARD):
        strategy = make()
        events = [event async for event in strategy.stream(Pair().sides(), messages, SAMPLING)]
        ends = [isinstance(event, Finished) for event in events]
        hold(ends == [False] * (len(ends) - 1) + [True], "exactly the last event of a stream is Finished")
        trace = _trace(events)
        hold(trace.strategy == strategy.name, f"a trace names its strategy {strategy.name!r}, not {trace.strategy!r}")


async def what_was_shown_is_the_answer(make: Make) -> None:
    """Without tags; of an answer of the cloud alone only a leading thought is told apart."""
    for messages in (EASY, HARD):
        events = [event async for event in make().stream(Pair().sides(), messages, SAMPLING)]
        trace, shown = _trace(events), _content(events)
        expected = _visible(trace)
        hold(shown.split() == expected.split(), f"the reader is shown {expected!r}, the answer, and not {shown!r}")
        hold(trace.text != "", "an answer is not empty where both sides could give one")


async def every_segment_names_its_writer(make: Make) -> None:
    for messages in (EASY, HARD):
        pair = Pair()
        events = [event async for event in make().stream(pair.sides(), messages, SAMPLING)]
        trace = _trace(events)
        names: dict[Source, str] = {"device": pair.device.name, "cloud": pair.cloud.name}
        for segment in trace.segments:
            hold(segment.model == names[segment.source], f"a segment names the model that wrote it: {segment!r:.200}")
        wrote = {segment.source for segment in trace.segments}
        spoke = {event.source for event in events if isinstance(event, TextDelta)}
        hold(spoke <= wrote, f"who is shown to write ({spoke}) has a segment ({wrote})")
        for side, model in (("device", pair.device), ("cloud", pair.cloud)):
            calls = trace.usage(side).calls  # type: ignore[arg-type]
            hold(calls == len(model.asked), f"the trace counts {len(model.asked)} calls of the {side}, not {calls}")


async def the_cloud_sees_none_of_the_devices_prompt(make: Make) -> None:
    pair = Pair()
    await answer(make(), pair.sides(), HARD, SAMPLING)
    for messages in pair.cloud.asked:
        said = " ".join(message.content for message in messages)
        hold(TEMPLATE.system not in said, "the device's system prompt never reaches the cloud")
        hold(HANDOFF_TEXT not in said, "a hand-off never reaches the cloud")


async def the_budget_is_told_of_a_request_once(make: Make) -> None:
    """By `reserve` or by `keep`; a strategy that needs no cloud tells it nothing."""
    for messages in (EASY, HARD):
        pair, strategy = Pair(), make()
        await answer(strategy, pair.sides(), messages, SAMPLING)
        told = len(pair.budget.estimates) + pair.budget.kept
        expected = 0 if strategy.needs.cloud is None else 1
        hold(told == expected, f"the budget is told of a request {expected} times, not {told}")


async def every_call_is_spent_under_one_lease(make: Make) -> None:
    pair = Pair()
    trace = await answer(make(), pair.sides(), HARD, SAMPLING)
    hold(pair.budget.open == 0, "a lease is closed before the trace is given")
    used = trace.usage("cloud")
    spent = Usage.total(usage for usage, _ in pair.budget.spent)
    hold(spent == used, f"what the cloud used is spent, call by call: {used}, not {spent}")
    hold(len(pair.budget.spent) == len(pair.cloud.asked), "every call of the cloud is spent once")
    cost = sum(segment.cost_usd for segment in trace.segments if segment.source == "cloud")
    hold(abs(sum(usd for _, usd in pair.budget.spent) - cost) < 1e-12, "what is spent is what the trace says it cost")
    for estimate in pair.budget.estimates:
        within = (
            used.prompt_tokens <= estimate.usage.prompt_tokens
            and used.completion_tokens <= estimate.usage.completion_tokens
            and used.calls <= max(1, estimate.usage.calls)
        )
        hold(within, f"the most that a request can use is reserved: {estimate}, and {used} was used")


async def without_a_budget_the_device_answers(make: Make) -> None:
    for messages in (EASY, HARD):
        pair = Pair()
        trace = await answer(make(), pair.sides(NoCloud()), messages, SAMPLING)
        hold(not pair.cloud.asked, "a budget that refuses keeps the cloud from being asked")
        hold(trace.source == "device", f"a request that the budget refuses is answered by the device: {trace.source}")
        hold(trace.text != "", "a request that the budget refuses is answered all the same")
        refused = trace.refusal is not None and trace.error is not None
        hold(refused == trace.wants_cloud, "a trace of a refused request says which limit refused, and why")


async def a_ledger_out_of_reach_means_no_call(make: Make) -> None:
    pair = Pair()
    trace = await answer(make(), pair.sides(_Lost()), HARD, SAMPLING)
    hold(not pair.cloud.asked, "what cannot be booked is not spent: the cloud is not asked")
    hold((trace.error is not None) == trace.wants_cloud, "a trace says why a cloud that was wanted was not asked")


async def a_cloud_that_fails_leaves_the_device_to_answer(make: Make) -> None:
    down = BackendUnavailable("connection refused", backend="cloud")
    pair = Pair(cloud=Remembering("cloud", lambda messages, sampling: CLOUD_SAYS, breaks_after=0, failure=down))
    trace = await answer(make(), pair.sides(), HARD, SAMPLING)
    if not pair.cloud.asked:
        return
    hold(trace.source == "device" and trace.text != "", "where the cloud fails, the device answers")
    hold(trace.error is not None and "connection refused" in trace.error, "a trace says how the cloud failed")
    hold(not pair.budget.spent, "a call that failed before it cost anything is not spent")
    hold(pair.budget.open == 0, "a lease is closed where the cloud fails")


async def a_cloud_that_breaks_off_has_cost_something(make: Make) -> None:
    lost = BackendUnavailable("connection lost", backend="cloud")
    pair = Pair(cloud=Remembering("cloud", lambda messages, sampling: CLOUD_SAYS, breaks_after=1, failure=lost))
    events = [event async for event in make().stream(pair.sides(), HARD, SAMPLING)]
    if not pair.cloud.asked:
        return
    trace = _trace(events)
    hold(len(pair.budget.spent) == len(pair.cloud.asked), "a call that broke off in its answer is spent")
    hold(pair.budget.open == 0, "a lease is closed where the cloud breaks off")
    void = [segment for segment in trace.segments if segment.source == "cloud" and segment.part == "void"]
    stands = any(segment.source == "cloud" and segment.part == "answer" for segment in trace.segments)
    hold(bool(void) or stands, "what a cloud wrote before it broke off is in the trace, void or part of the answer")
    hold(
        stands or any(isinstance(event, Retract) for event in events),
        "shown text that does not stand is taken back by a Retract",
    )
    hold(_content(events).split() == _visible(trace).split(), "after a Retract the reader is shown the answer anew")


async def where_no_side_can_answer_the_error_comes_through(make: Make) -> None:
    def broken(name: str) -> Remembering:
        failure = BackendUnavailable("connection refused", backend=name)
        return Remembering(name, lambda messages, sampling: "", breaks_after=0, failure=failure)

    pair = Pair(device=broken("device"), cloud=broken("cloud"))
    try:
        await answer(make(), pair.sides(), HARD, SAMPLING)
    except BackendError:
        hold(pair.budget.open == 0, "a lease is closed where no side can answer")
        return
    raise AssertionError("where no side can answer, the BackendError comes through")


async def cancelling_closes_the_lease_and_the_stream(make: Make) -> None:
    """Also twice, as impatient callers do."""
    for pieces in (0, 1):
        pair = Pair(cloud=Remembering("cloud", lambda messages, sampling: CLOUD_SAYS, breaks_after=pieces))
        task = asyncio.create_task(answer(make(), pair.sides(), HARD, SAMPLING))
        waiting = asyncio.create_task(pair.cloud.hangs.wait())
        await asyncio.wait({task, waiting}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if task.done():  # it asks no cloud
            task.result()
            return
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=PATIENCE_S)
        await _settled(pair)
        hold(task.cancelled(), "a cancelled request ends as cancelled")
        _hold_let_go(pair, spent=bool(pieces))


async def a_reader_that_leaves_closes_the_lease_and_the_stream(make: Make) -> None:
    pair = Pair(cloud=Remembering("cloud", lambda messages, sampling: CLOUD_SAYS * 3, breaks_after=2))
    await _leave(make(), pair, HARD, "cloud")
    if pair.cloud.asked:
        await _settled(pair)
        _hold_let_go(pair, spent=True)


async def a_reader_that_leaves_during_the_device_owes_nothing(make: Make) -> None:
    pair = Pair(device=Remembering("device", asks_when_hard, breaks_after=2))
    await _leave(make(), pair, EASY, "device")
    await _settled(pair)
    hold(pair.device.open == 0, "a device's stream is closed when the reader leaves")
    hold(pair.budget.open == 0, "no lease stays open when the reader leaves")


async def requests_do_not_disturb_each_other(make: Make) -> None:
    strategy, sides = make(), Pair().sides(Unlimited())
    questions = [TEMPLATE.conversation(f"{'hard' if i % 3 else 'easy'} {i}") for i in range(12)]
    alone = [await answer(strategy, sides, question, SAMPLING) for question in questions]
    together = await asyncio.gather(*(answer(strategy, sides, question, SAMPLING) for question in reversed(questions)))
    for one, other in zip(alone, reversed(together), strict=True):
        same = (one.source, one.text, one.score) == (other.source, other.text, other.score)
        hold(same, "requests at once get what each gets alone")


class _Lost(NoCloud):
    async def reserve(self, estimate: Estimate, *, score: float | None = None) -> Lease:
        raise BudgetUnavailable("ledger: no connection")


def _trace(events: Sequence[Event]) -> Trace:
    last = events[-1] if events else None
    if not isinstance(last, Finished):
        raise AssertionError("the last event of a stream is Finished")
    return last.trace


def _content(events: Sequence[Event]) -> str:
    """What a reader has before them at the end."""
    shown: list[str] = []
    for event in events:
        if isinstance(event, Retract):
            shown.clear()
        elif isinstance(event, TextDelta) and event.kind == "content":
            shown.append(event.text)
    return "".join(shown)


def _visible(trace: Trace) -> str:
    if trace.source == "cloud":
        splitter = ThinkSplitter()
        parts = [*splitter.feed(trace.text), *splitter.close()]
        return "".join(text for kind, text in parts if kind == "content")
    parser = StreamParser()
    return "".join(piece.text for piece in (*parser.feed(trace.text), *parser.close()) if piece.kind == "content")


async def _leave(strategy: Strategy, pair: Pair, messages: Sequence[Message], source: Source) -> None:
    """Read until a side is shown to write, or hangs before anything of it is shown, and leave."""

    async def read() -> None:
        async with closing(strategy.stream(pair.sides(), messages, SAMPLING)) as events:
            async for event in events:
                if isinstance(event, TextDelta) and event.source == source:
                    return

    model = pair.device if source == "device" else pair.cloud
    reading, waiting = asyncio.create_task(read()), asyncio.create_task(model.hangs.wait())
    await asyncio.wait({reading, waiting}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    reading.cancel()
    await asyncio.wait({reading}, timeout=PATIENCE_S)


async def _settled(pair: Pair) -> None:
    """Let what is shielded from cancellation come to its end."""
    for _ in range(20):
        if not pair.budget.open and not pair.cloud.open:
            return
        await asyncio.sleep(0.005)


def _hold_let_go(pair: Pair, *, spent: bool) -> None:
    hold(pair.cloud.open == 0, "the cloud's stream is closed when the request ends early")
    hold(pair.budget.open == 0, "the lease is closed when the request ends early")
    hold(
        bool(pair.budget.spent) == spent,
        "a call that ends early is spent if the cloud had written anything, and free if not",
    )


STRATEGY_CASES: Mapping[str, StrategyCase] = {
    case.__name__: case
    for case in (
        the_last_event_is_the_trace,
        what_was_shown_is_the_answer,
        every_segment_names_its_writer,
        the_cloud_sees_none_of_the_devices_prompt,
        the_budget_is_told_of_a_request_once,
        every_call_is_spent_under_one_lease,
        without_a_budget_the_device_answers,
        a_ledger_out_of_reach_means_no_call,
        a_cloud_that_fails_leaves_the_device_to_answer,
        a_cloud_that_breaks_off_has_cost_something,
        where_no_side_can_answer_the_error_comes_through,
        cancelling_closes_the_lease_and_the_stream,
        a_reader_that_leaves_closes_the_lease_and_the_stream,
        a_reader_that_leaves_during_the_device_owes_nothing,
        requests_do_not_disturb_each_other,
    )
}
