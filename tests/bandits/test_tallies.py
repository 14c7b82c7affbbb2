"""Counts with forgetting are those of the plain formula."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.bandits.tallies import Tallies

OBSERVED = st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 1), st.floats(0.1, 2)), max_size=40)


@given(observed=OBSERVED, discount=st.floats(0.5, 1.0))
def test_a_discount_is_a_power_of_the_age(observed: list[tuple[str, float, float]], discount: float) -> None:
    tallies = Tallies("ab", discount=discount)
    for one in observed:
        tallies.add(*one)
    aged = [(a, v, w * discount ** (len(observed) - 1 - i)) for i, (a, v, w) in enumerate(observed)]
    for arm in "ab":
        assert tallies.count(arm) == pytest.approx(sum(w for a, _, w in aged if a == arm))
        assert tallies.sum(arm) == pytest.approx(sum(w * v for a, v, w in aged if a == arm))
    assert tallies.total() == pytest.approx(sum(w for _, _, w in aged))


@given(observed=OBSERVED, window=st.integers(1, 10))
def test_a_window_is_the_last_observations(observed: list[tuple[str, float, float]], window: int) -> None:
    tallies = Tallies("ab", window=window)
    for one in observed:
        tallies.add(*one)
    for arm in "ab":
        left = [(v, w) for a, v, w in observed[-window:] if a == arm]
        assert tallies.count(arm) == pytest.approx(sum(w for _, w in left), abs=1e-9)
        assert (tallies.mean(arm) is None) == (not left)


def test_a_long_run_neither_overflows_nor_forgets_to_forget() -> None:
    tallies = Tallies("ab", discount=0.9)
    for _ in range(20_000):
        tallies.add("a", 0.5)
    assert tallies.count("a") == pytest.approx(10.0)
    assert tallies.mean("a") == pytest.approx(0.5)
    assert tallies.count("b") == 0.0
