"""Against enumeration: each balance finds the posterior over 1,555 texts, where the maximum keeps one of them."""

from __future__ import annotations

import pytest
import torch
from tests.train.rl.objectives.strings import (
    BEGINNINGS,
    LENGTHS,
    LONGEST,
    NODES,
    RIGHT,
    STEPS,
    STOP,
    SYMBOLS,
    Batch,
    Loss,
    by_pairs,
    by_weights,
    divergence,
    entropy,
    log_ends,
    log_table,
    of_ways,
    posterior,
    prior,
    train,
)
from torch import Tensor

from selfroute.train.rl.objectives.balance import TB, VarGradTB
from selfroute.train.rl.objectives.subtb import pair_loss

REFERENCE = prior()
LIKELIHOOD = torch.where(RIGHT, 0.9, 0.01).double().log()
POSTERIOR = posterior(REFERENCE, LIKELIHOOD, temperature=1.0)
LOG_REWARDS = log_ends(log_table(REFERENCE)) + LIKELIHOOD


def by_grpo() -> Loss:
    """Correctness, normalised by its group's deviation."""

    def loss(batch: Batch, step: int) -> Tensor:
        paid = RIGHT[batch.drawn].double()
        scaled = (paid - paid.mean()) / (paid.std() + 1e-4)
        return -(scaled * batch.said[batch.drawn]).mean()

    return loss


LOSSES: dict[str, Loss] = {
    "vargrad_tb": by_weights(VarGradTB(temperature=1.0), REFERENCE, LIKELIHOOD),
    "tb": by_weights(TB(temperature=1.0), REFERENCE, LIKELIHOOD),
    "subtb": by_pairs(LOG_REWARDS),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_balance_finds_the_posterior(name: str) -> None:
    assert divergence(REFERENCE, POSTERIOR) > 1.9
    found = train(REFERENCE, LOSSES[name], steps=400, size=256, hottest=2.0)
    assert divergence(found, POSTERIOR) < 0.02
    assert entropy(found) > 4.5


def test_the_maximum_keeps_one_text() -> None:
    found = train(REFERENCE, by_grpo(), steps=400, size=256)
    assert entropy(found) < 0.1
    assert divergence(found, POSTERIOR) > 1.5


def exact_table() -> Tensor:
    """Logits of the policy that is the posterior: at each beginning, how much of it lies behind each step."""
    mass = POSTERIOR.exp()
    behind = mass.clone()
    logits = torch.full((BEGINNINGS, SYMBOLS + 1), -torch.inf, dtype=torch.float64)
    for length in range(LONGEST, 0, -1):
        for node in (length == LENGTHS).nonzero()[:, 0].tolist():
            before, step = int(NODES[node, length - 1]), int(STEPS[node, length - 1])
            logits[before, step] = behind[node].log()
            behind[before] += behind[node]
    logits[:, STOP] = mass.log()
    return log_table(logits)


def test_at_the_posterior_every_pair_balances() -> None:
    table, texts = exact_table(), torch.arange(BEGINNINGS)
    assert torch.allclose(log_ends(table), POSTERIOR, atol=1e-12)
    values, valid = of_ways(table, LOG_REWARDS, texts)
    apart = torch.where(valid[:, :, None] & valid[:, None, :], values[:, :, None] - values[:, None, :], 0.0)
    assert float(apart.abs().max()) <= 1e-10
    assert float(pair_loss(values, valid).max()) <= 1e-20


@pytest.mark.parametrize("price", [0.1, 0.25, 0.4, 0.55, 0.7])
def test_the_policy_asks_as_often_as_the_target_does(price: float) -> None:
    """The hand-off is one of the ends, worth a right answer less the price of a call."""
    reference = prior(ask=0.1)
    worth = torch.cat([torch.where(RIGHT, 0.9, 0.0).double(), torch.full((BEGINNINGS,), 0.9 - price).double()])
    exact = float(posterior(reference, worth, temperature=0.25).exp()[BEGINNINGS:].sum())
    loss = by_weights(VarGradTB(temperature=0.25), reference, worth)
    found = train(reference, loss, steps=400, size=256, hottest=2.0)
    asked = float(log_ends(log_table(found)).exp()[BEGINNINGS:].sum())
    assert abs(asked - exact) <= 0.01
    assert 0.1 < exact < 0.7
