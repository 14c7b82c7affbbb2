"""Reading data sets: local files first, the hub otherwise, the same records either way. Internal to `selfroute.tasks`.

Where a task named T finds its data, first match wins: its `path=`; the folder `$SELFROUTE_DATA_DIR/T`, if it
exists; the Hugging Face hub.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfroute.errors import ConfigError, TaskError
from selfroute.recordings import is_plain_lines, objects_of

__all__ = ["DATA_DIR", "SPLITS", "Record", "Source", "fraction", "own_id", "read_file"]

SPLITS = ("train", "validation", "test")
DATA_DIR = "SELFROUTE_DATA_DIR"
_SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it lies in a file.

    Attributes:
        where: file and line, for messages.
        name: file stem and line; identifies the record within its data set.
        values: the columns.
    """

    where: str
    name: str
    values: Mapping[str, Any]

    def text(self, field: str) -> str:
        """A field as text without outer spaces; numbers and booleans are spelt as JSON spells them.

        Raises:
            TaskError: the field is missing, empty or neither text nor a number.
        """
        value = self.values.get(field)
        if isinstance(value, (bool, int, float)):
            return json.dumps(value)
        if isinstance(value, str) and value.strip():
            return value.strip()
        problem = f"is {str(value)[:40]!r}" if field in self.values else f"is missing; it has {', '.join(self.values)}"
        raise TaskError(f"{self.where}: field '{field}' {problem[:200]}; give it text or name another field")


