"""Several clouds behind one backend: whoever asks says that a cloud is wanted, a policy chooses which.

A cloud is an *arm* of a bandit (`selfroute.bandits`). Each request is asked of one that can do what it asks for, with a
probability that its segment and the log of decisions name.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from selfroute.backends.base import Backend, Fold, find_capability, is_refusal, request_fields
from selfroute.backends.flight import closing
from selfroute.backends.stand_ins import Absent, Silent
from selfroute.bandits.base import Arm, Choice, Context, Outcome
from selfroute.bandits.beliefs import Beliefs, Told
from selfroute.bandits.log import decision_line, outcome_line
from selfroute.bandits.tallies import Tallies
from selfroute.errors import BackendError, BackendUnavailable, ConfigError, UnsupportedByBackend
from selfroute.prices import Price
from selfroute.types import Delta, Message, Sampling, Usage

__all__ = ["DEVICE", "About", "Asking", "Candidate", "Cloud", "Clouds", "Listener", "Mode", "Pick", "Resting", "width"]

DEVICE = "device"  # the arm of a strategy that lets the policy choose the device as well
Mode = Literal["observe", "act"]
Fits = Callable[[Price, int], bool]

_CHARACTERS_PER_TOKEN = 4  # rough, for quotes and windows; budgets reckon with bounds of their own
_WRITTEN_TOKENS = 256.0  # expected of an arm that has not answered yet
_DAY_S = 86400.0
_FEATURES = 7  # that every context has; see `Clouds.features`
_LARGEST_SCORE = 10.0


@runtime_checkable
class Resting(Protocol):
    """Optional capability: a backend that knows that asking it now would fail at once."""

    def resting(self) -> str | None:
        """Why it would, None if it may be asked."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """One of several clouds; its name is its backend's.

    Attributes:
        backend: with a circuit breaker and a queue of its own, if it is to have them.
        price: USD per million tokens.
        tags: what a request may ask for; its own name is one of them.
        context_tokens: its window; requests that are longer by a rough count go elsewhere. None is without limit.
    """

    backend: Backend
    price: Price = field(default_factory=Price)
    tags: frozenset[str] = frozenset()
    context_tokens: int | None = None

    @property
    def name(self) -> str:
        return self.backend.name


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is known of a request beside its conversation.

    Attributes:
        trace: its id, under which feedback comes; empty for a request that none is expected of.
        client: name of the key that asked.
        session: hash that names the conversation; None if it is not to stay with a cloud.
        continues: the conversation may have begun before.
        task: what kind of work it is, one of `Clouds.tasks`.
        tags: that a cloud must have to answer it.
    """

    trace: str = ""
    client: str | None = None
    session: str | None = None
    continues: bool = False
    task: str | None = None
    tags: frozenset[str] = frozenset()


class Candidate(NamedTuple):
    """A cloud in the light of one request.

    Attributes:
        excluded: why it cannot answer this one; None if it can.
        usd: what the answer is expected to cost.
        chance: with which it is chosen; 0 of one that is excluded.
        quality, latency_s: expected, None where nothing is known.
    """

    name: str
    excluded: str | None
    usd: float
    chance: float = 0.0
    quality: float | None = None
    latency_s: float | None = None


class Listener(Protocol):
    """Where it goes what came of a choice."""

    def tell(self, told: Told) -> None:
        """Pass it on to whoever learns."""
        ...

    def wait(self, trace: str, client: str | None, arm: str, features: tuple[float, ...]) -> None:
        """Feedback on this answer may come."""
        ...


class _Directly:
    """Learns at once, in this process alone."""

    def __init__(self, beliefs: Beliefs) -> None:
        self.tell = beliefs.take

    def wait(self, trace: str, client: str | None, arm: str, features: tuple[float, ...]) -> None:
        """Nobody asks for feedback here."""


class Pick:
    """Who answers one request, and what came of it. This one has nobody to tell: there was no choice.

    Attributes:
        arm: name of the choice.
        backend: of the chosen cloud.
        price: of it.
        propensity: probability of the choice, None where nothing was drawn.
    """

    def __init__(self, backend: Backend, price: Price, *, arm: str = "", propensity: float | None = None) -> None:
        self.arm = arm
        self.backend = backend
        self.price = price
        self.propensity = propensity

    def ended(self, *, usd: float, seconds: float | None, written_tokens: int) -> None:
        """The call is over.

        Args:
            usd: what is booked for it.
            seconds: until the answer was whole, None if it never was.
        """

    def failed(self, failure: BackendError) -> None:
        """The cloud did not answer; what is wrong with the request itself is not the cloud's fault."""


