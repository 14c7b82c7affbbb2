"""The server: when it moves, what a message may do to it, and what workers that lie cannot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.errors import ConfigError
from selfroute.tuning.base import Distributions, Floats
from selfroute.tuning.consensus import Consensus, Report, clipped
from selfroute.tuning.planes import Planes
from selfroute.tuning.simplex import project, uniform

SIZES = (3, 2)
ARRAYS = st.tuples(*(st.lists(st.floats(0, 1), min_size=n, max_size=n).map(np.array) for n in SIZES))


def server(workers: int = 3, **options: Any) -> Consensus:
    options = {"quorum": workers, "patience": 8} | options
    return Consensus([f"w{i}" for i in range(workers)], SIZES, **options)


def report(name: str, version: int, sentences: Any = None) -> Report:
    return Report(name, version, uniform(SIZES) if sentences is None else sentences)


def moved(one: Distributions, two: Distributions) -> list[float]:
    return [float(np.linalg.norm(a - b)) for a, b in zip(one, two, strict=True)]


# --- when it moves -------------------------------------------------------------------------------------------------


def test_an_update_waits_for_the_quorum() -> None:
    held = server(quorum=2)
    assert [name for name, _ in held.begin()] == ["w0", "w1", "w2"]
    assert held.receive(report("w0", 0)) == [] and held.version == 0
    orders = held.receive(report("w2", 0))
    assert held.version == 1 and [(name, order.version) for name, order in orders] == [("w0", 1), ("w2", 1)]


def test_nobody_falls_behind_by_more_than_the_patience() -> None:
    held = server(2, quorum=1, patience=3)
    held.begin()
    for version in range(3):
        assert held.receive(report("w0", version))
    assert held.receive(report("w0", 3)) == [], "w1 would be four versions behind"
    orders = held.receive(report("w1", 0))
    assert {name for name, _ in orders} == {"w0", "w1"} and held.version == 4


def test_a_worker_that_is_dropped_is_not_waited_for_and_may_come_back() -> None:
    held = server(2, quorum=2)
    held.begin()
    assert held.receive(report("w0", 0)) == []
    assert [name for name, _ in held.drop("w1")] == ["w0"]
    order = held.join("w1")
    assert order.version == 1 and held.members == ["w0", "w1"]
    assert held.receive(report("w1", 1)) == [] and len(held.receive(report("w0", 1))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quorum": 4}, "quorum: 4 is not between 1 and 3, the number of workers"),
        ({"quorum": 0}, "quorum: 0 is not between 1 and 3"),
        ({"patience": 0}, "patience: 0 is below 1"),
        ({"floor": 0.4}, "floor: 0.4 does not leave room for 3 choices"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        server(**options)


# --- what a message may do -----------------------------------------------------------------------------------------

WRONG = [
    (np.array([np.nan, 0.5, 0.5]), np.array([0.5, 0.5])),
    (np.array([np.inf, 0.0, 0.0]), np.array([0.5, 0.5])),
    (np.array([1e9, 0.0, 0.0]), np.array([0.5, 0.5])),
    (np.array([-1.0, 1.0, 1.0]), np.array([0.5, 0.5])),
    (np.array([0.5, 0.5]), np.array([0.5, 0.5])),
    (np.array([[0.2, 0.5, 0.3]]), np.array([0.5, 0.5])),
    (np.array([0.2, 0.5, 0.3]),),
    (["a", "b", "c"], [0.5, 0.5]),
    None,
    7,
    [None, None],
]


@pytest.mark.parametrize("sentences", WRONG, ids=repr)
def test_a_message_that_is_no_distribution_moves_nothing_and_drops_its_worker(sentences: object) -> None:
    held = server()
    held.begin()
    before = held.consensus
    assert held.receive(Report("w0", 0, sentences)) == []  # type: ignore[arg-type]
    assert held.consensus is before and held.members == ["w1", "w2"] and held.refused == {"w0": 1}


@pytest.mark.parametrize("version", [-1, 0, 2, 99])
def test_a_report_on_another_version_is_passed_over(version: int) -> None:
    held = server(1)
    held.begin()
    held.receive(report("w0", 0))
    assert held.receive(report("w0", version)) == [] and held.version == 1 and held.refused == {"w0": 1}


def test_a_report_twice_and_one_of_a_stranger_are_passed_over() -> None:
    held = server()
    held.begin()
    held.receive(report("w0", 0))
    assert held.receive(report("w0", 0)) == held.receive(report("x", 0)) == []
    assert held.refused == {"w0": 1, "x": 1} and held.members == ["w0", "w1", "w2"]


# --- what liars cannot do ------------------------------------------------------------------------------------------

CLIP, STEP = 0.4, 0.3


def after(reports: Sequence[Distributions], planes: Planes | None = None) -> Distributions:
    """The consensus after one update with these reports, others saying what they did before."""
    held = server(len(reports) + 2, quorum=len(reports) + 2, clip=CLIP, step=STEP, penalty=5.0, pull=0.5, planes=planes)
    held.begin()
    honest = (np.array([0.5, 0.3, 0.2]), np.array([0.9, 0.1]))
    for number, one in enumerate([*reports, honest, honest]):
        held.receive(report(f"w{number}", 0, one))
    assert held.version == 1
    return held.consensus


@given(ARRAYS, ARRAYS)
def test_one_worker_moves_the_consensus_by_at_most_clip_times_step(one: Distributions, two: Distributions) -> None:
    """Whatever it says, compared with a worker that says what the consensus is, whose pull is 0."""
    neutral = uniform(SIZES)
    assert max(moved(after([one]), after([neutral]))) <= CLIP * STEP + 1e-9
    assert max(moved(after([one]), after([two]))) <= 2 * CLIP * STEP + 1e-9


@given(st.lists(ARRAYS, min_size=1, max_size=4))
def test_colluding_workers_move_it_by_no_more_than_each_alone(liars: list[Distributions]) -> None:
    together = moved(after(liars), after([uniform(SIZES)] * len(liars)))
    assert max(together) <= len(liars) * CLIP * STEP + 1e-9


def test_a_constant_liar_is_outvoted() -> None:
    """Three honest workers and one that always says the same: the consensus ends with the honest."""
    held = server(4, quorum=4, step=0.05, pull=0.05)
    held.begin()
    honest: Distributions = (np.array([0.98, 0.01, 0.01]), np.array([0.99, 0.01]))
    lie: Distributions = (np.array([0.01, 0.01, 0.98]), np.array([0.01, 0.99]))
    for version in range(60):
        for number in range(4):
            held.receive(report(f"w{number}", version, lie if number == 3 else honest))
    assert [int(z.argmax()) for z in held.consensus] == [0, 0]


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=5), st.floats(0.01, 3))
def test_clipping_keeps_the_direction(values: list[float], most: float) -> None:
    array: Floats = np.array(values)
    found = clipped(array, most)
    assert np.linalg.norm(found) <= most + 1e-9
    assert found @ array == pytest.approx(np.linalg.norm(found) * np.linalg.norm(array), abs=1e-6)


# --- state, planes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_planes", [False, True])
def test_it_goes_on_where_its_state_was_taken(with_planes: bool) -> None:
    def made() -> Consensus:
        return server(2, quorum=1, planes=Planes(every=1, tolerance=0.0) if with_planes else None)

    one, rng = made(), np.random.default_rng(3)
    one.begin()
    said = [tuple(project(rng.random(n)) for n in SIZES) for _ in range(8)]
    for version, sentences in enumerate(said[:4]):
        one.receive(report("w0", version, sentences))
    two = made()
    two.restore(json.loads(json.dumps(one.state())))
    assert [name for name, _ in two.begin()] == ["w0", "w1"]
    for held in (one, two):
        for version, sentences in enumerate(said[4:], 4):
            held.receive(report("w0", version, sentences))
    assert max(moved(one.consensus, two.consensus)) < 1e-12 and one.version == two.version == 8


def test_planes_bring_the_consensus_to_the_estimate() -> None:
    planes, estimate = Planes(every=1, tolerance=0.01), (np.array([0.8, 0.1, 0.1]),)
    planes.moved((np.array([0.2, 0.4, 0.4]),))
    (first,) = planes.moved(estimate)
    for _ in range(200):
        (last,) = planes.moved(estimate)
    assert np.abs(last - estimate[0]).sum() < np.abs(first - estimate[0]).sum() / 3
    assert len(planes) <= planes.most
