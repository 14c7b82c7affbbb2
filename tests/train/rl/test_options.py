"""The options of a run: what cannot be, what an algorithm stands for, and the names of version 0.1."""

from __future__ import annotations

from typing import Any

import pytest

from selfroute.errors import ConfigError
from selfroute.rewards.hierarchical import Hierarchical
from selfroute.train.rl.objectives.kinds import OBJECTIVES
from selfroute.train.rl.options import ALGORITHMS, OLD_NAMES, GAPGOptions, LoopOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, r"share: 0 is not between 0 and 1, both excluded; 0\.3 lets 30 %"),
        ({"share": 30}, "share: 30 is not"),
        ({"algorithm": "rloo"}, "algorithm: 'rloo' is not one of gapg, dr_grpo, grpo, task_tuning"),
        ({"handoff_reward": "lagrange"}, "handoff_reward: 'lagrange' is not one of fixed, dual"),
        ({"share_prompts": -1}, "share_prompts: -1 is not at least 0"),
        ({"told_shares": (0.1, 1.5)}, r"told_shares\[1\]: 1.5 is not between 0 and 1"),
        ({"told_shares": (0.1, 0.1)}, "names a share twice"),
        ({"algorithm": "grpo", "forced_attempts": 2}, "forced_attempts needs the group estimator, not grpo's"),
        (
            {"algorithm": "grpo_filter", "prompt_filter": False},
            "prompt_filter contradicts algorithm=grpo_filter",
        ),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GAPGOptions(**options)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"local": 0.2}, "local > cloud > format"),
        ({"format": 0.3}, "local > cloud > format"),
        ({"token_price": -1.0}, "token_price: -1 is not at least 0"),
    ],
)
def test_rewards_that_cannot_be(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Hierarchical(**weights)


def test_a_loop_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="rows_per_pass: 0 is not at least 1"):
        LoopOptions(rows_per_pass=0)


def test_every_name_stands_for_a_method() -> None:
    for name in (*ALGORITHMS, *OLD_NAMES):
        assert GAPGOptions(algorithm=name).objective_kind in OBJECTIVES.values()


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_an_old_name_is_the_algorithm_with_its_filter(old: Any, new: tuple[Any, bool]) -> None:
    algorithm, filtered = new
    assert GAPGOptions(algorithm=old).method == GAPGOptions(algorithm=algorithm, prompt_filter=filtered).method
    assert GAPGOptions(algorithm=old, prompt_filter=filtered).method.prompt_filter is filtered


def test_the_filter_is_the_algorithms_unless_it_is_set() -> None:
    assert GAPGOptions().method.prompt_filter
    assert not GAPGOptions(prompt_filter=False).method.prompt_filter
    assert not GAPGOptions(algorithm="grpo").method.prompt_filter