class Clouds(Backend):
    """One backend made of several clouds.

    Args:
        clouds: two or more, each of another name.
        beliefs: with a policy over the names of the clouds, and `DEVICE` where a strategy chooses the device as well.
        listener: who is told what came of a choice; by default the beliefs learn at once.
        mode: "observe" asks the default, and only logs what the policy would have done.
        default: who answers in mode "observe"; the first one if nobody says.
        explore: ε in mode "observe": the share of requests that any candidate answers, so that the log can be replayed.
        latency_weight: κ, quality per second.
        failure_weight: how much a failure counts, as a quality of 0; a verifier's verdict counts 1.
        most_usd: dearest quote that is asked; the cheapest candidate always is.
        tasks: kinds of work that requests may name.
        log: gets the lines of the log of decisions, see `selfroute.bandits.log`.
        seed: of the draws in mode "observe".
        clock: Unix seconds.

    Raises:
        ConfigError: fewer than two clouds, two of one name, one called "device", a policy for others, or an unknown
            default.
    """

    def __init__(
        self,
        clouds: Sequence[Cloud],
        beliefs: Beliefs,
        *,
        listener: Listener | None = None,
        mode: Mode = "act",
        default: str | None = None,
        explore: float = 0.0,
        latency_weight: float = 0.0,
        failure_weight: float = 0.25,
        most_usd: float | None = None,
        tasks: Sequence[str] = (),
        log: Callable[[str], None] | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
        name: str = "clouds",
    ) -> None:
        from selfroute.bandits.policy import Policy
        from selfroute.bandits.rules import Fixed

        self.name = name
        self.clouds = {cloud.name: cloud for cloud in clouds}
        _check_names([cloud.name for cloud in clouds], beliefs.policy.arms)
        self._resting = {cloud.name: find_capability(cloud.backend, Resting) for cloud in clouds}
        self.beliefs = beliefs
        self.listener: Listener = listener or _Directly(beliefs)
        self.mode: Mode = mode
        self.default = next(iter(self.clouds)) if default is None else default
        if self.default not in beliefs.policy.arms:
            known = ", ".join(beliefs.policy.arms)
            raise ConfigError(f"default: '{self.default}' is not one of {known}; name one of them")
        arms = beliefs.policy.arms
        self._watched = Policy(Fixed(self.default), arms, latency=Tallies(arms), floor=explore, trials=0, seed=seed)
        self.latency_weight = latency_weight
        self.failure_weight = failure_weight
        self.most_usd = most_usd
        self.tasks = tuple(tasks)
        self.log = log
        self._clock = clock
        self.is_dry = False

    @property
    def identity(self) -> str:
        """Of all of them, since any may answer."""
        return "+".join(cloud.backend.identity for cloud in self.clouds.values())

    @property
    def lacks(self) -> frozenset[str] | None:
        """Of the one that can do most: only where one can do everything there is nothing to look for."""
        known = [lacks for cloud in self.clouds.values() if (lacks := cloud.backend.lacks) is not None]
        return min(known, key=len) if known else None

    @property
    def announces(self) -> bool:
        return all(cloud.backend.announces for cloud in self.clouds.values())

    def missing(self, fields: Sequence[str]) -> list[str]:
        """See `selfroute.backends.base.Backend.missing`: of the cloud that can do most."""
        return min((cloud.backend.missing(fields) for cloud in self.clouds.values()), key=len)

    def check(self) -> None:
        for cloud in self.clouds.values():
            cloud.backend.check()

    async def aclose(self) -> None:
        for cloud in self.clouds.values():
            await cloud.backend.aclose()

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """See `selfroute.backends.base.Backend`: of whichever cloud is chosen."""
        return Asking(self, About()).stream(messages, sampling)

    def asking(self, about: About) -> Asking:
        """The same for one request, of which more is known."""
        return Asking(self, about)

    def reprice(self, name: str, price: Price) -> None:
        """Another price list for one of them, from the next request on; one that is not there changes nothing."""
        if name in self.clouds:
            self.clouds[name] = replace(self.clouds[name], price=price)

    def dry(self) -> Clouds:
        """The same without calls: it chooses whom the policy finds likeliest, remembers nothing, and says nothing."""
        dry = copy.copy(self)
        dry.is_dry = True
        return dry

    # --- one request in numbers

    def features(
        self, about: About, score: float | None, prompt_tokens: float, sampling: Sampling
    ) -> tuple[float, ...]:
        """x of a request, shape (7 + number of tasks,): 1; the strategy's score (0 without) and whether there is one;
        log(1 + tokens)/10 of prompt and limit; sine and cosine of the hour of the day, UTC; 1 at its task.
        """
        angle = 2 * math.pi * (self._clock() % _DAY_S) / _DAY_S
        known = score is not None and math.isfinite(score)
        return (
            1.0,
            max(-_LARGEST_SCORE, min(_LARGEST_SCORE, score)) if known and score is not None else 0.0,
            float(known),
            math.log1p(prompt_tokens) / 10,
            math.log1p(sampling.max_tokens) / 10,
            math.sin(angle),
            math.cos(angle),
            *(float(task == about.task) for task in self.tasks),
        )

    def quote(self, arm: str, price: Price, prompt_tokens: int, sampling: Sampling) -> float:
        """What an answer is expected to cost in USD: as long as this arm's last ones were."""
        written = self.beliefs.written_tokens(arm)
        written = _WRITTEN_TOKENS if written is None else written
        return price.cost_usd(Usage(prompt_tokens, math.ceil(min(sampling.max_tokens, written))))

    def candidates(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        about: About,
        *,
        fits: Fits | None = None,
        device: Price | None = None,
    ) -> list[Candidate]:
        """Every arm with its quote, and why it cannot answer this request if it cannot.

        Args:
            fits: whether the budget has room for a call at this price that may write so many answers; None asks no
                budget.
            device: price of the device, if it is an arm too.
        """
        fields, prompt_tokens = request_fields(messages, sampling), rough_tokens(messages)
        found = [
            Candidate(
                cloud.name,
                self._excluded(cloud, fields, prompt_tokens, about, fits),
                self.quote(cloud.name, cloud.price, prompt_tokens, sampling),
            )
            for cloud in self.clouds.values()
        ]
        if device is not None:
            found.insert(0, Candidate(DEVICE, None, self.quote(DEVICE, device, prompt_tokens, sampling)))
        return self._affordable(found)

    def _excluded(
        self, cloud: Cloud, fields: Sequence[str], prompt_tokens: int, about: About, fits: Fits | None
    ) -> str | None:
        if missing := cloud.backend.missing(fields) if fields else []:
            return f"has no {', '.join(missing)}"
        if lacking := about.tags - cloud.tags - {cloud.name}:
            return f"has no tag {', '.join(sorted(lacking))}"
        if cloud.context_tokens is not None and prompt_tokens > cloud.context_tokens:
            return f"about {prompt_tokens} tokens are more than its {cloud.context_tokens}"
        resting = self._resting[cloud.name]
        if resting is not None and (why := resting.resting()) is not None:
            return f"{_RESTS}: {why}"
        return _NO_ROOM if fits is not None and not fits(cloud.price, cloud.backend.most_answers) else None

    def _affordable(self, found: list[Candidate]) -> list[Candidate]:
        """Leave out those that are too dear to be asked at all, the cheapest never."""
        open_ = [one.usd for one in found if one.excluded is None]
        if self.most_usd is None or not open_:
            return found
        most = max(self.most_usd, min(open_))
        why = f"its quote is above most_usd of {self.most_usd:g}"
        return [one._replace(excluded=why) if one.excluded is None and one.usd > most else one for one in found]

    def context(self, about: About, score: float | None, messages: Sequence[Message], sampling: Sampling) -> Context:
        """What the policy is told of a request."""
        features = self.features(about, score, rough_tokens(messages), sampling)
        return Context(features, self.beliefs.price_weight, self.latency_weight)

    def outlook(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        about: About,
        score: float | None = None,
        *,
        fits: Fits | None = None,
        device: Price | None = None,
    ) -> list[Candidate]:
        """Every arm with what is thought of it for this request, as the next choice will see it; nothing is drawn."""
        found = self.candidates(messages, sampling, about, fits=fits, device=device)
        arms = _arms(found)
        if not arms:
            return found
        context = self.context(about, score, messages, sampling)
        thought = dict(zip([arm.name for arm in arms], self.beliefs.look(context, arms), strict=True))
        chances = dict(zip(thought, self._chances(context, arms, about), strict=True))
        return [
            one._replace(chance=chances[one.name], quality=look.quality, latency_s=look.latency_s)
            if (look := thought.get(one.name))
            else one
            for one in found
        ]

    def _chances(self, context: Context, arms: Sequence[Arm], about: About) -> list[float]:
        """With which each candidate answers, whoever decides."""
        if (kept := self.kept(about, arms)) is not None:
            return [float(arm.name == kept) for arm in arms]
        looks = self.beliefs.look(context, arms) if self.mode == "act" else self._watched.look(context, arms)
        return [look.chance for look in looks]

    def kept(self, about: About, arms: Sequence[Arm]) -> str | None:
        """The candidate that a conversation stays with, if it has one: there its beginning is in the prompt's cache."""
        if about.session is None or not about.continues:
            return None
        arm = self.beliefs.session(about.session)
        return arm if any(candidate.name == arm for candidate in arms) else None

    def choose(self, context: Context, arms: Sequence[Arm], about: About) -> Choice:
        """Draw who answers, and log it."""
        if (kept := self.kept(about, arms)) is not None:
            arms = [arm for arm in arms if arm.name == kept]
            choice = Choice(kept, 1.0, 1.0, None, forced=True)
            self.beliefs.policy.note(kept)
        elif self.mode == "act":
            choice = self.beliefs.choose(context, arms)
        else:
            choice = self._watched.choose(context, arms)
        would = self._would(context, arms) if self.mode == "observe" else None
        if self.mode == "observe":
            self.beliefs.policy.note(choice.arm)
        self.write(about, lambda: decision_line(about.trace, context, arms, choice, would=would))
        return choice

    def _would(self, context: Context, arms: Sequence[Arm]) -> dict[str, float]:
        """What the policy would have done, by its probabilities."""
        return {arm.name: look.chance for arm, look in zip(arms, self.beliefs.look(context, arms), strict=True)}

    def estimates(self) -> list[Candidate]:
        """What is thought of each arm for a plain request of some hundred words; see `outlook`."""
        messages, device = [Message("user", " " * 1000)], DEVICE in self.beliefs.policy.arms
        return self.outlook(messages, Sampling(), About(), device=Price() if device else None)

    def write(self, about: About, line: Callable[[], str]) -> None:
        """A line for the log of decisions, if there is one."""
        if self.log is not None and about.trace:
            self.log(line())


