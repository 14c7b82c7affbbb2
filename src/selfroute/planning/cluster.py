"""Networks of a cluster, and what a token's way over them costs: fat trees, dragonflies, edge lists, cost matrices."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfroute.errors import ConfigError
from selfroute.planning.shapes import Link, Unit, check_number

__all__ = ["Cluster", "dragonfly", "edge_list", "fat_tree", "matrix", "with_ranks"]

Floats = NDArray[np.float64]
Edge = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """Ways between the ranks of a cluster, each matrix of shape (ranks, ranks).

    Attributes:
        about: the network in words.
        hops: links on the shortest way; None if only costs in seconds are known.
        latency_s: summed over the links of the way; None if only hops are known.
        s_per_byte: the same, of one byte that each link stores and forwards.
        server: of each rank, shape (ranks,).
    """

    about: str
    hops: Floats | None
    latency_s: Floats | None
    s_per_byte: Floats | None
    server: NDArray[np.int64]

    @property
    def ranks(self) -> int:
        return len(self.server)

    @property
    def units(self) -> list[Unit]:
        """What costs are known in."""
        hops: list[Unit] = [] if self.hops is None else ["hops"]
        return hops if self.latency_s is None else [*hops, "seconds"]

    def costs(self, unit: Unit, bytes_per_token: float) -> Floats:
        """Cost of a token's way from rank to rank, in hops or in seconds without queueing.

        Raises:
            ConfigError: the cluster does not say what this unit needs.
        """
        if unit == "hops" and self.hops is not None:
            return self.hops
        if unit == "seconds" and self.latency_s is not None and self.s_per_byte is not None:
            return np.asarray(self.latency_s + bytes_per_token * self.s_per_byte)
        raise ConfigError(f"unit: {self.about} gives no {unit}; write unit: {self.units[0]}")


def with_ranks(cluster: Cluster, per_server: int, link: Link) -> Cluster:
    """A cluster of servers as one of ranks: `per_server` in each, no hop apart.

    Raises:
        ConfigError: less than one rank per server.
    """
    check_number("cluster.per_server", per_server, low=1)
    if per_server == 1:
        return cluster
    server = np.repeat(cluster.server, per_server)
    inside = (server[:, None] == server[None]) & ~np.eye(len(server), dtype=bool)

    def spread(values: Floats | None, within: float) -> Floats | None:
        if values is None:
            return None
        return np.where(inside, within, np.repeat(np.repeat(values, per_server, 0), per_server, 1))

    return replace(
        cluster,
        about=f"{cluster.about}, {per_server} ranks per server",
        hops=spread(cluster.hops, 0.0),
        latency_s=spread(cluster.latency_s, link.inside_latency_s),
        s_per_byte=spread(cluster.s_per_byte, _s_per_byte(link.inside_gbps)),
        server=server,
    )


# --- generated networks ------------------------------------------------------------------------------------------


def fat_tree(
    *,
    servers: int,
    leaf: int = 4,
    pod: int = 4,
    spines: int = 2,
    cores: int = 2,
    sparse: float = 0.0,
    seed: int = 0,
    link: Link | None = None,
) -> Cluster:
    """Servers under leaf switches, leaves under the spines of their pod, spines under cores: 2, 4 or 6 hops.

    Args:
        leaf: servers per leaf switch.
        pod: leaf switches per pod.
        spines: of each pod; every leaf is linked to all of them.
        cores: above the spines of the same number in every pod.
        sparse: share of the links between switches that is missing, drawn by `seed`; the network stays connected.

    Raises:
        ConfigError: a count below 1, or a share outside [0, 1).
    """
    _check_counts("fat_tree", servers=servers, leaf=leaf, pod=pod, spines=spines, cores=cores)
    leaves = -(-servers // leaf)
    pods = -(-leaves // pod)
    spine0 = servers + leaves
    core0 = spine0 + pods * spines
    down = [(server, servers + server // leaf) for server in range(servers)]
    up = [(servers + i, spine0 + (i // pod) * spines + j) for i in range(leaves) for j in range(spines)]
    if pods > 1:
        up += [
            (spine0 + p * spines + j, core0 + j * cores + k)
            for p in range(pods) for j in range(spines) for k in range(cores)
        ]  # fmt: skip
    edges = down + _thinned(down, up, sparse, seed)
    shape = f"{servers} servers, {leaf} per leaf, {pod} leaves per pod, {spines} spines per pod"
    return _of_graph(_named("fat tree", shape, sparse, seed), edges, servers, link or Link())


def dragonfly(
    *,
    servers: int,
    per_router: int = 2,
    routers: int = 4,
    sparse: float = 0.0,
    seed: int = 0,
    link: Link | None = None,
) -> Cluster:
    """Groups of routers, all linked within a group, and one link between every two groups: 2 to 5 hops.

    Args:
        per_router: servers of each router.
        routers: of each group.
        sparse, seed: as in `fat_tree`.

    Raises:
        ConfigError: a count below 1, or a share outside [0, 1).
    """
    _check_counts("dragonfly", servers=servers, per_router=per_router, routers=routers)
    groups = -(-servers // (per_router * routers))
    down = [(server, servers + server // per_router) for server in range(servers)]

    def router(group: int, number: int) -> int:
        return servers + group * routers + number % routers

    up = [(router(g, a), router(g, b)) for g in range(groups) for a, b in combinations(range(routers), 2)]
    # The link to group h leaves group g at router h - 1 or h, so that each router has about as many.
    up += [(router(g, h - 1), router(h, g)) for g, h in combinations(range(groups), 2)]
    edges = down + _thinned(down, up, sparse, seed)
    shape = f"{servers} servers, {per_router} per router, {routers} routers per group"
    return _of_graph(_named("dragonfly", shape, sparse, seed), edges, servers, link or Link())


def _named(kind: str, shape: str, sparse: float, seed: int) -> str:
    missing = f", {100 * sparse:g} % of its switch links missing (seed {seed})" if sparse else ""
    return f"{kind} of {shape}{missing}"


def _thinned(kept: Sequence[Edge], removable: Sequence[Edge], share: float, seed: int) -> list[Edge]:
    """Leave a share of the links out, passing over those without which the network would fall apart."""
    check_number("sparse", share, low=0.0, high=1.0)
    left = list(removable)
    surplus = int(share * len(removable))
    for number in np.random.default_rng(seed).permutation(len(removable)) if surplus else ():
        rest = [edge for edge in left if edge != removable[number]]
        if _parts([*kept, *rest]) == 1:
            left, surplus = rest, surplus - 1
        if surplus == 0:
            break
    return left


def _parts(edges: Sequence[Edge]) -> int:
    """Connected parts of the nodes that have a link, or would have had one."""
    from scipy.sparse.csgraph import connected_components

    count = max(max(edge) for edge in edges) + 1
    return int(connected_components(_sparse(edges, np.ones(len(edges)), count), directed=False)[0])


def _sparse(edges: Sequence[Edge], weights: Floats, count: int) -> Any:
    from scipy.sparse import coo_array

    tails, heads = np.array(edges).T
    return coo_array((weights, (tails, heads)), shape=(count, count)).tocsr()


def _of_graph(about: str, edges: Sequence[Edge], hosts: int, link: Link) -> Cluster:
    """A cluster from a graph whose links are alike and whose first `hosts` nodes are the servers."""
    from scipy.sparse.csgraph import shortest_path

    count = max(hosts, max((max(edge) for edge in edges), default=0) + 1)
    hops = shortest_path(_sparse(edges, np.ones(len(edges)), count), directed=False, unweighted=True)[:hosts, :hosts]
    return Cluster(about, hops, hops * link.latency_s, hops * _s_per_byte(link.gbps), np.arange(hosts))


# --- networks from files -----------------------------------------------------------------------------------------


def edge_list(*, path: Path, link: Link | None = None) -> Cluster:
    """A network from a JSON file: `{"ranks": ["a", "b"], "links": [["a", "switch"], ["switch", "b", 2e-6, 200]]}`.

    A link is two names of nodes, and its own latency in seconds and gigabits per second if they are not the common
    ones. The way is the one of fewest hops, and of those the quickest.

    Raises:
        ConfigError: the file is no such thing, a value is negative or no number, or a rank cannot be reached.
    """
    from scipy.sparse.csgraph import shortest_path

    ranks, links = _read_links(path)
    link = link or Link()
    names = list(dict.fromkeys([*ranks, *(name for one in links for name in one[:2])]))
    number = {name: i for i, name in enumerate(names)}
    edges = [(number[one[0]], number[one[1]]) for one in links]
    latency = np.array([one[2] if len(one) > 2 else link.latency_s for one in links])
    per_byte = np.array([_s_per_byte(one[3] if len(one) > 3 else link.gbps) for one in links])
    quickness = latency + per_byte * 1e4
    weights = 1 + quickness / (quickness.sum() * len(names))  # fewest hops first
    _, before = shortest_path(
        _sparse(edges, weights, len(names)), directed=False, return_predecessors=True, indices=range(len(ranks))
    )
    along = {frozenset(edge): values for edge, *values in zip(edges, latency, per_byte, strict=True)}
    sums = np.array([[_walked(before[a], a, b, along, ranks) for b in range(len(ranks))] for a in range(len(ranks))])
    about = f"{len(ranks)} ranks and {len(links)} links of {path.name}"
    return Cluster(about, sums[..., 0], sums[..., 1], sums[..., 2], np.arange(len(ranks)))


def _walked(
    before: NDArray[Any], start: int, end: int, along: dict[frozenset[int], list[float]], ranks: Sequence[str]
) -> tuple[float, float, float]:
    """Hops, latency and seconds per byte of the way from one rank to another."""
    hops, latency, per_byte, at = 0, 0.0, 0.0, end
    while at != start:
        previous = int(before[at])
        if previous < 0:
            raise ConfigError(
                f"cluster.edges: rank '{ranks[end]}' cannot be reached from '{ranks[start]}'; add a link, or leave it "
                "out of ranks"
            )
        own = along[frozenset((previous, at))]
        hops, latency, per_byte, at = hops + 1, latency + own[0], per_byte + own[1], previous
    return float(hops), latency, per_byte


def _read_links(path: Path) -> tuple[list[str], list[list[Any]]]:
    values = _read_json(path, "cluster.edges")
    if not isinstance(values, dict) or set(values) != {"ranks", "links"}:
        raise ConfigError(f'cluster.edges: {path} is not {{"ranks": ["a", …], "links": [["a", "b"], …]}}')
    ranks, links = values["ranks"], values["links"]
    if not isinstance(ranks, list) or len(set(map(str, ranks))) != len(ranks) or not ranks:
        raise ConfigError(f"cluster.edges: ranks of {path} must be a list of different names")
    if not isinstance(links, list) or not links:
        raise ConfigError(f'cluster.edges: links of {path} must be a list of links, such as ["a", "b"]')
    for one in links:
        if not isinstance(one, list) or not 2 <= len(one) <= 4:
            raise ConfigError(f"cluster.edges: link {one!r} of {path} is not [node, node, latency_s, gbps]")
        for name, value, exclusive in zip(("latency_s", "gbps"), one[2:], (False, True), strict=False):
            check_number(f"cluster.edges: {name} of link {one!r}", value, low=0.0, exclusive=exclusive)
    return [str(name) for name in ranks], [[str(one[0]), str(one[1]), *one[2:]] for one in links]


def matrix(*, path: Path, unit: Unit = "hops") -> Cluster:
    """Costs between expert-parallel ranks from a JSON file: `{"rank_cost_matrix": [[0, 1], [1, 0]]}` or the bare array.

    The file is that of SGLang's open proposal for `--eplb-topology`.

    Args:
        unit: of the costs; seconds are those of one token.

    Raises:
        ConfigError: not square, a negative cost or one that is no number, or a diagonal that is not 0.
    """
    values = _read_json(path, "cluster.matrix")
    if isinstance(values, dict):
        if set(values) != {"rank_cost_matrix"}:
            raise ConfigError(f"cluster.matrix: keys of {path} are {sorted(values)}; the one key is rank_cost_matrix")
        values = values["rank_cost_matrix"]
    rows = values if isinstance(values, list) else []
    if not rows or any(not isinstance(row, list) or len(row) != len(rows) for row in rows):
        raise ConfigError(f"cluster.matrix: {path} is not a square array of numbers, one row per rank")
    for i, row in enumerate(rows):
        for j, cost in enumerate(row):
            check_number(f"cluster.matrix: cost [{i}][{j}]", cost, low=0.0)
        if row[i] != 0:
            raise ConfigError(f"cluster.matrix: cost [{i}][{i}] is {row[i]}, but a rank is at no cost from itself")
    costs, about = np.array(rows, dtype=float), f"costs between {len(rows)} ranks of {path.name}"
    server = np.arange(len(rows))
    if unit == "hops":
        return Cluster(about, costs, None, None, server)
    return Cluster(about, None, costs, np.zeros_like(costs), server)


# --- values ------------------------------------------------------------------------------------------------------


def _read_json(path: Path, key: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{key}: file '{path}' does not exist") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: file '{path}' is not whole JSON: {' '.join(str(error).split())}") from None


def _check_counts(where: str, **counts: int) -> None:
    for name, value in counts.items():
        check_number(f"cluster.{where}: {name}", value, low=1)


def _s_per_byte(gbps: float) -> float:
    return 8e-9 / gbps
