"""Objectives as a recipe names them: what is refused before any work, and runs from end to end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.small_run import run, small_model

from selfroute.backends.function import FunctionBackend
from selfroute.config import OBJECTIVES, Spec, make_objective
from selfroute.errors import ConfigError
from selfroute.train.rl.behaviour import Behaviour
from selfroute.train.rl.objectives.base import Learning
from selfroute.train.rl.objectives.group import Group
from selfroute.train.rl.objectives.kinds import OBJECTIVES as KINDS
from selfroute.train.rl.options import GAPGOptions, MStepOptions
from selfroute.train.rl.reference import Reference, has_adapter, read_tokens
from selfroute.types import Message, Sampling

BALANCE = GAPGOptions(algorithm="balance")
OPTIONS: dict[str, dict[str, Any]] = {"subtb": {"prefix_reward": "reference"}}
NAMED = [name for name, kind in KINDS.items() if kind.sums]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_model(tmp_path_factory.mktemp("model"))


def test_the_table_of_recipes_is_that_of_the_trainer() -> None:
    assert list(OBJECTIVES) == list(KINDS) == ["group", "trl", "vargrad_tb", "tb", "flowrl", "subtb", "tree"]


@pytest.mark.parametrize("name", NAMED)
def test_a_named_objective_trains_a_model(tmp_path: Path, model: str, name: str) -> None:
    objective = make_objective(Spec(name, options=OPTIONS.get(name, {})), BALANCE)
    run(model, tmp_path, algorithm="balance", objective=objective, steps=2)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) >= 2
    assert lines[0]["grad_norm"] > 0
    if isinstance(objective, Learning):
        assert any(key.startswith("objective/") for key in lines[0])


def test_behaviour_and_m_step_of_a_recipe_reach_the_trainer(tmp_path: Path, model: str) -> None:
    given = {"behaviour": Behaviour(tempered=1.0, replayed=0.25), "m_step": MStepOptions()}
    run(model, tmp_path, algorithm="balance", steps=2, **given)
    line = json.loads((tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[1])
    assert {"behaviour/temperature", "replay/kept", "m_step/loss"} <= set(line)


def test_the_group_of_a_recipe_has_the_methods_forced_attempts() -> None:
    method = GAPGOptions(forced_attempts=2, forced_weight=0.5)
    assert make_objective(Spec("group"), method) == Group(forced=2, weight=0.5)
    assert method.objective_kind.make(method) == Group(forced=2, weight=0.5)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (Spec("tbb"), {}, "unknown objective 'tbb'"),
        (Spec("tb", options={"beta": 1}), {}, r"objective\.tb: unknown key 'beta'"),
        (Spec("vargrad_tb", options={"temperature": 0}), {}, "temperature: 0 is not above 0"),
        (Spec("vargrad_tb", options={"length": "median"}), {}, "length"),
        (Spec("tb", value="0.5"), {}, "'0.5' has no option name"),
        (Spec("subtb"), {}, "prefix_reward: subtb needs the reward of every beginning"),
        (Spec("vargrad_tb"), {"algorithm": "grpo"}, "algorithm 'grpo' has the loss of another objective"),
        (Spec("vargrad_tb"), {"forced_attempts": 2}, "forced_attempts needs the group estimator"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(spec: Spec, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_objective(spec, GAPGOptions(**{"algorithm": "balance", **options}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 1}, "group_size: 1 is not at least 2"),
        ({"temperature": 0.7}, "temperature: 0.7 is that of the loss too"),
        ({"m_step": MStepOptions(), "lora": {"rank": 2}}, "m_step: with lora the reference is the model without"),
        ({"behaviour": Behaviour(tempered=0.5), "algorithm": "gapg"}, "behaviour.tempered: objective Group learns"),
        ({"trl": {"beta": 0.1}}, "beta must be 0"),
    ],
)
def test_a_run_that_cannot_be_asks_nobody(tmp_path: Path, model: str, options: dict[str, Any], message: str) -> None:
    asked: list[str] = []

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        asked.append(messages[-1].content)
        return "even"

    with pytest.raises(ConfigError, match=message):
        run(model, tmp_path, **{"algorithm": "balance", "cloud": FunctionBackend("cloud", answer), **options})
    assert not asked and not (tmp_path / "metrics.jsonl").exists()


def test_prices_are_not_moved_by_attempts_from_elsewhere() -> None:
    with pytest.raises(ConfigError, match="with share_prompts=0 the price would be moved by attempts"):
        GAPGOptions(algorithm="balance", handoff_reward="dual", share_prompts=0, behaviour=Behaviour(tempered=0.5))


def test_the_reference_of_an_adapter_is_the_model_without_it() -> None:
    peft = pytest.importorskip("peft")
    from tests.train.tiny import policy

    plain = policy()
    adapted = peft.get_peft_model(policy(), peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    assert has_adapter(adapted) and not has_adapter(plain)
    ids = torch.randint(5, 20, (3, 7), generator=torch.manual_seed(0))
    mask = torch.ones_like(ids)
    reference = Reference(adapted, adapter=True)
    assert reference.copy is None
    with reference.opened(adapted) as model:
        said, stops = read_tokens(model, ids, mask, 4, [0])
    expected = read_tokens(plain, ids, mask, 4, [0])
    assert torch.allclose(said, expected[0], atol=1e-6) and torch.allclose(stops, expected[1], atol=1e-6)
    moved, _ = read_tokens(adapted, ids, mask, 4, [0])
    assert not torch.allclose(moved, said, atol=1e-3)
    assert stops.exp().max() < 1.0
