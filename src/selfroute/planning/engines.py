"""Placements in the files of serving engines: slots to experts, written, and read back as the engine would."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfroute.errors import ConfigError
from selfroute.planning.problem import Bools, Ints
from selfroute.planning.shapes import Mixture

__all__ = ["FORMATS", "Format", "from_slots", "read_placement", "to_slots"]


@dataclass(frozen=True, slots=True)
class Format:
    """A file format of an engine.

    Attributes:
        file: name that a plan's file gets.
        engine: who reads it, and by which option.
        write: from the expert of every slot, shape (layers, slots), the model and the ranks, to the file's text.
        read: back, likewise; the mixture layers alone.
        is_proposal: an open pull request reads it, and no release.
    """

    file: str
    engine: str
    write: Callable[[Ints, Mixture, int], str]
    read: Callable[[str, Mixture, int], list[list[Any]]]
    is_proposal: bool = False


# --- between a placement and slots -------------------------------------------------------------------------------


def to_slots(assign: Bools, *, before: Ints | None = None) -> Ints:
    """The expert of every physical slot, shape (layers, slots); rank r owns slots [r·n, (r+1)·n).

    Args:
        assign: shape (layers, experts, ranks).
        before: today's slots, likewise; what stays on a rank stays in its slot.

    Raises:
        ConfigError: ranks hold different numbers of experts, so that no engine can have it.
    """
    held = assign.sum(axis=1)
    if (held != held[0, 0]).any():
        layer, rank = (int(i) for i in np.argwhere(held != held[0, 0])[0])
        raise ConfigError(
            f"slots: rank {rank} holds {held[layer, rank]} experts of layer {layer} and rank 0 of layer 0 holds "
            f"{held[0, 0]}; engines need as many on every rank: plan with slots.layer_slack=1"
        )
    each = int(held[0, 0])
    rows = [
        [_slots_of(np.flatnonzero(own), () if before is None else before[layer, r * each : (r + 1) * each])
         for r, own in enumerate(ranks)]
        for layer, ranks in enumerate(assign.transpose(0, 2, 1))
    ]  # fmt: skip
    return np.array(rows, dtype=np.int64).reshape(len(assign), -1)


def _slots_of(experts: Ints, before: Sequence[int] | Ints) -> list[int]:
    """The experts of one rank in order, those that it had in the slots that they had."""
    there = [int(expert) for expert in before]
    if len(there) != len(experts):
        return [int(expert) for expert in experts]
    staying = set(there) & {int(expert) for expert in experts}
    new = iter(int(expert) for expert in experts if int(expert) not in staying)
    seen: set[int] = set()
    slots = []
    for expert in there:
        stays = expert in staying and expert not in seen
        seen.add(expert)
        slots.append(expert if stays else next(new))
    return slots


def from_slots(rows: Sequence[Sequence[Any]] | Ints, mixture: Mixture, ranks: int, *, where: str) -> Bools:
    """A placement from the expert of every slot, refused where an engine would refuse it or waste a slot.

    Raises:
        ConfigError: another number of layers, slots that are no experts or do not divide over the ranks, an expert
            without a slot, or two copies of one on a rank.
    """
    if len(rows) != mixture.layers:
        raise ConfigError(f"{where}: {len(rows)} mixture layers, the model has {mixture.layers}")
    count = len(rows[0])
    if count % ranks:
        raise ConfigError(f"{where}: {count} slots do not divide over {ranks} ranks")
    assign = np.zeros((mixture.layers, mixture.experts, ranks), dtype=bool)
    for layer, row in enumerate(rows):
        _check_row(row, count, mixture.experts, f"{where}: layer {layer}")
        for slot, expert in enumerate(row):
            rank = slot * ranks // count
            if assign[layer, expert, rank]:
                raise ConfigError(f"{where}: layer {layer} has two copies of expert {expert} on rank {rank}")
            assign[layer, expert, rank] = True
    return assign


def _check_row(row: Sequence[Any] | Ints, count: int, experts: int, where: str) -> None:
    if len(row) != count:
        raise ConfigError(f"{where} has {len(row)} slots, the first layer {count}")
    wrong = [value for value in row if not _is_whole(value) or not 0 <= value < experts]
    if wrong:
        raise ConfigError(f"{where} has {wrong[0]!r} in a slot; experts are whole numbers from 0 to {experts - 1}")
    missing = set(range(experts)) - {int(value) for value in row}
    if missing:
        raise ConfigError(f"{where} has no slot for expert {min(missing)}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def read_placement(kind: str, text: str, mixture: Mixture, ranks: int, *, where: str) -> Bools:
    """A placement from an engine's file.

    Raises:
        ConfigError: an unknown format, or a text that the engine would refuse.
    """
    if kind not in FORMATS:
        raise ConfigError(f"{where}: unknown format '{kind}'; known: {', '.join(FORMATS)}")
    try:
        rows = FORMATS[kind].read(text, mixture, ranks)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{where}: not whole JSON, is it cut off? {' '.join(str(error).split())}") from None
    return from_slots(rows, mixture, ranks, where=where)


# --- SGLang ------------------------------------------------------------------------------------------------------


def _write_sglang(slots: Ints, mixture: Mixture, ranks: int) -> str:
    """One row per hidden layer; a dense layer's is never looked up, and gets what SGLang itself would put there."""
    rows = np.tile(np.arange(slots.shape[1]) % mixture.experts, (mixture.hidden_layers, 1))
    rows[mixture.mixture_rows] = slots
    return json.dumps({"physical_to_logical_map": rows.tolist()})


