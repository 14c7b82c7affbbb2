"""Engines' dumps: the counts that are in them, and one line for what is cut off or of another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfroute.errors import ConfigError
from selfroute.planning.dumps import read_sglang, read_vllm
from selfroute.planning.shapes import Mixture

MIXTURE = Mixture(layers=2, experts=3, top_k=1, dense=(0,))
COUNTS = [[0, 0, 0], [1, 2, 3], [4, 5, 6]]


def stat(path: Path, counts: Any = COUNTS) -> Path:
    """A dump of mode `stat`: a ring buffer of which the last step was not used."""
    steps = torch.tensor([counts, counts, np.zeros_like(counts).tolist()], dtype=torch.int32)
    torch.save({"rank": 0, "logical_count": steps, "average_utilization_rate_over_window": None}, path)
    return path


def per_pass(folder: Path, by_rank: Any, slots: Any) -> Path:
    """The files of mode `per_pass`, each with two passes of the same counts."""
    folder.mkdir(exist_ok=True)
    for rank, counts in enumerate(by_rank):
        of_pass = {"rank": rank, "gatherer_key": "primary", "global_physical_count": torch.tensor(counts)}
        records = [{"forward_pass_id": i, **of_pass} for i in range(2)]
        values = {"records": records, "last_physical_to_logical_map": torch.tensor(slots)}
        torch.save(values, folder / f"expert_distribution_recorder_17.5_{rank}.pt")
    return folder


def test_the_steps_of_a_ring_buffer_are_summed(tmp_path: Path) -> None:
    load = read_sglang(stat(tmp_path / "dump.pt"), mixture=MIXTURE)
    assert load.visits.tolist() == [[[2, 4, 6], [8, 10, 12]]]


def test_counts_for_sglangs_own_balancer_are_read(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({"logical_count": COUNTS}), encoding="utf-8")
    assert read_sglang(path, mixture=MIXTURE).visits.tolist() == [COUNTS[1:]]


def test_the_files_of_all_ranks_tell_where_tokens_started(tmp_path: Path) -> None:
    slots = [[0, 1, 2, 0], [0, 1, 2, 0], [2, 1, 0, 2]]
    first = [[0, 0, 0, 0], [1, 0, 0, 1], [1, 0, 5, 1]]
    second = [[0, 0, 0, 0], [0, 3, 0, 0], [0, 1, 0, 0]]
    load = read_sglang(per_pass(tmp_path / "ranks", [first, second], slots), mixture=MIXTURE)
    assert load.visits.tolist() == [[[4, 0, 0], [10, 0, 4]], [[0, 6, 0], [0, 2, 0]]]


def test_counts_of_what_ranks_received_are_no_sources(tmp_path: Path) -> None:
    slots = [[0, 1, 2, 0]] * 3
    first, second = [[0, 0, 0, 0], [1, 2, 0, 0], [1, 1, 0, 0]], [[0, 0, 0, 0], [0, 0, 3, 4], [0, 0, 1, 1]]
    with pytest.raises(ConfigError, match="what that rank received, as with DeepEP"):
        read_sglang(per_pass(tmp_path / "ranks", [first, second], slots), mixture=MIXTURE)


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ([[0, 0, 0], [1, 2, 3]], "has 2 rows of 3 experts; the model has 3 hidden layers, 1 of them dense"),
        ([[1, 0, 0], [1, 2, 3], [4, 5, 6]], "has visits in hidden layer 0, which is dense by model.dense"),
        ([[0, 0, 0], [0, 0, 0], [4, 5, 6]], "has no visits in hidden layer 1, which is not dense by model.dense"),
        ([[0, 0, 0], [1, -2, 3], [4, 5, 6]], "must be numbers of at least 0"),
    ],
)
def test_a_dump_of_another_model_is_refused(tmp_path: Path, counts: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_sglang(stat(tmp_path / "dump.pt", counts), mixture=MIXTURE)


@pytest.mark.parametrize("left", [0.0, 0.3, 0.9])
def test_a_dump_cut_off_is_refused_in_a_line(tmp_path: Path, left: float) -> None:
    path = stat(tmp_path / "dump.pt")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * len(whole))])
    with pytest.raises(ConfigError, match="cannot be read, is it cut off") as caught:
        read_sglang(path, mixture=MIXTURE)
    assert "\n" not in str(caught.value)


def test_what_is_no_dump_is_refused(tmp_path: Path) -> None:
    folder = per_pass(tmp_path / "ranks", [COUNTS], [[0, 1, 2]] * 3)
    with pytest.raises(ConfigError, match="name the folder with the files of all ranks"):
        read_sglang(next(folder.glob("*.pt")), mixture=MIXTURE)
    torch.save({"rank": 0}, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match="has no logical_count; record with"):
        read_sglang(tmp_path / "other.pt", mixture=MIXTURE)
    with pytest.raises(ConfigError, match="does not exist"):
        read_sglang(tmp_path / "none.pt", mixture=MIXTURE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="one of each rank from 0 is needed"):
        read_sglang(tmp_path / "empty", mixture=MIXTURE)
    with pytest.raises(ConfigError, match="model: is missing"):
        read_sglang(folder, mixture=None)


# --- vLLM --------------------------------------------------------------------------------------------------------


META = {"record_type": "eplb_load_meta", "version": 1, "model": "m", "num_ranks": 2, "num_groups": 1, "num_nodes": 1,
        "num_layers": 2, "num_redundant_experts": 1}  # fmt: skip
STATS = {"record_type": "eplb_load_stats", "version": 1, "step": 7, "expert_load": [[1, 2, 3, 4], [0, 1, 0, 1]],
         "p2l_map": [[0, 1, 2, 0], [2, 1, 0, 2]]}  # fmt: skip


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_slots_are_counted_for_their_experts(tmp_path: Path) -> None:
    load = read_vllm(lines(tmp_path / "stats.jsonl", META, STATS, STATS), mixture=MIXTURE)
    assert load.visits.tolist() == [[[10, 4, 6], [0, 2, 2]]]


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([STATS], "needs one line of eplb_load_meta"),
        ([META], "needs one line of eplb_load_meta and lines of eplb_load_stats"),
        ([META | {"num_layers": 3}, STATS], "is of a model with 3 mixture layers, model.layers is 2"),
        ([META, STATS | {"p2l_map": [[0, 1, 2]]}], r"counts are \(2, 4\), its map of slots \(1, 3\)"),
        ([META, STATS | {"p2l_map": [[0, 1, 2, 3]] * 2}], "its slots hold expert 3, model.experts is 3"),
        ([META, {"record_type": "eplb_load_stats", "step": 9}], "step 9 has no expert_load"),
        ([META, STATS | {"expert_load": "x"}], "no array of numbers"),
    ],
)
def test_statistics_that_cannot_be_are_refused(tmp_path: Path, records: list[Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_vllm(lines(tmp_path / "stats.jsonl", *records), mixture=MIXTURE)


def test_statistics_cut_off_name_the_line(tmp_path: Path) -> None:
    path = lines(tmp_path / "stats.jsonl", META, STATS)
    path.write_text(path.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    with pytest.raises(ConfigError, match="line 2 is not whole JSON; is the file cut off"):
        read_vllm(path, mixture=MIXTURE)
    with pytest.raises(ConfigError, match="does not exist"):
        read_vllm(tmp_path / "none.jsonl", mixture=MIXTURE)
