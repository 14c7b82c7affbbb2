"""A world that can be enumerated: texts of up to four of six symbols, each of which may end at any place.

The prior is skewed, few texts are right, and where it is offered every beginning may also ask for help. A policy is a
table of logits, one row for each of the 1,555 beginnings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selfroute.train.rl.objectives.base import Scored
from selfroute.train.rl.objectives.subtb import balances, pair_loss

SYMBOLS, LONGEST = 6, 4
SIZES = [SYMBOLS**length for length in range(LONGEST + 1)]
STARTS = [sum(SIZES[:length]) for length in range(LONGEST + 2)]
BEGINNINGS = STARTS[-1]
STOP, ASK = SYMBOLS, SYMBOLS + 1


def ancestors() -> tuple[Tensor, Tensor]:
    """Of each beginning the ones on its way, itself last, and the symbols taken there; -1 behind. (1555, 5) each."""
    nodes = torch.full((BEGINNINGS, LONGEST + 1), -1)
    steps = torch.full((BEGINNINGS, LONGEST + 1), -1)
    for length in range(LONGEST + 1):
        for value in range(SIZES[length]):
            own, digits = STARTS[length] + value, value
            nodes[own, length] = own
            for level in range(length - 1, -1, -1):
                steps[own, level] = digits % SYMBOLS
                digits //= SYMBOLS
                nodes[own, level] = STARTS[level] + digits
    return nodes, steps


NODES, STEPS = ancestors()
LENGTHS = (NODES >= 0).sum(1) - 1
RIGHT = torch.where(STEPS >= 0, STEPS, 0).sum(1) % 5 == 2


def log_table(logits: Tensor) -> Tensor:
    """Log-probability of each step from each beginning; the longest can only end."""
    full = (LENGTHS == LONGEST)[:, None] & (torch.arange(logits.shape[1]) < SYMBOLS)
    return logits.masked_fill(full, float("-inf")).log_softmax(-1)


def log_ends(table: Tensor) -> Tensor:
    """Log-probability of every end: the texts, and with an offer behind them the beginnings that ask."""
    flat = table[NODES.clamp(min=0), STEPS.clamp(min=0)]
    reached = torch.where(STEPS >= 0, flat, 0.0).sum(1)
    return torch.cat([reached + table[:, end] for end in range(STOP, table.shape[1])])


def prior(*, ask: float = 0.0) -> Tensor:
    """Logits of the reference: some symbols are likelier, and a fifth of the texts end at each place."""
    symbols = torch.tensor([0.30, 0.22, 0.18, 0.14, 0.10, 0.06], dtype=torch.float64) * (0.8 - ask)
    ends = [0.2, ask] if ask else [0.2]
    return torch.cat([symbols, torch.tensor(ends, dtype=torch.float64)]).log().repeat(BEGINNINGS, 1)


def posterior(reference: Tensor, utility: Tensor, *, temperature: float) -> Tensor:
    """Log-probability of every end in proportion to p_ref · exp(u / τ)."""
    return (log_ends(log_table(reference)) + utility / temperature).log_softmax(0)


def divergence(logits: Tensor, target: Tensor) -> float:
    """KL(q ‖ target)."""
    said = log_ends(log_table(logits))
    return float((said.exp() * (said - target)).sum())


def entropy(logits: Tensor) -> float:
    said = log_ends(log_table(logits))
    return float(-(said.exp() * said).sum())


@dataclass(frozen=True)
class Batch:
    """Ends that were drawn at some temperature, and the policy's own table."""

    drawn: Tensor
    table: Tensor
    said: Tensor


Loss = Callable[[Batch, int], Tensor]


def train(
    reference: Tensor, loss: Loss, *, steps: int, size: int = 32, rate: float = 0.1, hottest: float = 1.0, seed: int = 0
) -> Tensor:
    """Logits after steps of Adam from the reference on, at a rate that falls to nothing; attempts are drawn in groups.

    Args:
        hottest: three of four batches are drawn at a temperature up to this, and from 1 / hottest on.
    """
    luck = torch.Generator().manual_seed(seed)
    logits = reference.clone().requires_grad_()
    adam = torch.optim.Adam([logits], lr=rate, betas=(0.9, 0.99))
    for step in range(steps):
        adam.param_groups[0]["lr"] = rate * min(1.0, 2.0 * (1.0 - step / steps))
        heat = 1.0
        if hottest > 1.0 and step % 4:
            heat = float(torch.empty(()).uniform_(1.0 / hottest, hottest, generator=luck))
        table = log_table(logits)
        said = log_ends(table)
        with torch.no_grad():
            behaviour = said if heat == 1.0 else log_ends(log_table(logits / heat))
            drawn = torch.multinomial(behaviour.exp(), size, replacement=True, generator=luck)
        adam.zero_grad()
        loss(Batch(drawn, table, said), step).backward()  # type: ignore[no-untyped-call]
        adam.step()
    return logits.detach()


def by_weights(objective: Any, reference: Tensor, utility: Tensor) -> Loss:
    """An objective's policy gradient, one group a step."""
    known = log_ends(log_table(reference))

    def loss(batch: Batch, step: int) -> Tensor:
        drawn = batch.drawn
        scored = Scored(
            rewards=utility[drawn][None],
            outcomes=[],
            logq=batch.said.detach()[drawn][None],
            ref_logq=known[drawn][None],
            rows=["world"],
            step=step,
        )
        weights = objective.weights(scored)[0]
        if hasattr(objective, "learn"):
            objective.learn(scored)
        return -(weights * batch.said[drawn]).sum()

    return loss


def of_ways(table: Tensor, log_rewards: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """`balances` of the ways to some texts, and which places they have; shape (B, 5) each."""
    nodes, steps = NODES[texts], STEPS[texts]
    valid = nodes >= 0
    taken = torch.where(steps >= 0, steps, STOP)
    said = table[nodes.clamp(min=0), taken]
    stops = table[nodes.clamp(min=0), STOP]
    return balances(said, stops, log_rewards[nodes.clamp(min=0)], valid), valid


def by_pairs(log_rewards: Tensor, *, decay: float = 1.0) -> Loss:
    """Subtrajectory balance with a known reward of every beginning."""

    def loss(batch: Batch, step: int) -> Tensor:
        values, valid = of_ways(batch.table, log_rewards, batch.drawn)
        return pair_loss(values, valid, decay=decay).mean()

    return loss