class Asking(Backend):
    """Several clouds in the light of one request; `pick` chooses.

    Attributes:
        failure: of the cloud that was asked, None while nothing has failed.
    """

    def __init__(self, clouds: Clouds, about: About) -> None:
        self.inner: Clouds = clouds
        self.name = clouds.name
        self.about = about
        self.failure: BackendError | None = None

    def missing(self, fields: Sequence[str]) -> list[str]:
        return self.inner.missing(fields)

    def pick(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        score: float | None = None,
        fits: Fits | None = None,
        device: tuple[Backend, Price] | None = None,
    ) -> Pick:
        """Choose who answers. Where nobody can, asking the pick raises why.

        Args:
            score: how much the strategy wants a cloud, None if it has no score.
            fits: see `Clouds.candidates`.
            device: if it is an arm too.
        """
        clouds = self.inner
        found = clouds.candidates(messages, sampling, self.about, fits=fits, device=device and device[1])
        arms = _arms(found) or _cheapest_without_room(found)
        if not arms:
            return _Nobodys(self, _nobody(clouds.name, found))
        context = clouds.context(self.about, score, messages, sampling)
        if clouds.is_dry:
            chances = clouds._chances(context, arms, self.about)
            arm = arms[max(range(len(arms)), key=chances.__getitem__)].name
            return Pick(Silent(arm), Price(), arm=arm)
        choice = clouds.choose(context, arms, self.about)
        backend, price = self._place(choice.arm, device)
        return _Told(self, choice, backend, price, context.features)

    def _place(self, arm: str, device: tuple[Backend, Price] | None) -> tuple[Backend, Price]:
        if arm == DEVICE and device is not None:
            return device
        cloud = self.inner.clouds[arm]
        return cloud.backend, cloud.price

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta]:
        """See `selfroute.backends.base.Backend`: for callers that book no call of their own."""
        pick = self.pick(messages, sampling)
        began, fold, whole = time.perf_counter(), Fold(), False
        try:
            async with closing(pick.backend.stream(messages, sampling)) as deltas:
                async for delta in deltas:
                    fold.add(delta)
                    yield delta
            whole = True
        except BackendError as failure:
            pick.failed(failure)
            raise
        finally:
            seconds = time.perf_counter() - began if whole else None
            used = fold.used
            pick.ended(usd=pick.price.cost_usd(used), seconds=seconds, written_tokens=used.completion_tokens)


