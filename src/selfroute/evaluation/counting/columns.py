"""Records as arrays: what the numbers are made from, and how millions of lines get there.

A records file is read block by block with Arrow's JSON parser into one array per field. Anything that the parser or
the checks dislike is looked for once more with the plain reader, which names line, field and fix.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from selfroute.errors import ConfigError
from selfroute.evaluation.records import Record, Setting, read_records
from selfroute.types import Answerer

__all__ = ["NUMBERS", "QUALITIES", "Columns", "columns_of", "read_columns"]

QUALITIES = ("device_correct", "cloud_correct", "correct")
_OF_EVERY = (
    "score", "device_tokens", "cloud_tokens", "device_prompt_tokens", "cloud_prompt_tokens", "usd", "seconds",
    "attempt_prompt_tokens", "attempt_tokens", "local_prompt_tokens", "local_tokens",
    "cloud_answer_prompt_tokens", "cloud_answer_tokens", "solve_rate", "solve_samples",
)  # fmt: skip
_OF_SOME = ("cloud_calls", "up_bytes", "down_bytes", "device_layer_tokens", "cloud_layer_tokens", "void_tokens")
_OF_PRIVATE = ("values_leaked", "values_lost")  # NaN in a record of a row that names no private values
NUMBERS = (*_OF_EVERY, *_OF_SOME, *_OF_PRIVATE)
# Fields that a record may lack, or one of an earlier version, and what they then are.
_ABSENT = dict.fromkeys(
    ("device_prompt_tokens", "cloud_prompt_tokens", "solve_samples", "usd", "seconds", "device_tokens", "cloud_tokens",
     *_OF_SOME), 0.0,
)  # fmt: skip
_BLOCK_BYTES = 32 << 20
_PARSED_BYTES = 8 << 20  # at once, by one of Arrow's threads; a longer line is left to the plain reader

OnBytes = Callable[[int, int], object]
N = TypeVar("N")


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Records, one array entry each, in any order.

    Attributes:
        settings: strategies, each at the points that it was run at, in the order in which they first occur.
        ids: of the rows, likewise.
        setting, id: which of them, shape (m,).
        wants: what was decided.
        sent: whether the cloud wrote any of the final answer.
        joint: whether both sides may write one answer.
        failed: whether the record holds an error.
        oracle: whether its strategy decides by what nobody can know in time.
        qualities: by name of `QUALITIES`: float64 in [0, 1], NaN where it is not known.
        numbers: by name of `NUMBERS`: float64, NaN for null. Those that not every strategy or task has may be missing,
            and are then 0, or of private values null, in every record.
    """

    settings: tuple[Setting, ...]
    ids: tuple[str, ...]
    setting: npt.NDArray[np.int32]
    id: npt.NDArray[np.int32]
    wants: npt.NDArray[np.bool_]
    sent: npt.NDArray[np.bool_]
    joint: npt.NDArray[np.bool_]
    failed: npt.NDArray[np.bool_]
    oracle: npt.NDArray[np.bool_]
    qualities: Mapping[str, npt.NDArray[np.float64]]
    numbers: Mapping[str, npt.NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.setting)

    @property
    def graded(self) -> npt.NDArray[np.bool_]:
        """Records that hold a verdict on both sides, and where both may write one answer, on that."""
        known = {name: ~np.isnan(values) for name, values in self.qualities.items()}
        return known["device_correct"] & known["cloud_correct"] & (known["correct"] | ~self.joint)

    @property
    def finished(self) -> npt.NDArray[np.bool_]:
        """Records that need no second try."""
        return ~self.failed & self.graded

    def places(self) -> npt.NDArray[np.int64]:
        """Which record answers row i at setting s, shape (settings, rows): the last one, or −1.

        A key that occurs twice is a failed try and a later one.
        """
        table = np.full((len(self.settings), len(self.ids)), -1, dtype=np.int64)
        table[self.setting, self.id] = np.arange(len(self))  # numpy assigns in order: the last one stays
        return table


