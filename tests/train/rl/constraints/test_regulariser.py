"""The regulariser in a real trainer: where it looks, what it teaches, and that a stopped run goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train import tiny
from tests.train.seams import brief

from selfroute.backends.torch.critic import Critic
from selfroute.errors import ConfigError
from selfroute.grading import Outcome
from selfroute.rewards.attributes import Fixed, Penalised
from selfroute.rewards.hierarchical import hierarchical
from selfroute.scores.oracles import Judged, Words
from selfroute.tasks.base import Row
from selfroute.train.rl.constraints import regulariser
from selfroute.train.rl.constraints.attributes import Attribute, penalised, regularisers
from selfroute.train.rl.constraints.critic import CriticFit
from selfroute.train.rl.constraints.dual import Multiplier
from selfroute.train.rl.objectives.group import Group
from selfroute.train.rl.policy_config import PolicyConfig
from selfroute.train.rl.policy_trainer import PolicyTrainer
from selfroute.train.rl.view import TokenView

ROW = Row(id="r", question="", gold="")
RUDE = Judged(Words(["w3", "w5"]), "answer")


def grade(row_ids: Sequence[str], texts: Sequence[str]) -> list[Outcome]:
    """Nothing is ever solved, so that the regulariser alone teaches; and what each text violates."""
    rates = [RUDE(text, ROW) for text in texts]
    return [
        Outcome(wants_cloud=False, device_correct=False, violations={} if rate is None else {"rude": rate})
        for rate in rates
    ]


def trainer(folder: Path, attribute: Attribute, *, steps: int = 1, reward: Any = None, **options: Any) -> PolicyTrainer:
    model = tiny.policy()
    given: dict[str, Any] = {"optim": "adamw_torch", "learning_rate": 1e-2, "max_steps": steps, **options}
    args = tiny.arguments(folder, PolicyConfig, tiny.PROMPTS, 6, None, **given)
    return PolicyTrainer(
        model,
        grade,
        args,
        tiny.data(tiny.PROMPTS),
        tiny.tokenizer(),
        reward=reward or hierarchical,
        objective=Group(),
        constraints=regularisers({"rude": attribute}, model, tiny.tokenizer()),
    )


def rates(made: PolicyTrainer) -> list[float]:
    return [entry["constraint/rude"] for entry in made.state.log_history if "constraint/rude" in entry]


def violation(made: PolicyTrainer) -> float:
    """Share of fresh texts that violate the rule."""
    texts, _ = made.attempt([[{"role": "user", "content": prompt}] for prompt in tiny.PROMPTS * 40])
    found = [RUDE(text, ROW) for text in texts]
    said = [rate for rate in found if rate is not None]
    return sum(said) / len(said)


@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
def test_a_policy_learns_to_keep_to_an_attribute(tmp_path: Path, parallel: bool) -> None:
    attribute = Attribute(judged=RUDE, weight=1.0, parallel=parallel, learning_rate=1e-2, width=16)
    made = trainer(tmp_path, attribute, steps=60)
    before = violation(made)
    made.train()
    assert before > 0.2
    assert violation(made) < before / 4


def terms(made: PolicyTrainer, at_once: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[torch.Tensor]:
    """The constraint's terms over some given texts, and the gradient of their sum."""
    monkeypatch.setattr(regulariser, "_AT_ONCE", at_once)
    torch.manual_seed(0)
    hidden = torch.randn(3, 5, 16, requires_grad=True)
    critic = Critic(16, len(tiny.WORDS), width=4)
    critic.up.weight.data.normal_()
    pulled = regulariser.Regulariser("r", CriticFit(critic), tiny.tokenizer(), "answer", weight=1.0, **options)
    span = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0]], dtype=torch.bool)
    view = TokenView(
        torch.randint(4, 20, (3, 5)), torch.ones_like(span), torch.zeros(3, 5), None, None, hidden,
        head=made.model.get_output_embeddings(), facts={"span": span, "kept": torch.tensor([1.0, 1.0, 0.0])},
    )  # fmt: skip
    found = pulled.loss(view)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    return [found.detach(), hidden.grad]