class _Nobodys(Pick):
    """No cloud can be asked."""

    def __init__(self, asking: Asking, backend: Backend) -> None:
        super().__init__(backend, Price())
        self._asking = asking

    def failed(self, failure: BackendError) -> None:
        self._asking.failure = failure


class _Told(Pick):
    """A pick of which somebody learns."""

    def __init__(
        self, asking: Asking, choice: Choice, backend: Backend, price: Price, features: tuple[float, ...]
    ) -> None:
        super().__init__(backend, price, arm=choice.arm, propensity=choice.propensity)
        self._asking = asking
        self._features = features

    def ended(self, *, usd: float, seconds: float | None, written_tokens: int) -> None:
        clouds, about = self._asking.inner, self._asking.about
        whole = seconds is not None
        told = Told(
            arm=self.arm,
            outcome=Outcome(latency_s=seconds),
            usd=usd,
            written_tokens=written_tokens if whole else None,
            session=about.session if whole else None,
        )
        clouds.listener.tell(told)
        clouds.write(about, lambda: outcome_line(about.trace, cost_usd=usd, latency_s=seconds))
        if whole and about.trace:
            clouds.listener.wait(about.trace, about.client, self.arm, self._features)

    def failed(self, failure: BackendError) -> None:
        self._asking.failure = failure
        if is_refusal(failure):
            return
        clouds, about = self._asking.inner, self._asking.about
        outcome = Outcome(0.0, features=self._features, weight=clouds.failure_weight)
        clouds.listener.tell(Told(arm=self.arm, outcome=outcome))
        clouds.write(about, lambda: outcome_line(about.trace, quality=0.0))


