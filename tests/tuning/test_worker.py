"""A worker, and that workers and server together learn."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from selfroute.errors import BackendUnavailable
from selfroute.tuning.base import Choices
from selfroute.tuning.consensus import Consensus, Order
from selfroute.tuning.engines.simulated import simulate
from selfroute.tuning.simplex import likeliest, uniform
from selfroute.tuning.worker import Worker
from selfroute.tuning.worlds import World


async def by_hand(choices: Sequence[Choices], round: int) -> list[float | None]:
    """The first choice of each slot is worth 1."""
    return [float(sum(k == 0 for k in chosen)) for chosen in choices]


def worker(**options: Any) -> Worker:
    return Worker("w", (3, 2), (4,), by_hand, **{"step": 0.1, "outer_step": 0.1, "penalty": 0.0, "pull": 0.0} | options)


def order(version: int = 0) -> Order:
    return Order(version, uniform((3, 2)))


async def test_it_learns_from_rewards_alone() -> None:
    one = worker(step=0.02, outer_step=0.02, dual_step=0.0)
    for version in range(150):
        report = await one.work(order(version))
    assert likeliest(report.sentences) == (0, 0) and one.best == (0,)
    assert report.sentences[0][0] > 0.8 and one.demonstrations[0][0] > 0.8


async def test_only_sentences_are_sent() -> None:
    report = await worker().work(order())
    assert [len(p) for p in report.sentences] == [3, 2]
    assert set(type(report).__slots__) == {"worker", "version", "sentences"}


async def test_demonstrations_move_once_in_so_many_rounds() -> None:
    one = worker(inner=3)
    held = [one.demonstrations]
    for version in range(6):
        await one.work(order(version))
        held.append(one.demonstrations)
    same = [all((a == b).all() for a, b in zip(x, y, strict=True)) for x, y in itertools.pairwise(held)]
    assert same == [True, True, False, True, True, False]


async def test_the_consensus_pulls() -> None:
    async def nothing(choices: Sequence[Choices], round: int) -> list[float | None]:
        return [0.0] * len(choices)

    one = Worker("w", (3,), (), nothing, step=0.05, penalty=1.0, pull=0.05)
    wanted = Order(0, (np.array([0.8, 0.1, 0.1]),))
    before = np.abs(one.sentences[0] - wanted.consensus[0]).sum()
    for _ in range(20):
        await one.work(wanted)
    assert np.abs(one.sentences[0] - wanted.consensus[0]).sum() < before / 3


async def test_a_round_that_fails_moves_nothing() -> None:
    async def fails(choices: Sequence[Choices], round: int) -> list[float | None]:
        raise BackendUnavailable("gone", backend="device")

    one = Worker("w", (3,), (2,), fails)
    before = json.dumps(one.state())
    with pytest.raises(BackendUnavailable):
        await one.work(Order(0, uniform((3,))))
    assert json.dumps(one.state()) == before


async def test_it_goes_on_where_its_state_was_taken() -> None:
    one = worker(inner=2)
    for version in range(3):
        await one.work(order(version))
    two = worker(inner=2)
    two.restore(json.loads(json.dumps(one.state())))
    for version in range(3, 6):
        reports = [await each.work(order(version)) for each in (one, two)]
        assert all((a == b).all() for a, b in zip(*(each.sentences for each in reports), strict=True))
    assert one.state() == two.state()


# --- together ------------------------------------------------------------------------------------------------------


async def closed(seed: int, *, quorum: int, patience: int, calls: int = 2000) -> tuple[float, float]:
    """Share of the gap that is closed, and the simulated time until it was 80 % of it."""
    world = World(interaction=0.3, seed=seed)
    workers = {
        f"w{v}": Worker(
            f"w{v}", world.sentences, world.demonstrations, world.measure(v), seed=seed, draws=4,
        )
        for v in range(4)
    }  # fmt: skip
    server = Consensus(list(workers), world.sentences, quorum=quorum, patience=patience)
    times = []

    def on_update(now: float) -> bool:
        found = world.closed(likeliest(server.consensus), [one.best for one in workers.values()])
        times.append((now, found))
        return world.calls >= calls

    await simulate(server, workers, lambda name: 6.0 if name == "w0" else 1.0, on_update=on_update)
    return times[-1][1], next((now for now, found in times if found >= 0.8), np.inf)


async def test_many_unequal_workers_find_what_is_known_to_be_best() -> None:
    """Three worlds; benchmarks/tuning/synthetic.py has twenty."""
    ends, sooner = [], []
    for seed in (0, 1, 2):
        end, time = await closed(seed, quorum=2, patience=8)
        _, in_step = await closed(seed, quorum=4, patience=1)
        ends.append(end)
        sooner.append(time / in_step)
    assert np.mean(ends) > 0.9, ends
    assert np.median(sooner) <= 0.5, "with a straggler of a sixth of the speed, not waiting is at least twice as fast"


def test_the_optimum_of_a_world_is_known() -> None:
    world = World(workers=2, sentences=(2, 3), demonstrations=(2,), seed=4)
    best = max(
        (world.value((i, j), [(k,), (m,)]), (i, j), [(k,), (m,)])
        for i in range(2) for j in range(3) for k in range(2) for m in range(2)
    )  # fmt: skip
    assert best[0] == pytest.approx(world.optimum) and world.closed(best[1], best[2]) == pytest.approx(1.0)
    assert world.margin > 0


async def test_measurements_of_a_world_are_its_values_with_noise() -> None:
    world = World(workers=1, sentences=(3,), demonstrations=(2,), seed=1)
    told = [reward for round in range(40) for reward in await world.measure(0)([(1, 1)] * 50, round)]
    assert np.mean([one for one in told if one is not None]) == pytest.approx(world.tables[0][1, 1], abs=0.1)
    assert world.calls == 2000
