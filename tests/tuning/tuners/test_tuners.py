"""Tuners over one black box: each learns what a table says, and goes on where it was."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence

import numpy as np
import pytest

from selfroute.config import TUNERS, at
from selfroute.tuning.base import Choices, Tuner
from selfroute.tuning.tuners.search import BestOf

SIZES = (4, 3, 2)
WORTH = [np.array([0.0, 1.0, 0.2, 0.1]), np.array([0.3, 0.0, 1.0]), np.array([0.0, 1.0])]
BEST = (1, 2, 1)
NAMES = [name for name, entry in TUNERS.items() if entry.kind == "alone"]


def reward(choices: Choices, rng: np.random.Generator) -> float:
    return float(sum(values[k] for values, k in zip(WORTH, choices, strict=True)) + rng.normal(0, 0.2))


def made(name: str, seed: int = 0) -> Tuner:
    entry = TUNERS[name]
    if entry.extra == "optuna" and importlib.util.find_spec("optuna") is None:
        pytest.skip("needs pip install optuna")
    tuner: Tuner = at(entry.place)(SIZES, seed=seed)
    return tuner


def play(tuner: Tuner, rounds: int, rng: np.random.Generator, count: int = 8) -> Sequence[Choices]:
    asked = []
    for _ in range(rounds):
        choices = tuner.ask(count)
        tuner.tell(choices, [reward(one, rng) for one in choices])
        asked += choices
    return asked


@pytest.mark.parametrize("name", NAMES)
def test_it_learns(name: str) -> None:
    tuner = made(name)
    asked = play(tuner, 40, np.random.default_rng(1))
    assert all(len(one) == 3 and all(0 <= k < n for k, n in zip(one, SIZES, strict=True)) for one in asked)
    found = sum(values[k] for values, k in zip(WORTH, tuner.best(), strict=True))
    assert found >= 2.0, f"{tuner.best()} is worth {found}, of 3 at most, and 1.3 at random"


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_where_its_state_was_taken(name: str) -> None:
    one, two = made(name), made(name)
    play(one, 5, np.random.default_rng(1))
    two.restore(json.loads(json.dumps(one.state())))
    assert two.best() == one.best()
    if name != "tpe":  # Optuna's sampler holds a state that cannot be kept; see its docstring
        assert play(two, 2, np.random.default_rng(2)) == play(one, 2, np.random.default_rng(2))


@pytest.mark.parametrize("name", NAMES)
def test_what_could_not_be_graded_is_passed_over(name: str) -> None:
    tuner = made(name)
    choices = tuner.ask(4)
    tuner.tell(choices, [None, None, None, None])
    assert len(tuner.best()) == 3


def test_a_line_finds_the_best_of_each_slot() -> None:
    tuner = made("ridge")
    play(tuner, 20, np.random.default_rng(3))
    assert tuner.best() == BEST


def test_best_of_asks_for_its_candidates_in_turn() -> None:
    tuner = BestOf(SIZES, candidates=3)
    assert tuner.ask(7) == [*tuner.candidates * 2, tuner.candidates[0]]
    tuner.tell(tuner.candidates, [0.1, 0.9, 0.5])
    assert tuner.best() == tuner.candidates[1]
