"""Records as arrays: what the numbers are made from, and how millions of lines get there.

A records file is read block by block with Arrow's JSON parser into one array per field. Anything that the parser or
the checks dislike is looked for once more with the plain reader, which names line, field and fix.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
import numpy.typing as npt

from selfroute.errors import ConfigError
from selfroute.evaluation.records import Record, read_records
from selfroute.types import Answerer

__all__ = ["BITS", "NUMBERS", "Columns", "columns_of", "read_columns"]

BITS = ("device_correct", "cloud_correct", "correct")
NUMBERS = (
    "score", "device_tokens", "cloud_tokens", "device_prompt_tokens", "cloud_prompt_tokens", "usd", "seconds",
    "attempt_prompt_tokens", "attempt_tokens", "local_prompt_tokens", "local_tokens",
    "cloud_answer_prompt_tokens", "cloud_answer_tokens", "solve_rate", "solve_samples",
)  # fmt: skip
# Fields that a record of an earlier version may lack, and what they then are.
_ABSENT = {"device_prompt_tokens": 0.0, "cloud_prompt_tokens": 0.0, "solve_samples": 0.0, "usd": 0.0, "seconds": 0.0,
           "device_tokens": 0.0, "cloud_tokens": 0.0}  # fmt: skip
_BLOCK_BYTES = 32 << 20
_PARSED_BYTES = 8 << 20  # at once, by one of Arrow's threads; a longer line is left to the plain reader

OnBytes = Callable[[int, int], object]


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Records, one array entry each, in any order.

    Attributes:
        strategies: their names, in the order in which they first occur.
        ids: of the rows, likewise.
        strategy, id: which of them, shape (m,).
        wants: what was decided.
        sent: whether the cloud wrote any of the final answer.
        failed: whether the record holds an error.
        bits: by name of `BITS`: 1 right, 0 wrong, −1 not known; int8.
        numbers: by name of `NUMBERS`: float64, NaN for null.
    """

    strategies: tuple[str, ...]
    ids: tuple[str, ...]
    strategy: npt.NDArray[np.int32]
    id: npt.NDArray[np.int32]
    wants: npt.NDArray[np.bool_]
    sent: npt.NDArray[np.bool_]
    failed: npt.NDArray[np.bool_]
    bits: Mapping[str, npt.NDArray[np.int8]]
    numbers: Mapping[str, npt.NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.strategy)

    @property
    def finished(self) -> npt.NDArray[np.bool_]:
        """Records that need no second try."""
        return ~self.failed & (self.bits["device_correct"] >= 0) & (self.bits["cloud_correct"] >= 0)

    def places(self) -> npt.NDArray[np.int64]:
        """Which record answers row i with strategy s, shape (strategies, rows): the last one, or −1.

        A key that occurs twice is a failed try and a later one.
        """
        table = np.full((len(self.strategies), len(self.ids)), -1, dtype=np.int64)
        table[self.strategy, self.id] = np.arange(len(self))  # numpy assigns in order: the last one stays
        return table


def columns_of(records: Iterable[Record]) -> Columns:
    """Records of this process as arrays."""
    rows = list(records)
    strategies, ids = _Names(), _Names()
    strategy = strategies.numbers([r.strategy for r in rows])
    id = ids.numbers([r.id for r in rows])
    return Columns(
        tuple(strategies.known),
        tuple(ids.known),
        strategy,
        id,
        wants=np.array([r.wants_cloud for r in rows], dtype=bool),
        sent=np.array([r.source != "device" for r in rows], dtype=bool),
        failed=np.array([r.error is not None for r in rows], dtype=bool),
        bits={name: np.array([_bit(getattr(r, name)) for r in rows], dtype=np.int8) for name in BITS},
        numbers={name: np.array([_number(getattr(r, name)) for r in rows], dtype=np.float64) for name in NUMBERS},
    )


def read_columns(path: Path, *, on_progress: OnBytes | None = None) -> Columns:
    """A records file as arrays; 2 million lines take seconds and some hundred megabytes.

    Args:
        on_progress: called with bytes read and bytes in all.

    Raises:
        ConfigError: as `read_records`.
    """
    try:
        found = _joined(path, on_progress)
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}; give a file of `selfroute evaluate`") from None
    if found is None or not _is_sound(found):
        return columns_of(read_records(path))  # says what is wrong, or knows better than the fast reader
    return found


