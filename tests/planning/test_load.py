"""Loads: visits per token, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tests.planning.worlds import counted

from selfroute.errors import ConfigError
from selfroute.planning.load import generated_load, needed
from selfroute.planning.shapes import Mixture

MIXTURE = Mixture(layers=2, experts=4, top_k=3)


def test_every_layer_sums_to_the_experts_of_a_token() -> None:
    load = counted([[[1, 2, 3, 4], [0, 0, 5, 5]], [[0, 0, 0, 10], [1, 1, 1, 1]]])
    assert load.per_token(MIXTURE).sum(axis=(0, 2)).tolist() == pytest.approx([3, 3])


def test_sources_without_a_taste_are_alike() -> None:
    load = generated_load(MIXTURE, sources=3, own=0.0)
    assert (load.visits == load.visits[0]).all()
    assert not (generated_load(MIXTURE, sources=3, own=0.5).visits == load.visits[0]).all()


def test_the_seed_decides() -> None:
    assert (generated_load(MIXTURE, seed=3).visits == generated_load(MIXTURE, seed=3).visits).all()
    assert (generated_load(MIXTURE, seed=3).visits != generated_load(MIXTURE, seed=4).visits).any()


@pytest.mark.parametrize(
    ("visits", "told"),
    [
        (np.ones((1, 3, 4)), "has 3 layers × 4 experts, the model 2 × 4; mend model.layers"),
        ([[[1, 1, 1, -1], [1, 1, 1, 1]]], "counts -1.0 visits of expert 3 in layer 0"),
        ([[[1, 1, 1, 1], [math.nan, 1, 1, 1]]], "counts nan visits of expert 0 in layer 1"),
        ([[[1, 1, 1, 1], [0, 0, 0, 0]]], "no visits in mixture layer 1; is it a dense layer"),
    ],
)
def test_a_load_that_cannot_be_is_refused(visits: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        counted(visits).per_token(MIXTURE)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sources": 0}, "sources: 0 must be at least 1"),
        ({"concentration": 0.0}, "concentration: 0 must be above 0"),
        ({"own": 1.5}, "own: 1.5 is a share"),
    ],
)
def test_a_load_that_cannot_be_drawn_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        generated_load(MIXTURE, **options)


def test_a_load_without_a_model_asks_for_it() -> None:
    with pytest.raises(ConfigError, match="model: is missing"):
        needed(None)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"layers": 0, "experts": 4}, "model.layers: 0 must be above 0"),
        ({"layers": 1, "experts": 4, "top_k": 5}, "model.top_k: 5 experts of a token are more than the 4"),
        ({"layers": 1, "experts": 4, "top_k": 1, "groups": 3}, "model.groups: 3 do not divide 4"),
        ({"layers": 1, "experts": 4, "top_k": 1, "dense": (2,)}, r"model.dense: \[2\] must be .* from 0 to 1"),
    ],
)
def test_a_model_that_cannot_be_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Mixture(**options)


def test_dense_layers_count_as_hidden_and_not_as_mixture() -> None:
    mixture = Mixture(layers=2, experts=4, top_k=1, dense=(0, 2))
    assert mixture.hidden_layers == 4
    assert mixture.mixture_rows == [1, 3]
