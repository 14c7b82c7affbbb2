"""The prompt that a model carries: in `selfroute.json` beside its weights, inside a GGUF file, or in a Modelfile."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from selfroute.backends.llama_cpp import CONTEXT_TOKENS, check_file, find_smollm2
from selfroute.errors import ConfigError
from selfroute.prompts import PROMPT_FILE, TrainedPrompt, parse_prompt, read_prompt

__all__ = ["GGUF_KEY", "MODELFILE_MARK", "carried_prompt", "gguf_text", "gguf_window", "smollm2_window"]

GGUF_KEY = "selfroute.prompt"
MODELFILE_MARK = "# selfroute: "  # begins the line of a Modelfile that holds it

_COUNT, _STRING, _ARRAY = 4, 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of GGUF's other types
_LARGEST = 2**24  # bytes of a text that is read


def carried_prompt(place: str | Path) -> TrainedPrompt | None:
    """The prompt that a model was trained with; None for one that carries none.

    Args:
        place: a model folder or that of a training run, a GGUF file, an exported Modelfile, a `selfroute.json`, or a
            repository of the Hugging Face hub.

    Raises:
        ConfigError: it carries one that cannot be read.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        return read_prompt(path / "checkpoint" if (path / "checkpoint").is_dir() else path)
    if not path.is_file():
        return _on_hub(str(place))
    if path.suffix.lower() == ".gguf":
        text = gguf_text(path, GGUF_KEY)
        return None if text is None else parse_prompt(text, str(path))
    if path.suffix == ".json":
        return parse_prompt(_text(path), str(path))
    lines = (line.removeprefix(MODELFILE_MARK) for line in _text(path).splitlines() if line.startswith(MODELFILE_MARK))
    found = next(lines, None)
    return None if found is None else parse_prompt(found, str(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read '{path}': {error}") from None


def _on_hub(repository: str) -> TrainedPrompt | None:
    """That of a repository, from the hub's cache or the hub; None where neither is within reach or has one."""
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        return None
    try:
        from huggingface_hub import hf_hub_download

        file = Path(hf_hub_download(repository, PROMPT_FILE))
    except Exception:  # no library, no connection, no such file: the model itself says what is wrong
        return None
    return read_prompt(file.parent)


# --- GGUF ----------------------------------------------------------------------------------------------------------


def gguf_text(path: Path, key: str) -> str | None:
    """The text that stands under a key in a GGUF file's head; None if there is none.

    Reads on until the key comes, and no weights, so that a gateway needs neither the package gguf nor numpy for it.

    Raises:
        ConfigError: the file is no GGUF, or its head is damaged.
    """
    found = _first(path, lambda name, value: name == key and isinstance(value, str))
    return None if found is None else str(found)


def gguf_window(path: str | Path, *, context_tokens: int = CONTEXT_TOKENS) -> int:
    """Tokens that a slot of llama.cpp holds: what it is given, or the window of the model in the file if that is less.

    Raises:
        ConfigError: as `gguf_text`.
    """
    own = _first(Path(path), lambda name, value: name.endswith(".context_length") and isinstance(value, int))
    return context_tokens if own is None else min(context_tokens, int(own))


def smollm2_window() -> int:
    """As `gguf_window`, of SmolLM2.

    Raises:
        ConfigError: as `find_smollm2`.
    """
    return gguf_window(find_smollm2())


def _first(path: Path, is_it: Callable[[str, str | int], bool]) -> str | int | None:
    check_file(path)
    try:
        with path.open("rb") as file:
            return next((value for name, value in _entries(file) if is_it(name, value)), None)
    except (struct.error, KeyError, UnicodeDecodeError, OSError, EOFError) as error:
        raise ConfigError(f"the head of '{path}' is damaged ({error}); is the file whole?") from None


def _entries(file: BinaryIO) -> Iterator[tuple[str, str | int]]:
    """The entries of a head that are texts or counts of 32 bits."""
    file.seek(16)  # behind magic, version and the count of tensors
    for _ in range(_number(file, "<Q")):
        key, kind = _string(file).decode(), _number(file, "<I")
        if kind == _STRING:
            yield key, _string(file).decode(errors="replace")
        elif kind == _COUNT:
            yield key, _number(file, "<I")
        elif kind == _ARRAY:
            _skip_array(file)
        else:
            file.seek(_SIZES[kind], 1)


def _skip_array(file: BinaryIO) -> None:
    kind, count = _number(file, "<I"), _number(file, "<Q")
    if kind != _STRING:
        file.seek(_SIZES[kind] * count, 1)
        return
    for _ in range(count):
        file.seek(_number(file, "<Q"), 1)


def _string(file: BinaryIO) -> bytes:
    size = _number(file, "<Q")
    if size > _LARGEST:
        raise EOFError(f"a text of {size} bytes")
    return file.read(size)


def _number(file: BinaryIO, form: str) -> int:
    (number,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return int(number)