def _is_sound(columns: Columns) -> bool:
    """Whether every value may stand where it does, and no finished row is repeated."""
    numbers = columns.numbers
    if any(np.isinf(values).any() for values in numbers.values()):
        return False
    if any((values < 0).any() for name, values in numbers.items() if name != "score"):
        return False
    if (numbers["solve_rate"] > 1).any():
        return False
    place = columns.places()
    kept = np.zeros(len(columns), dtype=bool)
    kept[place[place >= 0]] = True
    return not columns.finished[~kept].any()


# --- Arrow -----------------------------------------------------------------------------------------------------


def _joined(path: Path, on_progress: OnBytes | None) -> Columns | None:
    """The whole file, or None if a line is not plainly a record."""
    strategies, ids = _Names(), _Names()
    parts: list[dict[str, npt.NDArray[Any]]] = []
    for block in _blocks(path, on_progress):
        part = _parsed(block, strategies, ids)
        if part is None:
            return None
        parts.append(part)
    if not parts:
        return columns_of([])
    whole = {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}
    return Columns(
        tuple(strategies.known),
        tuple(ids.known),
        **{name: whole[name] for name in ("strategy", "id", "wants", "sent", "failed")},
        bits={name: whole[name] for name in BITS},
        numbers={name: whole[name] for name in NUMBERS},
    )


def _blocks(path: Path, on_progress: OnBytes | None) -> Iterator[bytes]:
    """The file in pieces of whole lines."""
    total, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while block := _block(file):
            yield block
            done += len(block)
            if on_progress is not None:
                on_progress(done, total)


def _block(file: BinaryIO) -> bytes:
    block = file.read(_BLOCK_BYTES)
    return block + file.readline() if block and not block.endswith(b"\n") else block


def _parsed(block: bytes, strategies: _Names, ids: _Names) -> dict[str, npt.NDArray[Any]] | None:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.compute as pc  # type: ignore[import-untyped]
    import pyarrow.json as arrow_json  # type: ignore[import-untyped]

    kinds = dict.fromkeys(("strategy", "id", "source", "error"), pa.string())
    kinds |= dict.fromkeys(("wants_cloud", *BITS), pa.bool_()) | dict.fromkeys(NUMBERS, pa.float64())
    try:
        table = arrow_json.read_json(
            io.BytesIO(block),
            read_options=arrow_json.ReadOptions(block_size=_PARSED_BYTES),
            parse_options=arrow_json.ParseOptions(
                explicit_schema=pa.schema(list(kinds.items())), unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid:
        return None
    needed = ("strategy", "id", "source", "wants_cloud")
    if table.num_rows != _lines(block) or any(table[name].null_count for name in needed):
        return None
    known = pa.array(get_args(Answerer))
    if not pc.all(pc.is_in(table["source"], value_set=known)).as_py():
        return None
    if any(pc.any(pc.is_nan(table[name])).as_py() for name in NUMBERS):  # a NaN is no null
        return None
    return {
        "strategy": _coded(table["strategy"], strategies),
        "id": _coded(table["id"], ids),
        "wants": table["wants_cloud"].to_numpy().astype(bool),
        "sent": pc.not_equal(table["source"], "device").to_numpy(),
        "failed": ~table["error"].is_null().to_numpy(),
        **{name: table[name].cast(pa.int8()).fill_null(-1).to_numpy().astype(np.int8) for name in BITS},
        **{name: _floats(table[name], _ABSENT.get(name, np.nan)) for name in NUMBERS},
    }


def _lines(block: bytes) -> int:
    return block.count(b"\n") + (not block.endswith(b"\n"))


def _coded(column: Any, names: _Names) -> npt.NDArray[np.int32]:
    """Strings as numbers of `names`; where all are known already, without making Python strings of them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    coded = column.combine_chunks().dictionary_encode()
    places = pc.index_in(coded.dictionary, value_set=pa.array(list(names.known), pa.string()))
    numbers = names.numbers(coded.dictionary.to_pylist()) if places.null_count else places.to_numpy()
    return np.asarray(numbers[coded.indices.to_numpy()], dtype=np.int32)


def _floats(column: Any, absent: float) -> npt.NDArray[np.float64]:
    return np.asarray(column.fill_null(absent).to_numpy(), dtype=np.float64)


class _Names:
    """Names and their numbers, in the order in which they come."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def numbers(self, names: Sequence[str]) -> npt.NDArray[np.int32]:
        known = self.known
        return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int32)


def _bit(value: bool | None) -> int:
    return -1 if value is None else int(value)


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)