def columns_of(records: Iterable[Record]) -> Columns:
    """Records of this process as arrays."""
    rows = list(records)
    settings, ids = _Known[Setting](), _Known[str]()
    setting = settings.numbers([(r.strategy, r.point) for r in rows])
    id = ids.numbers([r.id for r in rows])
    numbers = {name: np.array([_number(getattr(r, name)) for r in rows], dtype=np.float64) for name in NUMBERS}
    return Columns(
        tuple(settings.known),
        tuple(ids.known),
        setting,
        id,
        wants=np.array([r.wants_cloud for r in rows], dtype=bool),
        sent=np.array([r.source != "device" for r in rows], dtype=bool),
        joint=np.array([r.joint for r in rows], dtype=bool),
        failed=np.array([r.error is not None for r in rows], dtype=bool),
        oracle=np.array([r.oracle for r in rows], dtype=bool),
        qualities={name: np.array([_number(getattr(r, name)) for r in rows], dtype=np.float64) for name in QUALITIES},
        numbers={name: values for name, values in numbers.items() if name in _OF_EVERY or _tells(name, values)},
    )


def _tells(name: str, values: npt.NDArray[np.float64]) -> bool:
    return bool(values.any() if name in _OF_SOME else (~np.isnan(values)).any())


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
    rates = (numbers["solve_rate"], *columns.qualities.values())
    if any((values > 1).any() or (values < 0).any() for values in rates):
        return False
    place = columns.places()
    kept = np.zeros(len(columns), dtype=bool)
    kept[place[place >= 0]] = True
    return not columns.finished[~kept].any()


# --- Arrow -----------------------------------------------------------------------------------------------------


def _joined(path: Path, on_progress: OnBytes | None) -> Columns | None:
    """The whole file, or None if a line is not plainly a record."""
    settings, ids = _Known[Setting](), _Known[str]()
    parts: list[dict[str, npt.NDArray[Any]]] = []
    for block in _blocks(path, on_progress):
        part = _parsed(block, settings, ids)
        if part is None:
            return None
        parts.append(part)
    if not parts:
        return columns_of([])
    sizes = [len(part["id"]) for part in parts]
    whole = {name: _chained(name, parts, sizes) for name in {name: None for part in parts for name in part}}
    return Columns(
        tuple(settings.known),
        tuple(ids.known),
        **{name: whole[name] for name in ("setting", "id", "wants", "sent", "joint", "failed", "oracle")},
        qualities={name: whole[name] for name in QUALITIES},
        numbers={name: whole[name] for name in NUMBERS if name in whole},
    )


