"""Two tiny mixture models, trained on two domains: a plan is for the traffic that it was made for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.planning import tiny
from tests.planning.worlds import equal_slots, line
from transformers import PreTrainedModel

from selfroute.planning.load import Load
from selfroute.planning.moves import moved, replan
from selfroute.planning.problem import Problem, homes_problem, objective
from selfroute.planning.routers import count_choices, mixture_of
from selfroute.planning.solvers import solve

RANKS = 4


def counts(model: PreTrainedModel, ids: torch.Tensor) -> NDArray[np.float64]:
    return count_choices(model, input_ids=ids, attention_mask=torch.ones_like(ids))


@pytest.fixture(scope="module", params=[tiny.mixtral, tiny.deepseek], ids=["mixtral", "deepseek"])
def world(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, Problem, Problem]:
    """A model, and its placement problem under the traffic of each domain, on prompts that it was not trained on."""
    model = tiny.train(request.param(), [tiny.domain(0, 32, seed=1), tiny.domain(1, 32, seed=2)])
    mixture = mixture_of(model)
    loads = [Load(counts(model, tiny.domain(part, 64, seed=3))[None], f"domain {part}") for part in (0, 1)]
    slots = equal_slots(mixture, RANKS)
    first, second = (homes_problem(load, mixture, line(RANKS), slots, homes=[0] * mixture.layers) for load in loads)
    return model, first, second


def test_the_domains_use_other_experts(world: tuple[PreTrainedModel, Problem, Problem]) -> None:
    _, first, second = world
    apart = np.abs(first.load - second.load).sum(axis=1) / first.load.sum(axis=1)
    assert apart.mean() > 0.3


def test_a_plan_for_one_loses_on_the_other_and_a_new_plan_recovers_it(
    world: tuple[PreTrainedModel, Problem, Problem],
) -> None:
    _, first, second = world
    plan = solve("assignment", first)
    lost = objective(second, plan.assign) / solve("assignment", second).objective - 1
    assert lost > 0.05
    again = replan("assignment", second, plan.assign)
    assert again.objective == pytest.approx(solve("assignment", second).objective)
    assert again.cpu_s <= 1.0
    assert 0 < moved(again.assign, plan.assign) < first.layers * first.experts


def test_counts_are_the_same_again(world: tuple[PreTrainedModel, Problem, Problem]) -> None:
    model, ids = world[0], tiny.domain(0, 8, seed=4)
    again: Any = counts(model, ids) == counts(model, ids)
    assert again.all()
