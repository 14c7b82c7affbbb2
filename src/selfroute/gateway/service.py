"""Who answers a request: the strategy, or one side alone, under the budget and with the other side behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

from selfroute.backends.base import Backend, capability, find_capability, lacking
from selfroute.backends.clouds import DEVICE, About, Asking, Candidate, Clouds
from selfroute.backends.clouds import Mode as ChoiceMode
from selfroute.backends.flight import closing
from selfroute.backends.redacted import RedactedBackend
from selfroute.backends.stand_ins import Absent, Silent
from selfroute.budget.base import Budget, Estimate, Foreseeing, Lease, Unlimited
from selfroute.budget.shared import SharedBeliefs
from selfroute.errors import BackendError, BudgetExceeded, BudgetUnavailable, UnsupportedByBackend
from selfroute.gateway.errors import ApiError, Rejected
from selfroute.gateway.guard import Guard
from selfroute.gateway.request import ChatRequest
from selfroute.prices import Price, Prices
from selfroute.prompts import PromptTemplate, last_question, wrap_question
from selfroute.strategies.attempt import Attempt
from selfroute.strategies.base import Needs, Sides, Strategy, Tellable, answer, check_sides, is_discreet
from selfroute.strategies.sides import Decision, answer_on_device, ask_cloud, keep_on_device, room_in
from selfroute.strategies.thinking import CloudReader
from selfroute.types import Delta, Event, Finished, Message, Reason, Sampling, Segment, Source, TextDelta, Trace, Usage

__all__ = ["MODES", "Gate", "Mode", "Service", "SingleService", "Switch"]

Mode = Literal["auto", "device", "cloud", "private"]
MODES: tuple[Mode, ...] = get_args(Mode)


class Switch(NamedTuple):
    """How several clouds are used, which can change while they are.

    Attributes:
        prices: by cloud; one that is not named keeps its own.
    """

    mode: ChoiceMode
    frozen: bool
    prices: tuple[tuple[str, Price], ...] = ()


class Gate:
    """The budget of one request: asks the real one, and remembers what it said.

    Args:
        reject: raise `Rejected` when the budget refuses, instead of letting the device answer.
        about: what is known of the request, where several clouds choose by it.
    """

    def __init__(self, budget: Budget, *, reject: bool = False, about: About | None = None) -> None:
        self.about = about
        self.refusal: BudgetExceeded | BudgetUnavailable | None = None
        self.asked = False
        self.booked = False  # whether a call of the cloud was paid
        self.usage, self.cost_usd = Usage(), 0.0  # of the cloud's calls, also of those that broke off
        self._budget = budget
        self._reject = reject

    async def reserve(self, estimate: Estimate, *, score: float | None = None) -> Lease:
        """See `selfroute.budget.base.Budget`."""
        self.asked = True
        try:
            return _NotedLease(await self._budget.reserve(estimate, score=score), self)
        except (BudgetExceeded, BudgetUnavailable) as refusal:
            self.refusal = refusal
            if self._reject:
                raise Rejected(refusal) from refusal
            raise

    def fits(self, estimate: Estimate) -> bool:
        """See `selfroute.budget.base.Foreseeing`."""
        return self._budget.fits(estimate) if isinstance(self._budget, Foreseeing) else True

    async def keep(self) -> None:
        """See `selfroute.budget.base.Budget`."""
        await self._budget.keep()


class _NotedLease:
    """A lease of which the gate notes what is spent."""

    def __init__(self, lease: Lease, gate: Gate) -> None:
        self._lease = lease
        self._gate = gate

    async def sent(self) -> None:
        await self._lease.sent()

    async def spend(self, usage: Usage, cost_usd: float) -> None:
        self._gate.booked = True
        self._gate.usage += usage
        self._gate.cost_usd += cost_usd
        await self._lease.spend(usage, cost_usd)

    async def close(self) -> None:
        await self._lease.close()


class _Remembering(Backend):
    """A cloud whose failure is kept as it is."""

    inner: Backend

    def __init__(self, backend: Backend) -> None:
        self.inner, self.name = backend, backend.name
        self.failure: BackendError | None = None

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        try:
            async with closing(self.inner.stream(messages, sampling)) as deltas:
                async for delta in deltas:
                    yield delta
        except BackendError as failure:
            self.failure = failure
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A pair of models behind one endpoint.

    Args:
        strategy: any of `selfroute.strategies`.
        device, cloud: the guarded models; several clouds are guarded one by one. Without a cloud every request stays
            on the device.
        modes: what `x-selfroute-mode` may ask for; "auto" follows the strategy.
        on_budget: when the budget refuses, the device answers, or the client gets a 429.
        on_device_error: when the device fails, the cloud answers under the same budget, or the client is told.
        wrap: put the last user turn into the template's words.
        last_turn: show the models the last question alone, without the turns before it.
        strip_cloud_tags: read the cloud's text as the device's: without `<think>`, `<answer>` and hand-offs.
        learning: what several clouds learn and share with other processes; None for one cloud.
        examples: questions that the dashboard offers.
    """

    strategy: Strategy
    device: Guard
    cloud: Guard | Clouds | None
    template: PromptTemplate
    prices: Prices = field(default_factory=Prices)
    budget: Budget = field(default_factory=Unlimited)
    modes: frozenset[str] = frozenset(MODES)
    on_budget: Literal["device", "reject"] = "device"
    on_device_error: Literal["cloud", "error"] = "cloud"
    wrap: bool = False
    last_turn: bool = False
    strip_cloud_tags: bool = False
    learning: SharedBeliefs | None = None
    examples: tuple[str, ...] = ()

    @property
    def clouds(self) -> Clouds | None:
        """The several clouds, None where there is one or none."""
        return self.cloud if isinstance(self.cloud, Clouds) else None

    def told(self, share: float) -> Service:
        """The same with another share in the prompt, if its policy is told one."""
        return replace(self, strategy=self.strategy.told(share)) if isinstance(self.strategy, Tellable) else self

    def gate(self, about: About | None = None) -> Gate:
        """A budget for one request."""
        return Gate(self.budget, reject=self.on_budget == "reject", about=about)

    async def load(self) -> None:
        """Load the models, and see that they have what the strategy needs.

        One after the other: two threads that import one library at once trip over each other.

        Raises:
            ConfigError: one cannot be loaded, or lacks something.
            BudgetUnavailable: what was learnt of several clouds cannot be read.
        """
        if self.learning is not None:  # requests may come while a model loads
            await self.learning.start()
        for _, guard in self.guards():
            await guard.load()
        check_sides(self.strategy, Sides(device=self.device, cloud=self.cloud))

    async def aclose(self) -> None:
        """Let go of the models, the budget, and what is learnt."""
        for _, guard in self.guards():
            await guard.aclose()
        if self.learning is not None:
            await self.learning.aclose()
        if aclose := getattr(self.budget, "aclose", None):
            await aclose()

    def guards(self) -> list[tuple[Literal["device", "cloud"], Guard]]:
        """The models by role."""
        if self.cloud is None:
            return [("device", self.device)]
        if isinstance(self.cloud, Clouds):
            clouds = (capability(cloud.backend, Guard) for cloud in self.cloud.clouds.values())
            return [("device", self.device), *(("cloud", guard) for guard in clouds)]
        return [("device", self.device), ("cloud", self.cloud)]

    def cloud_usd(self, usage: Usage) -> float:
        """What the cloud charges for so many tokens; of several clouds the mean of what they charge."""
        prices = [self.prices.cloud] if self.clouds is None else [cloud.price for cloud in self.clouds.clouds.values()]
        return sum(price.cost_usd(usage) for price in prices) / len(prices)

    def price_of(self, source: Source, model: str) -> Price:
        """What a model of a side costs."""
        if source == "cloud" and isinstance(self.cloud, Clouds):
            return self.cloud.clouds[model].price
        return self.prices.cloud if source == "cloud" else self.prices.device

    def door(self) -> RedactedBackend | None:
        """What takes out of a request what must not leave for the cloud, if there is such a door."""
        doors = (find_capability(guard, RedactedBackend) for side, guard in self.guards() if side == "cloud")
        return next((door for door in doors if door is not None), None)

    def mode(self, asked: str | None) -> Mode:
        """The mode that a request may have.

        Raises:
            ApiError: it is unknown or not allowed.
        """
        mode: Any = "auto" if asked is None else asked
        if mode not in self.modes:
            allowed = ", ".join(sorted(self.modes))
            raise ApiError("mode_not_allowed", f"x-selfroute-mode: {mode[:40]!r} is not one of {allowed}")
        if mode == "cloud" and self.cloud is None:
            raise ApiError("mode_not_allowed", "x-selfroute-mode: cloud: this gateway has no cloud")
        found: Mode = mode
        return found

    async def events(self, request: ChatRequest, mode: Mode, gate: Gate) -> AsyncIterator[Event]:
        """The stream that answers a request, once it is known which side may; its last event is `Finished`.

        Raises:
            ApiError: no side that may answer has what the request asks for.
            BackendError: no side could answer; raised by the stream as well.
            Rejected: by the stream, when the budget refused and `on_budget` is "reject".
        """
        messages = self.shown(request.messages)
        if mode in ("private", "device") or self.cloud is None:
            reason: Reason = "always" if mode == "auto" else "mode"
            return await self._on_device(messages, request.sampling, reason, gate, told=mode != "private")
        if mode == "cloud":
            return self._on_cloud(messages, request.sampling, "mode", gate)
        return await self._auto(messages, request.sampling, gate, self.cloud)

    def shown(self, messages: Sequence[Message]) -> Sequence[Message]:
        """What the models see of a conversation."""
        messages = last_question(messages) if self.last_turn else messages
        return wrap_question(messages, self.template) if self.wrap else messages

    async def _auto(
        self, messages: Sequence[Message], sampling: Sampling, gate: Gate, cloud: Backend
    ) -> AsyncIterator[Event]:
        try:
            await self.device.ready()
        except BackendError as failure:
            return self._behind(failure, messages, sampling, gate)
        if lacking(self.device, messages, sampling):
            if is_discreet(self.strategy):  # the conversation itself stays
                self._check([self.device], messages, sampling)
            return self._on_cloud(messages, sampling, "capability", gate)
        if lacking(cloud, messages, sampling):
            return await self._on_device(messages, sampling, "capability", gate)
        return self._strategy(messages, sampling, gate)

    async def _strategy(self, messages: Sequence[Message], sampling: Sampling, gate: Gate) -> AsyncIterator[Event]:
        """The strategy; if the device fails before it has answered anything, the cloud stands in for it."""
        shown = False
        try:
            async with closing(self.strategy.stream(self._sides(gate), messages, sampling)) as events:
                async for event in events:
                    shown = shown or (isinstance(event, TextDelta) and (event.kind == "content" or bool(event.extra)))
                    yield event
            return
        except BackendError as error:
            if shown or gate.asked:  # or the cloud has had its turn
                raise
            failure = error
        async with closing(self._behind(failure, messages, sampling, gate)) as events:
            async for event in events:
                yield event

    def _sides(self, gate: Gate, *, device: Backend | None = None, cloud: Backend | None = None) -> Sides:
        return Sides(
            device=device or self.device,
            cloud=cloud or self._cloud(gate),
            template=self.template,
            prices=self.prices,
            budget=gate,
            strip_cloud_tags=self.strip_cloud_tags,
        )

    def _cloud(self, gate: Gate) -> Backend | None:
        """The cloud in the light of one request."""
        return self.cloud.asking(gate.about or About()) if isinstance(self.cloud, Clouds) else self.cloud

    async def _on_device(
        self, messages: Sequence[Message], sampling: Sampling, reason: Reason, gate: Gate, *, told: bool = True
    ) -> AsyncIterator[Event]:
        """The device alone; the budget is told of the request unless nothing but the device may be touched."""
        await self.device.ready()
        self._check([self.device], messages, sampling)
        turn = keep_on_device if told else answer_on_device
        return turn(self._sides(gate), messages, sampling, Decision(strategy=self.strategy.name, reason=reason))

    def _on_cloud(
        self, messages: Sequence[Message], sampling: Sampling, reason: Reason, gate: Gate
    ) -> AsyncIterator[Event]:
        """The cloud; the device stands in where it can do what is asked."""
        assert self.cloud is not None
        self._check([self.cloud], messages, sampling)
        decision = Decision(strategy=self.strategy.name, reason=reason)
        missing = lacking(self.device, messages, sampling) if self.device.is_loaded else []
        if not missing:
            return ask_cloud(self._sides(gate), messages, sampling, decision)
        cloud = self._cloud(gate)
        assert cloud is not None
        remembering = cloud if isinstance(cloud, Asking) else _Remembering(cloud)
        return self._on_cloud_alone(messages, sampling, decision, gate, remembering, missing)

    async def _on_cloud_alone(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        decision: Decision,
        gate: Gate,
        cloud: _Remembering | Asking,
        missing: Sequence[str],
    ) -> AsyncIterator[Event]:
        """The cloud without a device that could stand in; its own failure, or the budget's, is told."""
        alone = self._sides(gate, device=Absent(self.device.name, UnsupportedByBackend("")), cloud=cloud)
        try:
            async with closing(ask_cloud(alone, messages, sampling, decision)) as events:
                async for event in events:
                    yield event
        except UnsupportedByBackend:
            failure = cloud.failure or gate.refusal
            if failure is None:
                raise
            failure.add_note(f"{self.device.name} cannot stand in: it has no {', '.join(missing)}")
            raise failure from None

    async def _behind(
        self, failure: BackendError, messages: Sequence[Message], sampling: Sampling, gate: Gate
    ) -> AsyncIterator[Event]:
        """The cloud in place of a device that failed.

        Raises:
            BackendError: `failure`, if the cloud may not, or does not, answer either.
        """
        stays = self.on_device_error == "error" or is_discreet(self.strategy)
        if self.cloud is None or stays or lacking(self.cloud, messages, sampling):
            raise failure
        sides = self._sides(gate, device=Absent(self.device.name, failure))
        decision = Decision(strategy=self.strategy.name, reason="device-error")
        async with closing(ask_cloud(sides, messages, sampling, decision)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    event = Finished(replace(event.trace, wants_cloud=False, error=str(failure)))
                yield event

    async def decide(self, request: ChatRequest, mode: Mode, about: About | None = None) -> Finished:
        """What would answer this request, found out without calling the cloud or asking the budget.

        Raises:
            ApiError, BackendError: as in `events`.
        """
        dry = replace(self, cloud=self._silent(), budget=Unlimited())
        async with closing(await dry.events(request, mode, dry.gate(about))) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event
        raise RuntimeError(f"strategy '{self.strategy.name}' ended without a Finished event")

    async def question(self, request: ChatRequest) -> tuple[Sequence[Message], Sampling] | None:
        """What the cloud would be asked, before anything is redacted; None where the device answers.

        That is the conversation, or where the device writes the question, what it writes; no cloud is called.

        Raises:
            ApiError, BackendError: the device is to write, and does not.
        """
        messages = self.shown(request.messages)
        if not is_discreet(self.strategy):
            return messages, request.sampling
        await self.device.ready()
        self._check([self.device], messages, request.sampling)
        cloud = Silent("cloud")
        dry = replace(self, cloud=None, budget=Unlimited())
        await answer(self.strategy, dry._sides(dry.gate(), cloud=cloud), messages, request.sampling)
        return cloud.asked

    def _silent(self) -> Guard | Clouds | None:
        """A cloud that is never called."""
        if isinstance(self.cloud, Clouds):
            return self.cloud.dry()
        return self.cloud and _silenced(self.cloud)

    def outlook(self, request: ChatRequest, about: About | None, score: float | None) -> list[Candidate]:
        """What is thought of each of several clouds for this request; nothing for one cloud."""
        if self.clouds is None:
            return []
        messages = self.shown(request.messages)
        device = self.prices.device if DEVICE in self.clouds.beliefs.policy.arms else None
        fits = room_in(self.budget, messages, request.sampling)
        return self.clouds.outlook(messages, request.sampling, about or About(), score, fits=fits, device=device)

    def _check(self, sides: Sequence[Backend], messages: Sequence[Message], sampling: Sampling) -> None:
        for side in sides:
            if missing := lacking(side, messages, sampling):
                raise ApiError(
                    "unsupported_by_backend",
                    f"{side.name} has no {', '.join(missing)}; leave it out, or ask in another mode",
                    param=missing[0],
                )


def _silenced(cloud: Guard) -> Guard:
    """A cloud that is not asked; what may not leave is refused all the same."""
    silent: Backend = Silent(cloud.name, cloud.lacks)
    if door := find_capability(cloud, RedactedBackend):
        silent = RedactedBackend(silent, door.redactor)
    return Guard(cloud.name, silent)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Single:
    """One model alone, as its own cloud: its words, unchanged."""

    name: str = "single"

    @property
    def needs(self) -> Needs:
        return Needs(cloud=None)

    async def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        attempt, reader = Attempt("cloud", sides.device, Price()), CloudReader(strip_tags=False)
        async with closing(attempt.deltas(messages, sampling)) as deltas:
            async for delta in deltas:
                for said in reader.read(delta):
                    yield said
        for said in reader.close():
            yield said
        yield Finished(Trace(strategy=self.name, wants_cloud=False, reason="always", segments=(attempt.segment(),)))


class SingleService(Service):
    """One model behind the endpoint, as the cloud of another gateway.

    Args:
        backend: the guarded model.
    """

    def __init__(self, *, backend: Guard) -> None:
        super().__init__(
            strategy=_Single(),
            device=backend,
            cloud=None,
            template=PromptTemplate("", "", "{question}"),
            modes=frozenset({"auto"}),
        )

    async def load(self) -> None:
        """Load the models, and see that they have what the strategy needs.

        One after the other: two threads that import one library at once trip over each other.

        Raises:
            ConfigError: one cannot be loaded, or lacks something.
        """
        for _, guard in self.guards():
            await guard.load()
        check_sides(self.strategy, Sides(device=self.device, cloud=self.cloud))

    def guards(self) -> list[tuple[Literal["device", "cloud"], Guard]]:
        """See `Service.guards`."""
        return [("cloud", self.device)]

    async def events(self, request: ChatRequest, mode: Mode, gate: Gate) -> AsyncIterator[Event]:
        """See `Service.events`."""
        await self.device.ready()
        self._check([self.device], request.messages, request.sampling)
        return self.strategy.stream(self._sides(gate), request.messages, request.sampling)

    async def decide(self, request: ChatRequest, mode: Mode, about: About | None = None) -> Finished:
        """See `Service.decide`: there is nothing to decide."""
        nothing = Segment(source="cloud", model=self.device.name)
        return Finished(Trace(strategy=self.strategy.name, wants_cloud=False, reason="always", segments=(nothing,)))
