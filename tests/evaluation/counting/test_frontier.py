from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.evaluation.counting import metrics
from selfroute.evaluation.counting.frontier import at_budget, oracle_path, path_of_points, path_of_shares

amounts = st.floats(0, 10).map(lambda value: round(value, 2))
# Of a prompt: spent if kept and if sent, quality of the device and of the cloud.
prompts = st.lists(st.tuples(amounts, amounts, st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12)


def columns(rows: list[tuple[float, ...]]) -> list[Any]:
    return [np.array(column, dtype=float) for column in zip(*rows, strict=True)]


def by_walking(corners: list[tuple[float, float]], budget: float) -> float:
    """The farthest place that keeps to a budget, in small steps along the path."""
    found = np.nan
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        for step in range(1001):
            part = step / 1000
            if x0 + part * (x1 - x0) <= budget + 1e-9:
                found = y0 + part * (y1 - y0)
    return found


@given(prompts, st.floats(0, 12))
def test_a_budget_is_spent_as_far_as_it_goes(rows: list[tuple[float, ...]], budget: float) -> None:
    kept, sent, device, cloud = columns(rows)
    spent, accuracy = path_of_shares(kept, sent, device, cloud, np.arange(len(rows)))
    found = float(at_budget((spent, accuracy), np.array(budget)))
    expected = by_walking(list(zip(spent.tolist(), accuracy.tolist(), strict=True)), budget)
    assert found == pytest.approx(expected, abs=2e-3, nan_ok=True)


@given(prompts, st.integers(0, 100))
def test_calls_as_a_resource_are_the_call_share(rows: list[tuple[float, ...]], percent: int) -> None:
    _, _, device, cloud = columns(rows)
    n, order = len(rows), np.arange(len(rows))
    path = path_of_shares(np.zeros(n), np.ones(n), device, cloud, order)
    shares, accuracies = metrics.call_curve(device, cloud, order)
    assert path[0] == pytest.approx(shares) and path[1] == pytest.approx(accuracies)
    found = at_budget(path, np.array(percent / 100))
    assert found == pytest.approx(float(metrics.accuracy_at(shares, accuracies, percent / 100)))


@given(prompts)
def test_a_path_ends_where_everybody_is_kept_or_sent(rows: list[tuple[float, ...]]) -> None:
    kept, sent, device, cloud = columns(rows)
    spent, accuracy = path_of_shares(kept, sent, device, cloud, np.arange(len(rows)))
    assert (spent[0], accuracy[0]) == pytest.approx((kept.mean(), device.mean()))
    assert (spent[-1], accuracy[-1]) == pytest.approx((sent.mean(), cloud.mean()))


@given(st.lists(st.tuples(amounts, st.floats(0, 1)), min_size=1, max_size=5), st.floats(0, 1))
def test_mixing_two_neighbours_attains_what_lies_between(points: list[tuple[float, float]], part: float) -> None:
    x, y = columns(points)
    ends = [(np.array([value]), np.array([right])) for value, right in ((0.0, 0.3), (11.0, 0.9))]
    spent, accuracy = path_of_points(x, y, *ends)
    assert (np.diff(spent) >= 0).all() and len(spent) == len(points) + 2
    for number in range(len(spent) - 1):
        if spent[number + 1] - spent[number] < 1e-6:
            continue
        budget = spent[number] + part * (spent[number + 1] - spent[number])
        mixed = accuracy[number] + part * (accuracy[number + 1] - accuracy[number])
        if 0 < part < 1 - 1e-6:
            assert at_budget((spent, accuracy), budget) == pytest.approx(mixed, abs=1e-6)


def test_every_sample_has_its_own_path_and_budget() -> None:
    spent = np.array([[0.0, 2.0, 4.0], [0.0, 1.0, 4.0]])
    accuracy = np.array([[0.0, 0.5, 1.0], [0.2, 0.4, 1.0]])
    assert at_budget((spent, accuracy), np.array([3.0, 0.5])) == pytest.approx([0.75, 0.3])


def test_nothing_keeps_to_a_budget_below_the_cheapest_setting() -> None:
    path = np.array([2.0, 3.0]), np.array([0.5, 0.8])
    assert np.isnan(at_budget(path, np.array(1.0))) and at_budget(path, np.array(9.0)) == 0.8
    unknown = np.array([np.nan, np.nan]), np.array([0.5, 0.8])
    assert np.isnan(at_budget(unknown, np.array(1.0)))


def test_where_spending_falls_the_farthest_crossing_counts() -> None:
    # Sending the second saves what the first took: all are sent for 1.
    path = np.array([0.0, 2.0, 1.0]), np.array([0.2, 0.4, 0.9])
    assert at_budget(path, np.array(1.0)) == pytest.approx(0.9)
    assert at_budget(path, np.array(0.5)) == pytest.approx(0.25)


@given(prompts, st.floats(0, 12))
def test_no_choice_of_whole_requests_beats_the_oracle(rows: list[tuple[float, ...]], budget: float) -> None:
    rows = rows[:8]
    kept, sent, device, cloud = columns(rows)
    best = at_budget(oracle_path(kept, sent, device, cloud), np.array(budget))
    reached = [
        np.where(chosen, cloud, device).mean()
        for chosen in itertools.product([False, True], repeat=len(rows))
        if np.where(chosen, sent, kept).mean() <= budget
    ]
    assert not reached or max(reached) <= best + 1e-9
    assert bool(reached) or np.isnan(best)


@given(prompts)
def test_the_oracle_reaches_the_better_of_both_everywhere(rows: list[tuple[float, ...]]) -> None:
    kept, sent, device, cloud = columns(rows)
    spent, accuracy = oracle_path(kept, sent, device, cloud)
    assert accuracy[-1] == pytest.approx(np.maximum(device, cloud).mean())
    assert spent[0] == pytest.approx(np.minimum(kept, sent).mean())
    steps = np.diff(accuracy)[1:] * np.diff(spent)[:-1] - np.diff(accuracy)[:-1] * np.diff(spent)[1:]
    assert (steps <= 1e-9).all()  # concave


@given(prompts, st.floats(0, 1))
def test_on_calls_it_is_the_oracle_of_shares_as_long_as_sending_helps(
    rows: list[tuple[float, ...]], share: float
) -> None:
    _, _, device, cloud = columns(rows)
    n, wins = len(rows), float((cloud > device).mean())
    found = at_budget(oracle_path(np.zeros(n), np.ones(n), device, cloud), np.array(min(share, wins)))
    assert found == pytest.approx(float(metrics.oracle_accuracy(device, cloud, min(share, wins))))