@pytest.mark.parametrize("options", [{}, {"adaptive": True}, {"allowed": 1e-4}, {"parallel": True}], ids=str)
def test_in_parts_the_terms_and_their_gradient_are_the_same(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(tmp_path, Attribute(judged=RUDE, weight=1.0, width=16))
    whole, parts = (terms(made, at_once, monkeypatch, **options) for at_once in (1 << 22, 3 * len(tiny.WORDS)))
    assert whole[0][0] > 1e-5 and whole[0][1] == 0, "not what rounding leaves of nothing"
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_target_moves_the_weight(tmp_path: Path) -> None:
    attribute = Attribute(judged=RUDE, weight=0.5, target=0.01, width=16)
    made = trainer(tmp_path, attribute, steps=3)
    made.train()
    weights = [entry["constraint/rude/multiplier"] for entry in made.state.log_history if "constraint/rude" in entry]
    assert weights[0] == 0 < weights[1] < weights[2]


@pytest.mark.parametrize("unit", [0.3, 1.0, 2.0])
def test_a_price_that_starts_from_nothing_ends_near_its_target(unit: float) -> None:
    """A policy whose log-odds of a violation move by the price alone."""
    price, logit = Attribute(judged=RUDE, penalty=unit, target=0.1).dual(unit), 0.0
    assert price is not None
    for _ in range(400):
        price.update([1 / (1 + math.exp(-logit))] * 64)
        logit -= 0.2 * price.price
    assert 0.05 < 1 / (1 + math.exp(-logit)) < 0.1
    assert price.price == pytest.approx(0.0, abs=0.05)


def test_with_a_target_it_is_pulled_to_no_less_than_that() -> None:
    assert Attribute(judged=RUDE, weight=1.0, target=0.1).aim == 0.1
    assert Attribute(judged=RUDE, weight=1.0, target=0.1, allowed=0.3).aim == 0.3
    assert Attribute(judged=RUDE, weight=1.0).aim == 0


@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, parallel: bool) -> None:
    attribute = Attribute(judged=RUDE, weight=1.0, target=0.1, parallel=parallel, width=16)
    options = {"save_strategy": "steps", "save_steps": 2}
    whole = trainer(tmp_path / "whole", attribute, steps=4, **options)
    whole.train()
    resumed = trainer(tmp_path / "whole", attribute, steps=4, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    kept = [made.constraints["rude"].state() for made in (whole, resumed)]
    assert kept[0]["dual"] == kept[1]["dual"]


def test_a_reward_less_a_price_that_moves_is_learned_too(tmp_path: Path) -> None:
    attribute = Attribute(judged=RUDE, penalty=1.0, target=0.05)
    made = trainer(tmp_path, attribute, steps=40, reward=penalised(lambda outcome: 0.0, {"rude": attribute}))
    before = violation(made)
    made.train()
    assert violation(made) < before / 2
    prices = [entry["violation/rude/price"] for entry in made.state.log_history if "violation/rude/price" in entry]
    assert prices[0] == 0 and max(prices) > 0.5


def test_what_is_violated_is_taken_off_and_what_was_not_graded_stays_out() -> None:
    reward = Penalised(brief, {"rude": Fixed(0.4), "leaks": Fixed(2.0)})
    outcome = Outcome(wants_cloud=False, device_correct=1.0, violations={"rude": 0.5})
    assert reward(outcome) == pytest.approx(1.0 - 0.2)
    assert Penalised(lambda outcome: None, {"rude": Fixed(1.0)})(outcome) is None
    dual = Multiplier(0.1, rate=1.0, damping=0.0, lowest=0.0, highest=5.0)
    moving = Penalised(brief, {"rude": dual})
    assert moving.move([[outcome] * 4]) == {"violation/rude/price": 0.0}
    assert dual.price > 0
    other = Penalised(brief, {"rude": Multiplier(0.1, rate=1.0, damping=0.0, lowest=0.0, highest=5.0)})
    other.restore(moving.state())
    assert other.prices["rude"].price == dual.price


def test_a_critic_is_kept_and_gone_on_with_and_one_for_other_words_is_refused(tmp_path: Path) -> None:
    made = trainer(tmp_path, Attribute(judged=RUDE, weight=1.0, width=16))
    made.train()
    file = tmp_path / "critics" / "rude.safetensors"
    made.constraints["rude"].save(file, tiny.tokenizer())
    again, facts = Critic.load(file)
    assert facts["channel"] == "answer"
    for one, other in zip(made.constraints["rude"].fit.critic.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    regularisers({"rude": Attribute(judged=RUDE, weight=1.0, critic=file)}, tiny.policy(), tiny.tokenizer())
    Critic(16, 9).save(file, {"channel": "answer"})
    with pytest.raises(ConfigError, match=r"critic: it was made for 9 tokens .* the model has 24"):
        regularisers({"rude": Attribute(judged=RUDE, weight=1.0, critic=file)}, tiny.policy(), tiny.tokenizer())
    with pytest.raises(ConfigError, match=r"critic: cannot read .*gone"):
        Critic.load(tmp_path / "gone.safetensors")


def test_a_target_that_moves_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"target=0\.1 moves nothing"):
        Attribute(judged=RUDE, target=0.1)
    with pytest.raises(ConfigError, match=r"channel: there is no 'mesage'"):
        Judged(Words(["a"]), "mesage")  # type: ignore[arg-type]
