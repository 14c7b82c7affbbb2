"""The weights of a group, on arrays; tests/train/rl/objectives/test_group.py has them on tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfroute.rewards.group import group_weights

REWARDS = st.lists(st.floats(-5, 5) | st.just(float("nan")), min_size=2, max_size=9)


@given(REWARDS)
def test_arrays_and_tensors_have_the_same_weights(rewards: list[float]) -> None:
    array = group_weights(np.array([rewards]), np)
    tensor = group_weights(torch.tensor([rewards], dtype=torch.float64), torch)
    assert array == pytest.approx(tensor.numpy(), abs=1e-12)


@given(REWARDS)
def test_weights_are_rewards_less_the_mean_of_the_others(rewards: list[float]) -> None:
    (weights,) = group_weights(np.array([rewards]), np)
    graded = [reward for reward in rewards if reward == reward]
    assert weights.sum() == pytest.approx(0.0, abs=1e-9)
    for reward, weight in zip(rewards, weights, strict=True):
        if reward != reward or len(graded) < 2:
            assert weight == 0.0
        else:
            others = (sum(graded) - reward) / (len(graded) - 1)
            assert weight == pytest.approx((reward - others) / len(graded), abs=1e-9)
