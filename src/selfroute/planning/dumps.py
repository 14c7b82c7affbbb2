"""What engines record of their routers: SGLang's recorder, and the statistics of vLLM's pull request 41141."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfroute.errors import ConfigError
from selfroute.planning.load import Load, needed
from selfroute.planning.shapes import Mixture

__all__ = ["read_sglang", "read_vllm"]

Floats = NDArray[np.float64]


# --- SGLang ------------------------------------------------------------------------------------------------------


def read_sglang(path: Path, *, mixture: Mixture | None) -> Load:
    """Counts of SGLang's expert distribution recorder.

    Args:
        path: a `.pt` file of mode `stat`, a `.json` with `logical_count`, or a folder of the files that mode `per_pass`
            writes, one per rank. Only the last tells where tokens started.

    Raises:
        ConfigError: a file that is missing, cut off or something else; rows that are not the model's hidden layers; or
            dense layers that are counted, and mixture layers that are not.
    """
    mixture, key = needed(mixture), f"load.sglang: {path}"
    if path.is_dir():
        return Load(_per_pass(path, mixture), f"SGLang's recorder, {path.name}, by source")
    values = _json(path, key) if path.suffix == ".json" else _torch(path, key)
    if "records" in values:
        raise ConfigError(f"{key} is one rank's file of mode per_pass; name the folder with the files of all ranks")
    if "logical_count" not in values:
        raise ConfigError(f"{key} has no logical_count; record with --expert-distribution-recorder-mode stat")
    counts = _counts(values["logical_count"], key)
    if counts.ndim == 3:  # a ring buffer is dumped whole; its unused steps are 0
        counts = counts.sum(axis=0)
    return Load(_mixture_rows(counts, mixture, key)[None], f"SGLang's recorder, {path.name}")


def _per_pass(folder: Path, mixture: Mixture) -> Floats:
    """Visits by source, shape (ranks, layers, experts)."""
    found: dict[int, tuple[Floats, Any]] = {}
    for path in sorted(folder.glob("*.pt")):
        key = f"load.sglang: {path}"
        values = _torch(path, key)
        if not values.get("records") or "last_physical_to_logical_map" not in values:
            raise ConfigError(f"{key} has no records; record with --expert-distribution-recorder-mode per_pass")
        rank = int(values["records"][0]["rank"])
        if rank in found:
            raise ConfigError(f"{key} is a second file of rank {rank}; keep the files of one recording in the folder")
        slots = sum(_counts(record["global_physical_count"], key) for record in values["records"])
        found[rank] = np.asarray(slots), values["last_physical_to_logical_map"]
    if sorted(found) != list(range(len(found))) or not found:
        raise ConfigError(
            f"load.sglang: {folder} has files of ranks {sorted(found)}; one of each rank from 0 is needed"
        )
    by_rank = np.stack([found[rank][0] for rank in range(len(found))])
    _refuse_received(by_rank, folder)
    return np.stack([
        _mixture_rows(_logical(counts, slots, mixture, f"load.sglang: {folder}"), mixture, f"load.sglang: {folder}")
        for counts, slots in (found[rank] for rank in range(len(found)))
    ])  # fmt: skip


def _refuse_received(by_rank: Floats, folder: Path) -> None:
    """With DeepEP a rank counts the tokens that reached its own slots, which says nothing of where they started."""
    ranks, _, slots = by_rank.shape
    if ranks == 1 or slots % ranks:
        return
    own = by_rank.reshape(ranks, -1, ranks, slots // ranks).sum(axis=(1, 3))
    if own.sum() == np.trace(own) > 0:
        raise ConfigError(
            f"load.sglang: {folder} counts on each rank what that rank received, as with DeepEP, not what it sent; "
            "take a file of mode stat, or record without an all-to-all backend"
        )


# --- vLLM --------------------------------------------------------------------------------------------------------


def read_vllm(path: Path, *, mixture: Mixture | None) -> Load:
    """Statistics of vLLM's pull request 41141: a line of `eplb_load_meta`, then lines of `eplb_load_stats`.

    Raises:
        ConfigError: a file that is missing, cut off or something else, or of another shape than the model.
    """
    mixture, key = needed(mixture), f"load.vllm: {path}"
    records = list(_json_lines(path, key))
    meta = [one for one in records if one.get("record_type") == "eplb_load_meta"]
    stats = [one for one in records if one.get("record_type") == "eplb_load_stats"]
    if len(meta) != 1 or not stats:
        raise ConfigError(f"{key} needs one line of eplb_load_meta and lines of eplb_load_stats")
    if meta[0].get("num_layers") != mixture.layers:
        raise ConfigError(
            f"{key} is of a model with {meta[0].get('num_layers')} mixture layers, model.layers is {mixture.layers}"
        )
    total = np.zeros((mixture.layers, mixture.experts))
    for one in stats:
        if "expert_load" not in one or "p2l_map" not in one:
            raise ConfigError(f"{key}: step {one.get('step')} has no expert_load or no p2l_map")
        total += _logical(_counts(one["expert_load"], key), one["p2l_map"], mixture, key)
    return Load(total[None], f"vLLM's load statistics, {path.name}")


# --- shapes ------------------------------------------------------------------------------------------------------


def _logical(counts: Floats, slots: Any, mixture: Mixture, key: str) -> Floats:
    """Counts of slots as counts of experts, shape (layers, experts)."""
    experts = np.asarray(slots, dtype=np.int64)
    if experts.shape != counts.shape:
        raise ConfigError(f"{key}: counts are {counts.shape}, its map of slots {experts.shape}")
    if experts.min() < 0 or experts.max() >= mixture.experts:
        raise ConfigError(f"{key}: its slots hold expert {experts.max()}, model.experts is {mixture.experts}")
    total = np.zeros((len(counts), mixture.experts))
    np.add.at(total, (np.arange(len(counts))[:, None], experts), counts)
    return total


def _mixture_rows(counts: Floats, mixture: Mixture, key: str) -> Floats:
    """Leave the dense layers out, and see that they are those."""
    if counts.shape != (mixture.hidden_layers, mixture.experts):
        raise ConfigError(
            f"{key} has {counts.shape[0]} rows of {counts.shape[1]} experts; the model has {mixture.hidden_layers} "
            f"hidden layers, {len(mixture.dense)} of them dense, of {mixture.experts} experts: mend model.layers, "
            "model.dense, model.experts"
        )
    visited = counts.sum(axis=1) > 0
    for row in range(mixture.hidden_layers):
        if visited[row] == (row in mixture.dense):
            has, is_ = ("visits", "dense") if visited[row] else ("no visits", "not dense")
            raise ConfigError(f"{key} has {has} in hidden layer {row}, which is {is_} by model.dense; mend model.dense")
    return counts[mixture.mixture_rows]


def _counts(values: Any, key: str) -> Floats:
    try:
        counts = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigError(f"{key}: its counts are no array of numbers") from None
    if counts.ndim not in (2, 3) or not np.isfinite(counts).all() or (counts < 0).any():
        raise ConfigError(f"{key}: its counts must be numbers of at least 0, by layer and expert")
    return counts


def _torch(path: Path, key: str) -> dict[str, Any]:
    import torch

    if not path.is_file():
        raise ConfigError(f"{key} does not exist")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a cut file raises whatever its first missing part happens to be
        raise ConfigError(f"{key} cannot be read, is it cut off? {' '.join(str(error).split())[:200]}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{key} is no file of SGLang's recorder")
    return values


def _json(path: Path, key: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{key} does not exist") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key} is not whole JSON, is it cut off? {' '.join(str(error).split())}") from None
    return values if isinstance(values, dict) else {}


def _json_lines(path: Path, key: str) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ConfigError(f"{key} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key} cannot be read: {' '.join(str(error).split())}") from None
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
        except ValueError:
            raise ConfigError(f"{key}: line {number} is not whole JSON; is the file cut off?") from None
        yield values if isinstance(values, dict) else {}
