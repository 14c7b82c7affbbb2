"""Networks: their hops are those of the drawing, and what cannot be is refused with key and value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.errors import ConfigError
from selfroute.planning.cluster import dragonfly, edge_list, fat_tree, matrix, with_ranks
from selfroute.planning.shapes import Link


def write(folder: Path, values: Any) -> Path:
    path = folder / "network.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return path


def test_a_fat_tree_has_two_four_or_six_hops() -> None:
    hops = fat_tree(servers=32, leaf=4, pod=4).hops
    assert hops is not None
    assert (hops[0, :5] == [0, 2, 2, 2, 4]).all(), "own leaf, then another leaf of the pod"
    assert hops[0, 16] == 6, "another pod"
    assert (hops == hops.T).all()


def test_a_fat_tree_of_one_leaf_needs_no_spine() -> None:
    hops = fat_tree(servers=3, leaf=4).hops
    assert hops is not None
    assert hops.tolist() == [[0, 2, 2], [2, 0, 2], [2, 2, 0]]


def test_a_dragonfly_has_at_most_five_hops() -> None:
    hops = dragonfly(servers=32, per_router=2, routers=4).hops
    assert hops is not None
    assert hops[0, 1] == 2, "same router"
    assert hops[0, 2] == 3, "same group"
    assert hops[0, 8:].min() == 3 and hops.max() == 5, "one link between groups"


@pytest.mark.parametrize("make", [fat_tree, dragonfly])
def test_a_sparse_network_has_longer_ways_and_stays_whole(make: Any) -> None:
    whole, sparse = make(servers=32).hops, make(servers=32, sparse=0.3, seed=1).hops
    assert np.isfinite(sparse).all()
    assert (sparse >= whole).all() and sparse.sum() > whole.sum()
    assert (sparse == make(servers=32, sparse=0.3, seed=1).hops).all(), "the seed decides"


def test_seconds_are_latency_and_the_time_to_pass_the_bytes_on() -> None:
    found = fat_tree(servers=2, link=Link(latency_s=1e-6, gbps=8))
    assert found.costs("seconds", 1000)[0, 1] == pytest.approx(2 * (1e-6 + 1e-6))  # 8 kbit at 8 Gbit/s, two links


def test_ranks_of_a_server_are_no_hop_apart() -> None:
    found = with_ranks(fat_tree(servers=2), 2, Link(inside_latency_s=3e-6))
    assert found.ranks == 4
    assert found.costs("hops", 1).tolist() == [[0, 0, 2, 2], [0, 0, 2, 2], [2, 2, 0, 0], [2, 2, 0, 0]]
    assert found.costs("seconds", 0)[0].tolist() == pytest.approx([0, 3e-6, 2e-6, 2e-6])


def test_links_of_a_file_have_their_own_speeds(tmp_path: Path) -> None:
    path = write(tmp_path, {"ranks": ["a", "b"], "links": [["a", "s"], ["s", "b", 5e-6, 8], ["a", "t"], ["t", "b"]]})
    found = edge_list(path=path, link=Link(latency_s=1e-6, gbps=400))
    assert found.costs("hops", 1).tolist() == [[0, 2], [2, 0]]
    assert found.costs("seconds", 0)[0, 1] == pytest.approx(2e-6), "of two ways as long the quicker"


def test_a_way_of_fewer_hops_is_taken_even_if_it_is_slower(tmp_path: Path) -> None:
    path = write(tmp_path, {"ranks": ["a", "b"], "links": [["a", "b", 1.0], ["a", "s"], ["s", "b"]]})
    assert edge_list(path=path).costs("seconds", 0)[0, 1] == pytest.approx(1.0)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_matrix_is_read_as_it_stands(tmp_path: Path, wrapped: bool) -> None:
    costs = [[0, 1], [3, 0]]
    found = matrix(path=write(tmp_path, {"rank_cost_matrix": costs} if wrapped else costs))
    assert found.costs("hops", 1).tolist() == costs
    assert found.units == ["hops"]
    assert matrix(path=write(tmp_path, costs), unit="seconds").costs("seconds", 99).tolist() == costs


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([[0, 1]], "not a square array"),
        ([[0, -1], [1, 0]], r"cost \[0\]\[1\]: -1 must be a number of at least 0"),
        ("[[0, NaN], [1, 0]]", r"cost \[0\]\[1\]: nan must be"),
        ([[0, "x"], [1, 0]], r"cost \[0\]\[1\]: 'x' must be"),
        ([[1, 1], [1, 0]], r"cost \[0\]\[0\] is 1, but a rank is at no cost from itself"),
        ({"costs": [[0]]}, "the one key is rank_cost_matrix"),
        ("[[0, 1], [1", "is not whole JSON"),
    ],
)
def test_a_matrix_that_cannot_be_is_refused(tmp_path: Path, values: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        matrix(path=write(tmp_path, values))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"ranks": ["a", "b"], "links": [["a", "s"]]}, "rank 'b' cannot be reached from 'a'"),
        ({"ranks": ["a"], "links": [["a"]]}, "is not \\[node, node, latency_s, gbps\\]"),
        ({"ranks": ["a", "b"], "links": [["a", "b", -1]]}, "latency_s of link .* -1 must be a number of at least 0"),
        ({"ranks": ["a", "b"], "links": [["a", "b", 0, 0]]}, "gbps of link .* 0 must be a number above 0"),
        ({"ranks": ["a", "a"], "links": [["a", "b"]]}, "a list of different names"),
        ({"ranks": ["a"], "links": []}, "a list of links"),
        ({"nodes": []}, '"ranks"'),
    ],
)
def test_a_list_of_links_that_cannot_be_is_refused(tmp_path: Path, values: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        edge_list(path=write(tmp_path, values))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.matrix: file '.*none\.json' does not exist"):
        matrix(path=tmp_path / "none.json")


def test_counts_and_shares_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.fat_tree: servers: 0 must be a number of at least 1"):
        fat_tree(servers=0)
    with pytest.raises(ConfigError, match=r"sparse: 1\.0 must be a number of at least 0 and below 1"):
        dragonfly(servers=8, sparse=1.0)
    with pytest.raises(ConfigError, match=r"unit: .* gives no seconds; write unit: hops"):
        cluster = fat_tree(servers=2)
        type(cluster)(cluster.about, cluster.hops, None, None, cluster.server).costs("seconds", 1)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5), st.floats(0, 0.9), st.integers(0, 9))
def test_hops_are_a_distance(servers: int, first: int, second: int, sparse: float, seed: int) -> None:
    for found in (
        fat_tree(servers=servers, leaf=first, pod=second, sparse=sparse, seed=seed),
        dragonfly(servers=servers, per_router=first, routers=second, sparse=sparse, seed=seed),
    ):
        hops = found.costs("hops", 1)
        assert hops.shape == (servers, servers) and np.isfinite(hops).all()
        assert (hops.diagonal() == 0).all() and (hops == hops.T).all()
        assert (hops[:, :, None] <= hops[:, None, :] + hops.T[None]).all(), "no detour is shorter"
