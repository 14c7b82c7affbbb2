"""Workers as actors of Ray: each on its own machine with its own rows, pools and models.

What an actor is sent is an `Order`, and what it sends back a `Report`, both of distributions over sentences alone. It
keeps its own state, and at the end writes its own program.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from importlib import import_module
from typing import Any, Protocol

from selfroute.errors import BackendError, BudgetExceeded, ConfigError, SelfRouteError
from selfroute.tuning.base import Distributions
from selfroute.tuning.consensus import Consensus, Order, Orders, Report
from selfroute.tuning.engines.local import MOST_FAILURES, End, OnUpdate

__all__ = ["Site", "run_ray"]


class Site(Protocol):
    """A worker where it lives."""

    async def work(self, order: Order) -> Report:
        """One round; keeps what it learns.

        Raises:
            BudgetExceeded: its part of the budget is spent.
            SelfRouteError: its models failed, and nothing has moved.
        """
        ...

    def finish(self, consensus: Distributions) -> Mapping[str, Any]:
        """Write the worker's program; gives its place, and what was counted."""
        ...


OpenSite = Callable[[str], AbstractAsyncContextManager[Site]]


async def run_ray(
    server: Consensus,
    names: Sequence[str],
    open_site: OpenSite,
    *,
    on_update: OnUpdate,
    rest_s: float = 5.0,
) -> tuple[End, dict[str, Mapping[str, Any]]]:
    """Run the workers until `on_update` says that it is enough, the budget ends, or nobody is left.

    The cluster is that of the environment variable `RAY_ADDRESS`; without it, one is started on this machine and
    stopped at the end. An actor that dies is dropped; a new one takes its place after a rest, with its kept state.

    Args:
        open_site: makes a worker's site on its actor; picklable.
        rest_s: seconds until a worker that failed comes back.

    Returns:
        Why it ended, and what `Site.finish` gave for each worker that was there then.

    Raises:
        ConfigError: Ray is not installed; or what a site raised.
    """
    try:
        ray: Any = import_module("ray")
    except ModuleNotFoundError:
        raise ConfigError("engine: 'ray' is not installed; pip install 'selfroute[ray]', or use engine=local") from None
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        return await _Cluster(ray, server, names, open_site, rest_s).run(on_update)
    finally:
        if started_here:
            ray.shutdown()


class _Cluster:
    """The actors, and what they are at."""

    def __init__(self, ray: Any, server: Consensus, names: Sequence[str], open_site: OpenSite, rest_s: float) -> None:
        self.ray, self.server, self.open_site, self.rest_s = ray, server, open_site, rest_s
        self._type = ray.remote(num_cpus=0)(_Actor)
        self.actors = {name: self._new(name) for name in names}
        self.running: dict[Any, str] = {}
        self.failures: dict[str, int] = {}
        self.resting: dict[str, float] = {}

    async def run(self, on_update: OnUpdate) -> tuple[End, dict[str, Mapping[str, Any]]]:
        self._start(self.server.begin())
        ended: End = "nobody"
        while self.running or self.resting:
            self._wake()
            if not self.running:
                await asyncio.sleep(0.05)
                continue
            done, _ = await asyncio.to_thread(self.ray.wait, list(self.running), num_returns=1, timeout=0.5)
            for reference in done:
                orders, is_spent = self._told(reference)
                if is_spent or (orders and on_update()):
                    ended = "budget" if is_spent else "enough"
                    return ended, await self._finish()
                self._start(orders)
        return ended, await self._finish()

    def _new(self, name: str) -> Any:
        return self._type.remote(self.open_site, name, os.getcwd())

    def _start(self, orders: Orders) -> None:
        for name, order in orders:
            self.running[self.actors[name].work.remote(order)] = name

    def _told(self, reference: Any) -> tuple[Orders, bool]:
        name = self.running.pop(reference)
        try:
            said = self.ray.get(reference)
        except self.ray.exceptions.RayError:
            return self._lost(name, anew=True), False
        if isinstance(said, Report):
            return self.server.receive(said), False
        kind, text = said
        if kind == "config":
            raise ConfigError(text)
        return ([], True) if kind == "budget" else (self._lost(name, anew=False), False)

    def _lost(self, name: str, *, anew: bool) -> Orders:
        """Drop a worker for a while; `anew`: its actor is gone."""
        self.failures[name] = self.failures.get(name, 0) + 1
        if self.failures[name] <= MOST_FAILURES:
            self.resting[name] = asyncio.get_running_loop().time() + self.rest_s
            if anew:
                self.actors[name] = self._new(name)
        return self.server.drop(name)

    def _wake(self) -> None:
        now = asyncio.get_running_loop().time()
        for name in [name for name, until in self.resting.items() if until <= now]:
            del self.resting[name]
            self._start([(name, self.server.join(name))])

    async def _finish(self) -> dict[str, Mapping[str, Any]]:
        asked = {name: actor.finish.remote(self.server.consensus) for name, actor in self.actors.items()}
        found = {}
        for name, reference in asked.items():
            try:
                said = await asyncio.to_thread(self.ray.get, reference)
            except self.ray.exceptions.RayError:
                continue
            found[name] = said
        return found


class _Actor:
    """One worker's place; its site is opened by its first round."""

    def __init__(self, open_site: OpenSite, name: str, folder: str) -> None:
        if os.path.isdir(folder):
            os.chdir(folder)
        self._open_site, self._name = open_site, name
        self._stack = AsyncExitStack()
        self._site: Site | None = None

    async def work(self, order: Order) -> Report | tuple[str, str]:
        """A report; or the kind of an error and its text, as errors do not travel well."""
        try:
            return await (await self._opened()).work(order)
        except ConfigError as error:
            return "config", str(error)
        except BudgetExceeded as error:
            return "budget", str(error)
        except BackendError as error:
            return "backend", str(error)
        except SelfRouteError as error:
            return "config", f"{type(error).__name__}: {error}"

    async def finish(self, consensus: Distributions) -> Mapping[str, Any]:
        """See `Site.finish`; closes the site."""
        found = (await self._opened()).finish(consensus)
        await self._stack.aclose()
        self._site = None
        return found

    async def _opened(self) -> Site:
        if self._site is None:
            self._site = await self._stack.enter_async_context(self._open_site(self._name))
        return self._site
