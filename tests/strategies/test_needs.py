"""What a strategy needs of its sides is found through whatever is wrapped around them, before any request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import pytest

from selfroute.backends.base import Backend
from selfroute.backends.cache import AnswerCache, cached
from selfroute.backends.function import FunctionBackend
from selfroute.backends.rate_limited import RateLimited
from selfroute.errors import ConfigError
from selfroute.gateway.guard import Guard
from selfroute.gateway.service import Service
from selfroute.prompts import TEMPLATES
from selfroute.strategies.always import AlwaysCloud
from selfroute.strategies.base import Needs, Sides, Strategy, check_cloud, check_sides
from selfroute.types import Event, Message, Sampling


@runtime_checkable
class Counting(Protocol):
    def count(self, text: str) -> int: ...


class Counter(FunctionBackend):
    """A model that can also count."""

    def count(self, text: str) -> int:
        return len(text.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """As `always_cloud`, with needs."""

    needs: Needs = field(default_factory=Needs)
    name: str = "counted"

    def stream(self, sides: Sides, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Event]:
        return AlwaysCloud().stream(sides, messages, sampling)


def plain(name: str) -> Backend:
    return FunctionBackend(name, lambda messages, sampling: "4")


def counter(name: str) -> Backend:
    return Counter(name, lambda messages, sampling: "4")


Wrap = Callable[[Backend, Path], Backend]
WRAPS: dict[str, Wrap] = {
    "nothing": lambda backend, folder: backend,
    "a rate limit": lambda backend, folder: RateLimited(backend, requests_per_minute=60),
    "a cache": lambda backend, folder: cached(backend, AnswerCache(folder / "answers.sqlite")),
    "a guard": lambda backend, folder: Guard(backend.name, backend),
    "all": lambda backend, folder: Guard(
        backend.name,
        RateLimited(cached(backend, AnswerCache(folder / "answers.sqlite")), requests_per_minute=60),
    ),
}
BOTH = Counted(needs=Needs(device=(Counting,), cloud=(Counting,)))


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_a_capability_is_found_through_wrappers(wrap: Wrap, tmp_path: Path) -> None:
    able, unable = wrap(counter("able"), tmp_path), wrap(plain("unable"), tmp_path)
    check_sides(BOTH, Sides(device=able, cloud=able))
    with pytest.raises(ConfigError, match="'counted' needs a cloud with Counting, and unable has none"):
        check_sides(BOTH, Sides(device=able, cloud=unable))
    with pytest.raises(ConfigError, match="'counted' needs a device with Counting, and unable has none"):
        check_sides(BOTH, Sides(device=unable, cloud=able))


@pytest.mark.parametrize("strategy", [Counted(), BOTH, AlwaysCloud()])
def test_a_cloud_that_is_needed_must_be_there(strategy: Strategy) -> None:
    for check in (check_sides, lambda strategy, sides: check_cloud(strategy, sides.cloud)):
        with pytest.raises(ConfigError, match="needs a cloud"):
            check(strategy, Sides(device=counter("able")))
    check_sides(Counted(needs=Needs(cloud=None)), Sides(device=plain("alone")))


async def test_a_gateway_looks_when_its_models_are_loaded() -> None:
    def service(device: Callable[[], Backend]) -> Service:
        sides = {"device": Guard("device", device), "cloud": Guard("cloud", counter("cloud"))}
        return Service(strategy=BOTH, template=TEMPLATES["think"], **sides)

    await service(lambda: counter("device")).load()
    with pytest.raises(ConfigError, match="needs a device with Counting, and device has none"):
        await service(lambda: plain("device")).load()