def _nobody(name: str, found: Sequence[Candidate]) -> Absent:
    """In the place of a cloud where none can answer; asking says why."""
    why = "; ".join(f"{one.name}: {one.excluded}" for one in found)
    if any((one.excluded or "").startswith(_RESTS) for one in found):
        return Absent(name, BackendUnavailable(f"no cloud can be asked now ({why})", backend=name))
    failure = UnsupportedByBackend(f"no cloud can do what the request asks for ({why}); leave it out, or add one")
    return Absent(name, failure)


_RESTS, _NO_ROOM = "rests", "the budget has no room for it"


def width(tasks: Sequence[str]) -> int:
    """How many numbers a context has."""
    return _FEATURES + len(tasks)


def rough_tokens(messages: Sequence[Message]) -> int:
    """Length of a conversation in tokens, one for 4 characters."""
    return sum(len(message.content) for message in messages) // _CHARACTERS_PER_TOKEN + 4 * len(messages)


def _arms(found: Sequence[Candidate]) -> list[Arm]:
    return [Arm(one.name, one.usd) for one in found if one.excluded is None]


def _cheapest_without_room(found: Sequence[Candidate]) -> list[Arm]:
    """Where the budget has room for none: the budget itself has to say no, and to count it."""
    full = [Arm(one.name, one.usd) for one in found if one.excluded == _NO_ROOM]
    return [min(full, key=lambda arm: arm.price_usd)] if full else []


def _check_names(names: Sequence[str], arms: Sequence[str]) -> None:
    if len(names) < 2:
        raise ConfigError("clouds: one is no choice; name two or more, or write cloud: …")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"clouds: two are named '{name}'; give each a name of its own")
        if name == DEVICE:
            raise ConfigError(f"clouds: '{DEVICE}' is the device's name; give the cloud another one")
    if set(names) - set(arms) or set(arms) - {*names, DEVICE}:
        raise ConfigError(f"policy: it is for the arms {', '.join(arms)}, and the clouds are {', '.join(names)}")