def fraction(text: str, *, seed: int) -> float:
    """A number in [0, 1) that depends on `text` and `seed` alone: equal questions always fall on the same side."""
    digest = hashlib.sha256(f"{seed}:{text.strip()}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def local_path(name: str, path: str | Path | None) -> Path | None:
    """Where a task's data lies on this machine; None sends it to the hub.

    Raises:
        ConfigError: `path` is given and does not exist.
    """
    if path is not None:
        if not Path(path).exists():
            raise ConfigError(
                f"{name}: no file or folder '{path}'; name a .jsonl or .parquet file, or a folder of them"
            )
        return Path(path)
    folder = Path(os.environ.get(DATA_DIR) or ".") / name
    return folder if os.environ.get(DATA_DIR) and folder.is_dir() else None


def split_files(folder: Path, split: str) -> list[Path]:
    """Files of one split: `train.jsonl`, `train-00000-of-00001.parquet` and the like.

    Looked for in the folder, then in `main` and `data`, then in every folder right below, as copies of hub data
    sets lie. An empty list if there is none.
    """
    below = sorted(child for child in folder.iterdir() if child.is_dir())
    usual = [folder, folder / "main", folder / "data"]
    for group in [*([place] for place in usual if place.is_dir()), below]:
        if files := [file for place in group for file in sorted(place.iterdir()) if _is_part(file, split)]:
            return files
    return []


def _is_part(file: Path, split: str) -> bool:
    return file.suffix in _SUFFIXES and (file.stem == split or file.stem.startswith(f"{split}-"))


def own_id(record: Record, key: str, seen: dict[str, str]) -> str:
    """The id that a row has in its file, else the name of its line.

    Args:
        seen: ids of the rows before, with where they stand; this one is added.

    Raises:
        TaskError: the id stands at another row too.
    """
    found = str(record.values.get(key) or record.name)
    if seen.setdefault(found, record.where) != record.where:
        raise TaskError(f"{record.where}: {key} '{found}' stands at {seen[found]} too; give each row one of its own")
    return found


def read_file(file: Path) -> Iterator[Record]:
    """Records of a JSONL or parquet file, or of one JSON array, in order.

    Raises:
        ConfigError: another kind of file, or one that is not what its name says.
        TaskError: a line that is not a JSON object.
    """
    if file.suffix == ".parquet":
        return _read_parquet(file)
    if file.suffix in (".jsonl", ".json"):
        return _read_jsonl(file) if is_plain_lines(file) else _read_values(file)
    raise ConfigError(f"cannot read '{file}': give a .jsonl, .json or .parquet file")


def _read_values(file: Path) -> Iterator[Record]:
    for number, values in objects_of(file):
        where = f"{file}:{number}"
        if not isinstance(values, dict):
            raise TaskError(f"{where}: a {type(values).__name__}, not an object; write one object per row")
        yield Record(where, f"{file.stem}-{number}", values)


def _read_jsonl(file: Path) -> Iterator[Record]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{file}:{number}"
            # Bytes decoded here, so that a bad one is reported with its line.
            try:
                values = json.loads(text) if (text := line.decode("utf-8-sig").strip()) else None
            except (ValueError, RecursionError) as error:
                raise TaskError(f"{where}: not JSON ({str(error)[:80]}); write one object per line") from None
            if not text:
                continue
            if not isinstance(values, dict):
                raise TaskError(f"{where}: a {type(values).__name__}, not an object; write one object per line")
            yield Record(where, f"{file.stem}-{number}", values)


def _read_parquet(file: Path) -> Iterator[Record]:
    try:
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigError("reading parquet needs the 'datasets' package: pip install 'selfroute[eval]'") from None
    try:
        rows = parquet.read_table(file).to_pylist()
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read '{file}' as parquet: {str(error).splitlines()[0]}") from None
    for number, values in enumerate(rows, start=1):
        yield Record(f"{file}: row {number}", f"{file.stem}-{number}", values)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a task's records come from and how they are divided.

    A folder or hub data set has files per split; where it has none for "validation", `validation_share` of the train
    records is held out. One file alone is divided among all three. Held-out records are drawn by a hash of the
    question, so that order and duplicates cannot put one question on both sides.

    Attributes:
        name: of the task.
        path: local file or folder; None looks in `$SELFROUTE_DATA_DIR` and then on the hub.
        repository: id on the hub; None if the task is not there.
        config: its configuration on the hub.
        question_field: the column that tells questions apart.
        validation_share: fraction of "validation", of the train records or of a single file.
        test_share: fraction of "test", of a single file.
        seed: of the draw.
        limit: most records per split, the first ones; None for all.
        hub_splits: names of our splits on the hub, where they differ.
        one_split: the data has a test split alone, on the hub and in a folder; it is divided as a single file is.
    """

    name: str
    path: str | Path | None
    repository: str | None
    config: str | None
    question_field: str
    validation_share: float
    test_share: float
    seed: int
    limit: int | None
    hub_splits: Mapping[str, str] = field(default_factory=dict)
    one_split: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: shares or limit outside their range, or a path that does not exist.
        """
        for key in ("validation_share", "test_share"):
            share = getattr(self, key)
            if not (0 <= share < 1 or (self.one_split and share == 1)):
                raise ConfigError(f"{self.name}: {key} must be in [0, 1), not {share}")
        if self.validation_share + self.test_share >= (1 + 1e-9 if self.one_split else 1):
            raise ConfigError(f"{self.name}: validation_share + test_share must be below 1, or no train row is left")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"{self.name}: limit must be at least 1, not {self.limit}")
        local_path(self.name, self.path)

    def records(self, split: str) -> list[Record]:
        """The records of one split, in the order of the files.

        Raises:
            ConfigError: unknown split, no data, or a split without a record.
            TaskError: a broken line, or one without a question.
        """
        if split not in SPLITS:
            raise ConfigError(f"unknown split '{split}' of task '{self.name}'; use one of {', '.join(SPLITS)}")
        records = list(itertools.islice(self._all(split), self.limit))
        if not records:
            place = local_path(self.name, self.path) or self.repository
            raise ConfigError(
                f"{self.name}: split '{split}' of '{place}' is empty; add rows to it or choose another split or share"
            )
        return records

    def _all(self, split: str) -> Iterator[Record]:
        path = local_path(self.name, self.path)
        if self.one_split and (path is None or path.is_dir()):
            return self._divided(split, self._whole(path))
        if path is None:
            return self._held_out(split, self._hub("test" if split == "test" else "train"))
        if path.is_file():
            return self._divided(split, read_file(path))
        if files := split_files(path, split):
            records = (record for file in files for record in read_file(file))
            has_validation = bool(split_files(path, "validation"))
            return records if has_validation else self._held_out(split, records)
        if split == "validation" and (files := split_files(path, "train")):
            return self._held_out(split, (record for file in files for record in read_file(file)))
        raise ConfigError(f"{self.name}: no {split}.jsonl or {split}.parquet in '{path}'; add it or give a single file")

    def _held_out(self, split: str, records: Iterator[Record]) -> Iterator[Record]:
        if split == "test":
            return records
        wanted = split == "validation"
        return (record for record in records if (self._draw(record) < self.validation_share) is wanted)

    def _divided(self, split: str, records: Iterator[Record]) -> Iterator[Record]:
        below = self.validation_share + self.test_share
        low, high = {"validation": (0, self.validation_share), "test": (self.validation_share, below)}.get(
            split, (below, 1)
        )
        return (record for record in records if low <= self._draw(record) < high)

    def _draw(self, record: Record) -> float:
        return fraction(record.text(self.question_field), seed=self.seed)

    def _whole(self, folder: Path | None) -> Iterator[Record]:
        if folder is None:
            return self._hub("test")
        files = split_files(folder, "test")
        if not files:
            raise ConfigError(f"{self.name}: no test.jsonl or test.parquet in '{folder}'; add it or give a single file")
        return (record for file in files for record in read_file(file))

    def _hub(self, split: str) -> Iterator[Record]:
        if self.repository is None:
            raise ConfigError(
                f"{self.name}: no data; give path= a .jsonl or .parquet file, or a folder with {split}.jsonl"
            )
        return hub_records(
            self.name, repository=self.repository, config=self.config, split=self.hub_splits.get(split, split)
        )


def hub_records(name: str, *, repository: str, config: str | None, split: str) -> Iterator[Record]:
    """Records of a data set on the Hugging Face hub, which is cached on disk by `datasets`.

    Raises:
        ConfigError: `datasets` is not installed, or the hub cannot be reached and nothing is cached.
    """
    ways = f"give path= a folder with {split}.jsonl, or set {DATA_DIR} to the folder that holds {name}/"
    try:
        from datasets import load_dataset
    except ImportError:
        raise ConfigError(f"{name} from the hub needs pip install 'selfroute[eval]'; or {ways}") from None
    try:
        rows = load_dataset(repository, config, split=split)
    except Exception as error:  # the hub's client raises a dozen unrelated kinds; all mean "no data"
        cause = (str(error).splitlines() or [""])[0][:160]
        raise ConfigError(f"cannot load {repository} from the hub ({type(error).__name__}: {cause}); {ways}") from error
    for number, values in enumerate(rows, start=1):
        yield Record(f"{repository} {split}, row {number}", f"{split}-{number}", values)