def _read_sglang(text: str, mixture: Mixture, ranks: int) -> list[list[Any]]:
    values = json.loads(text)
    # The keys become keyword arguments: any other is a TypeError in the engine.
    if not isinstance(values, dict) or set(values) != {"physical_to_logical_map"}:
        raise ConfigError("the one key is physical_to_logical_map")
    rows = _rows(values["physical_to_logical_map"])
    if len(rows) != mixture.hidden_layers:
        raise ConfigError(
            f"{len(rows)} rows for {mixture.hidden_layers} hidden layers ({len(mixture.dense)} of them dense); mend "
            "model.dense"
        )
    return [rows[i] for i in mixture.mixture_rows]


# --- vllm-ascend -------------------------------------------------------------------------------------------------


def _write_ascend(slots: Ints, mixture: Mixture, ranks: int) -> str:
    layers = [
        {
            "layer_id": layer,
            "device_count": ranks,
            "device_list": [
                {"device_id": rank, "device_expert": own} for rank, own in enumerate(row.reshape(ranks, -1).tolist())
            ],
        }
        for layer, row in enumerate(slots)
    ]
    return json.dumps({"moe_layer_count": len(slots), "layer_list": layers})


def _read_ascend(text: str, mixture: Mixture, ranks: int) -> list[list[Any]]:
    values = _only(json.loads(text), ("moe_layer_count", "layer_list"))
    layers = [_only(layer, ("layer_id", "device_count", "device_list")) for layer in _list(values["layer_list"])]
    if values["moe_layer_count"] != len(layers) or [layer["layer_id"] for layer in layers] != list(range(len(layers))):
        raise ConfigError(f"moe_layer_count is {values['moe_layer_count']}, layer_list has other layers")
    rows = []
    for layer in layers:
        devices = [_only(device, ("device_id", "device_expert")) for device in _list(layer["device_list"])]
        if layer["device_count"] != ranks or [device["device_id"] for device in devices] != list(range(ranks)):
            raise ConfigError(f"layer {layer['layer_id']} has {len(devices)} devices, there are {ranks} ranks")
        held = _rows([device["device_expert"] for device in devices])
        if len({len(own) for own in held}) > 1:
            raise ConfigError(f"layer {layer['layer_id']}: devices hold different numbers of experts")
        rows.append([expert for own in held for expert in own])
    return rows


# --- vLLM's open proposals ---------------------------------------------------------------------------------------


def _write_pr49572(slots: Ints, mixture: Mixture, ranks: int) -> str:
    return json.dumps(slots.tolist())


def _read_pr49572(text: str, mixture: Mixture, ranks: int) -> list[list[Any]]:
    values = _list(json.loads(text))
    if not any(isinstance(value, list) for value in values):
        return [values] * mixture.layers  # one list for all layers
    return _rows(values)


_PR41141 = ("record_type", "version", "num_redundant_experts", "num_slots", "initial_global_assignments")


def _write_pr41141(slots: Ints, mixture: Mixture, ranks: int) -> str:
    count = slots.shape[1]
    by_layer = {str(layer): row for layer, row in enumerate(slots.tolist())}
    record = ("eplb_initial_mapping", 1, count - mixture.experts, count, by_layer)
    return json.dumps(dict(zip(_PR41141, record, strict=True))) + "\n"


def _read_pr41141(text: str, mixture: Mixture, ranks: int) -> list[list[Any]]:
    lines = [line for line in text.splitlines() if line.strip()]
    values = _only(json.loads(lines[0]) if len(lines) == 1 else None, _PR41141)
    by_layer = values["initial_global_assignments"]
    if not isinstance(by_layer, dict) or set(by_layer) != {str(layer) for layer in range(mixture.layers)}:
        raise ConfigError(f'initial_global_assignments must have the keys "0" to "{mixture.layers - 1}"')
    rows = _rows([by_layer[str(layer)] for layer in range(mixture.layers)])
    wanted = ("eplb_initial_mapping", 1, len(rows[0]) - mixture.experts, len(rows[0]))
    if tuple(values[key] for key in _PR41141[:4]) != wanted:
        raise ConfigError(f"{', '.join(_PR41141[:4])} must be {wanted} for these assignments")
    return rows


# --- shapes ------------------------------------------------------------------------------------------------------


def _only(values: Any, keys: Sequence[str]) -> dict[str, Any]:
    if not isinstance(values, dict) or set(values) != set(keys):
        raise ConfigError(f"an object with exactly these keys is wanted: {', '.join(keys)}")
    return values


def _list(values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise ConfigError("a list that is not empty is wanted")
    return values


def _rows(values: Any) -> list[list[Any]]:
    return [_list(row) for row in _list(values)]


FORMATS: dict[str, Format] = {
    "sglang": Format("sglang.json", "SGLang, --init-expert-location", _write_sglang, _read_sglang),
    "vllm-ascend": Format("vllm-ascend.json", "vllm-ascend, expert_map_path", _write_ascend, _read_ascend),
    "vllm-pr49572": Format(
        "vllm-pr49572.json", "vLLM pull request 49572, initial_expert_map_path", _write_pr49572, _read_pr49572, True
    ),
    "vllm-pr41141": Format(
        "vllm-pr41141.jsonl", "vLLM pull request 41141, initial_mapping_path", _write_pr41141, _read_pr41141, True
    ),
}