def _chained(name: str, parts: Sequence[dict[str, npt.NDArray[Any]]], sizes: Sequence[int]) -> npt.NDArray[Any]:
    """One field of all blocks, taken out of them; what an absent one is for a block without it."""
    absent = _ABSENT.get(name, np.nan)
    return np.concatenate(
        [part.pop(name) if name in part else np.full(size, absent) for part, size in zip(parts, sizes, strict=True)]
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


def _parsed(block: bytes, settings: _Known[Setting], ids: _Known[str]) -> dict[str, npt.NDArray[Any]] | None:
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    table = _table(block)
    if table is None:
        return None
    optional = {name: table[name] for name in NUMBERS if name not in _OF_EVERY}
    optional = {name: values for name, values in optional.items() if values.null_count < table.num_rows}
    return {
        "setting": _settings(table["strategy"], table["point"], settings),
        "id": _coded(table["id"], ids),
        "wants": table["wants_cloud"].to_numpy().astype(bool),
        "sent": pc.not_equal(table["source"], "device").to_numpy(),
        "joint": table["joint"].fill_null(False).to_numpy().astype(bool),
        "failed": ~table["error"].is_null().to_numpy(),
        "oracle": table["oracle"].fill_null(False).to_numpy().astype(bool),
        **{name: _floats(table[name].cast("float64"), np.nan) for name in QUALITIES},
        **{name: _floats(table[name], _ABSENT.get(name, np.nan)) for name in _OF_EVERY},
        **{name: _floats(values, _ABSENT.get(name, np.nan)) for name, values in optional.items()},
    }


# Of a key: in a text its last quote would be behind a backslash.
_VERDICT = re.compile(rb'("(?:device_|cloud_)?correct":\s*)(true|false)')
_AS_NUMBER = {b"true": b"1.0", b"false": b"0.0"}


def _table(block: bytes) -> Any:
    """Lines as Arrow's table; None if one of them is not plainly a record."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = _read(block, pa.bool_())
    if table is None:  # some verdicts are numbers, perhaps all of them
        table = _read(_VERDICT.sub(lambda found: found[1] + _AS_NUMBER[found[2]], block), pa.float64())
    needed = ("strategy", "id", "source", "wants_cloud")
    if table is None or table.num_rows != _lines(block) or any(table[name].null_count for name in needed):
        return None
    if not pc.all(pc.is_in(table["source"], value_set=pa.array(get_args(Answerer)))).as_py():
        return None
    if pc.any(pc.is_inf(table["point"])).as_py():
        return None
    numbers = [table[name] for name in table.column_names if pa.types.is_floating(table[name].type)]
    return None if any(pc.any(pc.is_nan(values)).as_py() for values in numbers) else table  # a NaN is no null


def _read(block: bytes, verdict: Any) -> Any:
    """Lines as Arrow parses them, with verdicts of one type; None if they are not of these types."""
    import pyarrow as pa
    import pyarrow.json as arrow_json  # type: ignore[import-untyped]

    kinds = dict.fromkeys(("strategy", "id", "source", "error"), pa.string())
    kinds |= dict.fromkeys(("wants_cloud", "joint", "oracle"), pa.bool_()) | dict.fromkeys(QUALITIES, verdict)
    kinds |= dict.fromkeys(("point", *NUMBERS), pa.float64())
    try:
        return arrow_json.read_json(
            io.BytesIO(block),
            read_options=arrow_json.ReadOptions(block_size=_PARSED_BYTES),
            parse_options=arrow_json.ParseOptions(
                explicit_schema=pa.schema(list(kinds.items())), unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid:
        return None


def _lines(block: bytes) -> int:
    return block.count(b"\n") + (not block.endswith(b"\n"))


def _settings(strategies: Any, points: Any, known: _Known[Setting]) -> npt.NDArray[np.int32]:
    """Settings as their numbers."""
    coded = strategies.combine_chunks().dictionary_encode()
    names, strategy = coded.dictionary.to_pylist(), coded.indices.to_numpy()
    if points.null_count == len(points):
        return np.asarray(known.numbers([(name, None) for name in names])[strategy])
    pairs = np.stack([strategy.astype(np.float64), _floats(points, np.inf)])
    found, first, place = np.unique(pairs, axis=1, return_index=True, return_inverse=True)
    made: list[Setting] = [(names[int(i)], None if np.isinf(point) else float(point)) for i, point in found.T]
    known.numbers([made[number] for number in np.argsort(first)])  # in the order in which they come
    return np.asarray(known.numbers(made)[place.reshape(-1)])


def _coded(column: Any, known: _Known[str]) -> npt.NDArray[np.int32]:
    """Strings as their numbers; where all are known already, without making Python strings of them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    coded = column.combine_chunks().dictionary_encode()
    places = pc.index_in(coded.dictionary, value_set=pa.array(list(known.known), pa.string()))
    numbers = known.numbers(coded.dictionary.to_pylist()) if places.null_count else places.to_numpy()
    return np.asarray(numbers[coded.indices.to_numpy()], dtype=np.int32)


def _floats(column: Any, absent: float) -> npt.NDArray[np.float64]:
    return np.asarray(column.fill_null(absent).to_numpy(), dtype=np.float64)


class _Known(Generic[N]):
    """Names and their numbers, in the order in which they come."""

    def __init__(self) -> None:
        self.known: dict[N, int] = {}

    def numbers(self, names: Sequence[N]) -> npt.NDArray[np.int32]:
        known = self.known
        return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int32)


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)
