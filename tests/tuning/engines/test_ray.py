"""Workers as actors of Ray: they learn, only distributions travel, and one that dies comes back."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfroute.errors import BackendUnavailable, BudgetExceeded, ConfigError
from selfroute.tuning.base import Choices, Distributions
from selfroute.tuning.consensus import Consensus, Order, Orders, Report
from selfroute.tuning.engines.ray_engine import run_ray
from selfroute.tuning.simplex import likeliest
from selfroute.tuning.worker import Worker

ray = pytest.importorskip("ray", reason="needs the ray extra")
pytestmark = [
    pytest.mark.slow,
    # Ray leaves its own pipes and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]
SIZES = (3, 2)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One local cluster for all tests; this checkout is on the workers' path, with its tests."""
    root = Path(__file__).parents[3]
    path = os.pathsep.join([str(root), str(root / "src")])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
    yield
    ray.shutdown()


async def first(choices: Sequence[Choices], round: int) -> list[float | None]:
    return [float(sum(k == 0 for k in chosen)) for chosen in choices]


class Toy:
    """A site whose first choices are worth most; it may die, fail, run out of budget or be wrong, each once."""

    def __init__(self, name: str, folder: Path, fault: str) -> None:
        self.worker = Worker(name, SIZES, (4,), first, step=0.03, outer_step=0.03)
        self.mark, self.fault = folder / f"{name}-{fault}", fault

    async def work(self, order: Order) -> Report:
        if self.worker.rounds == 3 and self.fault and not self.mark.exists():
            self.mark.touch()
            if self.fault == "dies":
                os._exit(1)
            errors: dict[str, Exception] = {
                "fails": BackendUnavailable("gone", backend="device"),
                "spent": BudgetExceeded("calls", spent=1, cap=1),
                "wrong": ConfigError("CLOUD_API_KEY is not set"),
            }
            raise errors[self.fault]
        return await self.worker.work(order)

    def finish(self, consensus: Distributions) -> Mapping[str, Any]:
        return {"best": [*likeliest(consensus), *self.worker.best], "process": os.getpid()}


@asynccontextmanager
async def open_toy(folder: Path, faults: Mapping[str, str], name: str) -> AsyncIterator[Toy]:
    yield Toy(name, folder, faults.get(name, ""))


class Heard(Consensus):
    """A server that keeps every message, both ways."""

    messages: list[object]
    dropped: set[str]

    def begin(self) -> Orders:
        self.messages, self.dropped = [], set()
        return self._sent(super().begin())

    def drop(self, worker: str) -> Orders:
        self.dropped.add(worker)
        return self._sent(super().drop(worker))

    def receive(self, report: Report) -> Orders:
        self.messages.append(report)
        return self._sent(super().receive(report))

    def _sent(self, orders: Orders) -> Orders:
        self.messages += [order for _, order in orders]
        return orders


async def run(
    folder: Path, faults: Mapping[str, str], until: Callable[[Heard], bool], **options: Any
) -> tuple[Heard, str, dict[str, Mapping[str, Any]]]:
    server = Heard(["a", "b"], SIZES, **{"quorum": 1, "patience": 6} | options)
    ended, found = await run_ray(
        server, ["a", "b"], partial(open_toy, folder, faults), on_update=lambda: until(server), rest_s=0.05
    )
    return server, ended, found


async def test_actors_learn_and_only_distributions_over_sentences_travel(tmp_path: Path) -> None:
    server, ended, found = await run(tmp_path, {}, lambda server: server.version >= 120)
    assert ended == "enough" and likeliest(server.consensus) == (0, 0)
    assert {tuple(one["best"]) for one in found.values()} == {(0, 0, 0)}
    assert len({one["process"] for one in found.values()} | {os.getpid()}) == 3
    for message in server.messages:
        held = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}  # type: ignore[arg-type]
        arrays = held.pop("sentences", None) or held.pop("consensus")
        assert set(held) <= {"worker", "version"} and [array.shape for array in arrays] == [(3,), (2,)]
        assert all(array.dtype == np.float64 for array in arrays)


@pytest.mark.parametrize("fault", ["dies", "fails"])
async def test_an_actor_that_is_lost_is_dropped_and_comes_back(tmp_path: Path, fault: str) -> None:
    # What was seen at updates alone depends on the machine: a busy one makes none between the loss and the return.
    def until(server: Heard) -> bool:
        reports = [m for m in server.messages if isinstance(m, Report) and m.worker == "b"]
        return server.dropped == {"b"} and len(server.members) == 2 and len(reports) > 8

    _, ended, found = await run(tmp_path, {"b": fault}, until)
    assert ended == "enough" and set(found) == {"a", "b"}


async def test_a_spent_budget_ends_the_run(tmp_path: Path) -> None:
    _, ended, found = await run(tmp_path, {"b": "spent"}, lambda server: False)
    assert ended == "budget" and set(found) == {"a", "b"}


async def test_a_wrong_configuration_ends_it_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^CLOUD_API_KEY is not set$"):
        await run(tmp_path, {"b": "wrong"}, lambda server: False)
