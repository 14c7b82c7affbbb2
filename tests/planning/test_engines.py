"""Engines' files: read back they are the same placement, and what an engine would refuse is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.planning.worlds import equal_slots, line

from selfroute.errors import ConfigError
from selfroute.planning.engines import FORMATS, read_placement, to_slots
from selfroute.planning.load import generated_load
from selfroute.planning.problem import Bools, Problem, homes_problem, objective, single, sources_problem
from selfroute.planning.shapes import Mixture
from selfroute.planning.solvers import solve

TWO = Mixture(layers=2, experts=4, top_k=1, dense=(0,))


@st.composite
def exported(draw: st.DrawFn) -> tuple[Problem, Mixture, Bools]:
    """A problem with equal slots, and a placement of it, with copies or without."""
    ranks, each, layers = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    redundant = ranks * draw(st.integers(0, 1)) if ranks > 1 else 0
    dense = tuple(range(draw(st.integers(0, 2))))
    mixture = Mixture(layers=layers, experts=ranks * each, top_k=1, dense=dense)
    load = generated_load(mixture, sources=ranks, own=0.5, seed=draw(st.integers(0, 999)))
    slots = equal_slots(mixture, ranks, redundant)
    problem = (homes_problem if draw(st.booleans()) else sources_problem)(load, mixture, line(ranks), slots)
    return problem, mixture, solve("rounding" if redundant else "assignment", problem).assign


@settings(max_examples=40)
@given(exported(), st.sampled_from(sorted(FORMATS)))
def test_a_file_read_back_gives_the_same_costs(world: tuple[Problem, Mixture, Bools], kind: str) -> None:
    problem, mixture, assign = world
    text = FORMATS[kind].write(to_slots(assign), mixture, problem.ranks)
    again = read_placement(kind, text, mixture, problem.ranks, where="a test's file")
    assert (again == assign).all()
    assert objective(problem, again) == objective(problem, assign)


@given(exported(), st.randoms(use_true_random=False))
def test_what_stays_on_a_rank_stays_in_its_slot(world: tuple[Problem, Mixture, Bools], random: Any) -> None:
    problem, _, assign = world
    before = to_slots(solve("linear", problem).assign)
    for row in before:  # any order within a rank
        for rank in np.split(row, problem.ranks):
            random.shuffle(rank)
    after = to_slots(assign, before=before)
    assert (to_slots(assign) == np.sort(after.reshape(*after.shape[:1], problem.ranks, -1)).reshape(after.shape)).all()
    each = after.shape[1] // problem.ranks
    for layer, (old, new) in enumerate(zip(before, after, strict=True)):
        for slot, expert in enumerate(old):
            if assign[layer, expert, slot // each]:
                assert new[slot] == expert


def test_sglang_gets_one_key_and_a_row_for_every_hidden_layer() -> None:
    assign = single(np.array([[1, 1, 0, 0], [0, 1, 0, 1]]), 2)
    text = FORMATS["sglang"].write(to_slots(assign), TWO, 2)
    assert json.loads(text) == {"physical_to_logical_map": [[0, 1, 2, 3], [2, 3, 0, 1], [0, 2, 1, 3]]}


def test_ascend_gets_its_map() -> None:
    mixture = Mixture(layers=1, experts=4, top_k=1)
    text = FORMATS["vllm-ascend"].write(to_slots(single(np.array([[0, 0, 1, 1]]), 2)), mixture, 2)
    devices = [{"device_id": 0, "device_expert": [0, 1]}, {"device_id": 1, "device_expert": [2, 3]}]
    layer = {"layer_id": 0, "device_count": 2, "device_list": devices}
    assert json.loads(text) == {"moe_layer_count": 1, "layer_list": [layer]}


def test_the_proposals_get_what_they_ask_for() -> None:
    slots = np.array([[0, 1, 2, 0]])
    mixture = Mixture(layers=1, experts=3, top_k=1)
    record = json.loads(FORMATS["vllm-pr41141"].write(slots, mixture, 2))
    assert record == {
        "record_type": "eplb_initial_mapping", "version": 1, "num_redundant_experts": 1, "num_slots": 4,
        "initial_global_assignments": {"0": [0, 1, 2, 0]},
    }  # fmt: skip
    assert json.loads(FORMATS["vllm-pr49572"].write(slots, mixture, 2)) == [[0, 1, 2, 0]]
    assert [kind for kind, one in FORMATS.items() if one.is_proposal] == ["vllm-pr49572", "vllm-pr41141"]


def test_one_list_stands_for_every_layer() -> None:
    found = read_placement("vllm-pr49572", "[3, 2, 1, 0]", TWO, 2, where="file")
    assert (found == single(np.array([[1, 1, 0, 0]] * 2), 2)).all()


def sglang(rows: Any, **more: Any) -> str:
    return json.dumps({"physical_to_logical_map": rows, **more})


GOOD = [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        ("sglang", sglang([GOOD] * 3, note="x"), "the one key is physical_to_logical_map"),
        ("sglang", sglang([GOOD] * 2), r"2 rows for 3 hidden layers \(1 of them dense\)"),
        ("sglang", sglang([GOOD] * 3)[:-4], "not whole JSON, is it cut off"),
        ("sglang", sglang([GOOD, GOOD, [0, 1, 2]]), "layer 1 has 3 slots, the first layer 4"),
        ("sglang", sglang([GOOD, GOOD, [0, 1, 2, 4]]), "layer 1 has 4 in a slot; .* from 0 to 3"),
        ("sglang", sglang([GOOD, GOOD, [0, 1, 2, 2.5]]), "layer 1 has 2.5 in a slot"),
        ("sglang", sglang([GOOD, GOOD, [0, 1, 2, 2]]), "layer 1 has no slot for expert 3"),
        ("sglang", sglang([[*GOOD, 0]] * 3), "5 slots do not divide over 2 ranks"),
        ("sglang", sglang([[0, 1, 0, 3, 2, 1]] * 3), "layer 0 has two copies of expert 0 on rank 0"),
        ("sglang", "[]", "the one key"),
        ("vllm-ascend", "{}", "exactly these keys is wanted: moe_layer_count, layer_list"),
        ("vllm-ascend", '{"moe_layer_count": 2, "layer_list": []}', "a list that is not empty"),
        ("vllm-pr49572", "[[0, 1, 2, 3]]", "1 mixture layers, the model has 2"),
        ("vllm-pr41141", "", "exactly these keys is wanted: record_type"),
        ("vllm-pr37923", "[]", "unknown format 'vllm-pr37923'; known: sglang, vllm-ascend"),
    ],
)
def test_a_file_that_an_engine_would_refuse_is_refused(kind: str, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"^today: .*{told}|^today: {told}"):
        read_placement(kind, text, TWO, 2, where="today")


def changed(kind: str, **values: Any) -> str:
    text = FORMATS[kind].write(np.array([GOOD, GOOD]), TWO, 2)
    return json.dumps(json.loads(text) | values)


@pytest.mark.parametrize(
    ("kind", "values", "told"),
    [
        ("vllm-ascend", {"moe_layer_count": 3}, "moe_layer_count is 3, layer_list has other layers"),
        ("vllm-pr41141", {"version": 2}, "record_type, version, .* must be"),
        ("vllm-pr41141", {"num_slots": 5}, "must be .*'eplb_initial_mapping', 1, 0, 4"),
        ("vllm-pr41141", {"initial_global_assignments": {"0": GOOD}}, 'must have the keys "0" to "1"'),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(kind: str, values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_placement(kind, changed(kind, **values), TWO, 2, where="today")


def test_devices_have_to_be_the_ranks() -> None:
    text = FORMATS["vllm-ascend"].write(np.array([GOOD, GOOD]), TWO, 4)
    with pytest.raises(ConfigError, match="layer 0 has 4 devices, there are 2 ranks"):
        read_placement("vllm-ascend", text, TWO, 2, where="today")


def test_unequal_ranks_cannot_be_written() -> None:
    with pytest.raises(ConfigError, match=r"rank 1 holds 1 experts of layer 0 and rank 0 .* holds 3; .*layer_slack=1"):
        to_slots(single(np.array([[0, 0, 0, 1]]), 2))
