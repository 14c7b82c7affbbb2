"""DeepSeek's expert-parallelism load balancer, which engines deploy: it balances, and knows no network.

Written after github.com/deepseek-ai/EPLB; a test holds it to the example there.
"""

from __future__ import annotations

import numpy as np

from selfroute.errors import ConfigError
from selfroute.planning.problem import Bools, Floats, Ints, Problem

__all__ = ["copy_counts", "eplb", "rebalance"]


def eplb(problem: Problem) -> tuple[Bools, None]:
    """DeepSeek's placement of a problem's load, by its policy for all ranks alike.

    Raises:
        ConfigError: the slots of a layer do not divide over the ranks.
    """
    slots = problem.experts + problem.slots.redundant
    if slots % problem.ranks or slots // problem.ranks > problem.slots.layer:
        raise ConfigError(f"method: eplb needs equal slots, and {slots} do not divide over {problem.ranks} ranks")
    expert = rebalance(problem.load, slots, ranks=problem.ranks)
    assign = np.zeros(problem.cost.shape, dtype=bool)
    layer, slot = np.indices(expert.shape)
    assign[layer, expert, slot // (slots // problem.ranks)] = True
    return assign, None


def rebalance(load: Floats, slots: int, *, groups: int = 1, nodes: int = 1, ranks: int) -> Ints:
    """The logical expert of every physical slot, shape (layers, slots); rank r owns slots [r·n, (r+1)·n).

    Args:
        load: shape (layers, experts).
        slots: of each layer, at least as many as experts.
        groups: of experts; each stays on one node. Groups that do not divide over nodes are left out of account.
        nodes: servers that the ranks are on.
    """
    if groups % nodes:
        groups = nodes = 1
    return np.stack([_rebalance_layer(row, slots, groups, nodes, ranks) for row in load])


def _rebalance_layer(load: Floats, slots: int, groups: int, nodes: int, ranks: int) -> Ints:
    """Groups to nodes, copies within each node, and copies to its ranks."""
    size = len(load) // groups
    packed = _pack(load.reshape(groups, size).sum(axis=1), nodes)
    placed = []
    for members in packed:
        experts = np.concatenate([np.arange(group * size, (group + 1) * size) for group in members])
        copies, counts = _replicate(load[experts], slots // nodes)
        by_rank = _pack((load[experts] / counts)[copies], ranks // nodes)
        placed += [experts[copies[slot]] for own in by_rank for slot in own]
    return np.array(placed, dtype=np.int64)


def _pack(weights: Floats, packs: int) -> list[list[int]]:
    """Heaviest first, each to the lightest pack that is not full; every pack gets as many."""
    each = len(weights) // packs
    if each == 1:
        return [[number] for number in range(packs)]
    packed: list[list[int]] = [[] for _ in range(packs)]
    total = [0.0] * packs
    for number in np.argsort(-weights, kind="stable"):
        pack = min((i for i in range(packs) if len(packed[i]) < each), key=total.__getitem__)
        packed[pack].append(int(number))
        total[pack] += float(weights[number])
    return packed


def _replicate(load: Floats, slots: int) -> tuple[Ints, Ints]:
    """One more copy, again and again, of the expert whose copies have most to do; experts of slots, and copies each."""
    experts, counts = list(range(len(load))), np.ones(len(load), dtype=np.int64)
    for _ in range(slots - len(load)):
        busiest = int((load / counts).argmax())
        experts.append(busiest)
        counts[busiest] += 1
    return np.array(experts), counts


def copy_counts(load: Floats, slots: int) -> Ints:
    """Copies of every expert of a layer, shape (experts,), one at least and `slots` in all."""
    return _replicate(load, slots)[1]
